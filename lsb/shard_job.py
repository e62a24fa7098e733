"""One shard from end to end: read, translate, score, encode, write, commit.

    pending records ─ read & check ─> batches ─ translate ─> objects ─> rows ─> commit, in parts

An image's fault becomes its row; whatever else goes wrong is raised and leaves the committed parts as they are.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from lsb.errors import ImageError, LsbError, NotFoundError, StoreError, UsageError
from lsb.images import decode, encode, pixels_sha256
from lsb.progress import NoProgress, Progress
from lsb.records import Action, sha256
from lsb.redaction import redact
from lsb.rows import failed_row, ok_row, quarantined_row
from lsb.sharding import Run, is_due, open_log, read_plan
from lsb.storage import layout
from lsb.storage.chain import Link
from lsb.storage.layout import new_attempt
from lsb.storage.schemas import FEATURES, MANIFEST, write_table
from lsb.storage.store import Store
from lsb.worker import Worker

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardOutcome:
    """What became of a shard by the end of one call."""

    shard: str
    finished: bool  # every planned record of the shard has a row
    counts: dict[str, int]  # committed rows of the shard by status
    translated: int  # images that this call translated
    commits: int  # log entries that this call won


@dataclass(frozen=True)
class _Picture:
    """A readable source: one image, and every planned record that has these bytes."""

    members: list[dict[str, Any]]
    digest: str
    read: dict[str, Any]  # what is now known of the source, by the manifest's column names
    image: Image.Image


@dataclass
class _Attempt:
    """What this call has made so far. Everything it writes lies in its own folder."""

    store: Store
    run: Run
    shard: str
    worker: Worker
    feature_limit: str  # the largest record id whose features are kept
    chosen: Mapping[str, int] | None = None  # see `run_shard`
    id: str = field(default_factory=new_attempt)
    part: int = 0
    head: Link | None = None  # the last entry of the shard's log that this call has seen
    done: dict[str, str] = field(default_factory=dict)  # record id -> committed status
    tries: dict[str, int] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)  # made, not committed
    objects: dict[str, str] = field(default_factory=dict)  # output key -> SHA-256
    features: dict[str, Any] = field(default_factory=dict)  # record id -> vector
    translated: int = 0
    commits: int = 0

    def refresh(self) -> None:
        """Start from what is committed; of our own rows only those that are still due stay."""
        log = open_log(self.store, self.run, self.shard)
        history = log.history()
        self.head = history.head
        if self.id in history.condemned:
            self._start_anew()
        table = log.rows(history.commits, columns=["record_id", "status", "tries"])
        records = table["record_id"].to_pylist()
        self.done = dict(zip(records, table["status"].to_pylist(), strict=True))
        self.tries = dict(zip(records, table["tries"].to_pylist(), strict=True))
        self.rows = [row for row in self.rows if self.due(row["record_id"])]

    def due(self, record: str) -> bool:
        """Whether this call is to make a row for the record, by what is known of the log."""
        state = self.done.get(record)
        if self.chosen is None:
            return state is None
        row = None if state is None else {"status": state, "tries": self.tries[record]}
        return record in self.chosen and is_due(row, self.chosen[record])

    def read(self, members: list[dict[str, Any]]) -> _Picture | None:
        """The image of records with equal bytes; None, and rows that say why, if none of them can be read."""
        rows = []
        for index, planned in enumerate(members):
            try:
                data = self.worker.sources.read(planned["key"])
            except StoreError as error:
                if error.transient:
                    raise
                code = "source_missing" if isinstance(error, NotFoundError) else "source_unreadable"
                rows.append(self._failed(planned, code, str(error.__cause__ or error)))
                continue
            digest = sha256(data)
            if digest != (planned["sha256"] or digest) or len(data) != planned["bytes"]:
                detail = "the file's bytes are not the ones that were planned; a new run takes the new ones"
                rows.append(self._failed(planned, "source_changed", detail))
                continue
            try:
                image, info = decode(data)
            except ImageError as error:
                rows.append(self._quarantined(planned, digest, error))
                continue
            self.rows += rows
            read = {
                "source_sha256": digest,
                "source_bytes": len(data),
                "source_format": info.format,
                "source_mode": info.mode,
                "source_width": info.width,
                "source_height": info.height,
                "source_orientation": info.orientation,
            }
            return _Picture(members[index:], digest, read, image)
        self.rows += rows
        return None

    def work(self, pictures: list[_Picture]) -> None:
        """Translate a batch, one by one if that fails; write what came out and make its rows."""
        started = datetime.now(UTC)
        outputs = self._translate(pictures)
        made = [(picture, output) for picture, output in zip(pictures, outputs, strict=True) if output is not None]
        scores = self._score(made)
        image_format = self.run.transform["encoder"]
        for (picture, output), score in zip(made, scores, strict=True):
            data = encode(output, image_format)
            # A lossy file's pixels are the ones that come out of it.
            pixels = decode(data)[0] if image_format == "jpeg" else output
            leader = picture.members[0]["record_id"]
            key = layout.output_file(self.run.id, self.shard, self.id, leader, image_format)
            self.store.write(key, data)
            self.objects[key] = sha256(data)
            self.translated += 1
            result = {
                **picture.read,
                "started": started,
                "finished": datetime.now(UTC),
                "output_key": key,
                "output_sha256": self.objects[key],
                "pixels_sha256": pixels_sha256(pixels),
                "output_bytes": len(data),
                "output_format": image_format,
                "output_width": pixels.width,
                "output_height": pixels.height,
                "scores": self._scores(output, score),
            }
            for planned in picture.members:
                self.rows.append(ok_row(self.run, planned, self._evidence(planned), result))
                if score is not None and planned["record_id"] <= self.feature_limit:
                    self.features[planned["record_id"]] = score.features

    def commit(self) -> None:
        """Make all rows visible in one step, behind whatever others committed meanwhile."""
        log = open_log(self.store, self.run, self.shard)
        while self.rows:
            entry = log.append(self.head, attempt=self.id, **self._write_part())
            if entry is not None:
                self.head = entry.link
                self.done |= {row["record_id"]: row["status"] for row in self.rows}
                self.tries |= {row["record_id"]: row["tries"] for row in self.rows}
                self.rows = []
                self.commits += 1
            else:
                logger.info("shard %s: another worker committed first; going on from there", self.shard)
                self.refresh()
        self.objects.clear()
        self.features.clear()

    def _start_anew(self) -> None:
        # Clean-up took this attempt for dead: what it has not committed may be gone, and it may not be cited.
        logger.warning("shard %s: attempt %s was condemned; its uncommitted images are made again", self.shard, self.id)
        self.id, self.part = new_attempt(), 0
        self.rows = []
        self.objects.clear()
        self.features.clear()

    def _write_part(self) -> dict[str, Any]:
        files = {}

        def put(key: str, data: bytes) -> str:
            self.store.write(key, data)
            name = key.removeprefix(layout.shard_folder(self.run.id, self.shard) + "/")
            files[name] = sha256(data)
            return name

        kept = sorted(row["record_id"] for row in self.rows if row["record_id"] in self.features)
        features = None
        if kept:
            table = FEATURES.table([{"record_id": record, "features": self.features[record]} for record in kept])
            key = layout.features_file(self.run.id, self.shard, self.id, self.part)
            features = put(key, write_table(table, FEATURES))
        self.rows.sort(key=lambda row: row["record_id"])
        key = layout.rows_file(self.run.id, self.shard, self.id, self.part)
        rows = put(key, write_table(MANIFEST.table(self.rows), MANIFEST))
        for key in {row["output_key"] for row in self.rows if row.get("output_key")}:
            files[key.removeprefix(layout.shard_folder(self.run.id, self.shard) + "/")] = self.objects[key]
        self.part += 1
        counts = Counter(row["status"] for row in self.rows)
        return {"files": files, "rows": rows, "features": features, "counts": counts}

    def _translate(self, pictures: list[_Picture]) -> list[Image.Image | None]:
        try:
            images, digests = [picture.image for picture in pictures], [picture.digest for picture in pictures]
            outputs = self.worker.translator.translate(images, digests)
            if len(outputs) != len(pictures):
                raise ValueError(f"{len(outputs)} outputs for {len(pictures)} images")
        except Exception as error:  # one image must not take the others with it
            if isinstance(error, LsbError) and error.transient:
                raise
            if len(pictures) > 1:
                logger.warning("shard %s: a batch failed, its images run one by one: %s", self.shard, error)
                return [self._translate([picture])[0] for picture in pictures]
            detail = f"{type(error).__name__}: {error}"
            for planned in pictures[0].members:
                self.rows.append(self._failed(planned, "translate_error", detail, pictures[0].read))
            return [None]
        return list(outputs)

    def _score(self, made: list[tuple[_Picture, Image.Image]]) -> Sequence[Any]:
        if self.worker.scorer is None or not made:
            return [None] * len(made)
        truths = [self.worker.truth_of(picture.members[0]["key"]) for picture, _ in made]
        sources = [picture.image for picture, _ in made]
        try:
            return self.worker.scorer.score(sources, [output for _, output in made], truths)
        except Exception as error:  # noqa: BLE001  an output without scores is still an output
            if len(made) > 1:
                return [self._score([one])[0] for one in made]
            logger.warning("no scores for %s: %s", made[0][0].members[0]["key"], redact(str(error)))
            return [None]

    def _scores(self, output: Image.Image, score: Any) -> list[tuple[str, float]]:
        # Known without any network, so that an empty picture is flagged in every run.
        contrast = float(np.asarray(output, np.float32).std() / 255)
        return sorted({**(score.values if score else {}), "output_contrast": contrast}.items())

    def _evidence(self, planned: dict[str, Any]) -> dict[str, Any]:
        tries = self.tries.get(planned["record_id"], 0) + 1
        return {"shard": self.shard, "attempt": self.id, "tries": tries, **self.worker.execution}

    def _failed(
        self, planned: dict[str, Any], code: str, detail: str, read: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        return failed_row(self.run, planned, self._evidence(planned), code, redact(detail), read or {})

    def _quarantined(self, planned: dict[str, Any], digest: str, error: ImageError) -> dict[str, Any]:
        return quarantined_row(
            self.run, planned, self._evidence(planned), error.code, redact(error.message), {"source_sha256": digest}
        )


def run_shard(
    store: Store,
    run: Run,
    shard: str,
    worker: Worker,
    *,
    chosen: Mapping[str, int] | None = None,
    commit_seconds: float = 120.0,
    progress: Progress = NoProgress(),
    stop: Callable[[], bool] = lambda: False,
) -> ShardOutcome:
    """Do what is left of a shard, committing every `commit_seconds` and at the end.

    `stop` is asked between batches; once it says yes, what is made is committed and the call returns unfinished.
    Any number of calls may work on one shard at once: one wins each commit, the others go on from there.

    Args:
        chosen: None does every record that has no row yet. Otherwise exactly these records, each with the number of
            tries known when it was chosen: those without a row, and those whose `failed` row is not a later try.
            Final rows stay whatever is chosen.

    Raises:
        UsageError: the run has no such shard.
        TamperedError: the shard's log or plan is not what was written; nothing is written then.
        StoreError: the store or a transient fault of the sources; what is committed stays.
    """
    if shard not in run.shards():
        raise UsageError(f"run {run.id} has no shard {shard!r}; it has {run.plan['shards']}, from 00000")
    plan = read_plan(store, run)
    usable = plan.filter(pc.not_equal(plan["action"], Action.QUARANTINE.value))["record_id"]
    limit = usable[min(worker.feature_sample, len(usable)) - 1].as_py()
    planned = plan.filter(pc.equal(plan["shard"], shard)).to_pylist()
    attempt = _Attempt(store, run, shard, worker, limit, chosen)
    attempt.refresh()
    step = f"shard {shard}"
    todo = [row["record_id"] for row in planned if attempt.due(row["record_id"])]
    progress.start(step, len(todo))
    seen = 0
    committed = time.monotonic()
    stopped = False
    # More than once only where the attempt was condemned meanwhile and lost what it had made.
    while not stopped and any(map(attempt.due, todo)):
        for batch in _batches(attempt, planned, worker.translator.batch):
            if batch:
                attempt.work(batch)
            dealt_with = len(todo) - sum(map(attempt.due, todo)) + len(attempt.rows)
            progress.advance(step, max(0, dealt_with - seen))
            seen = max(seen, dealt_with)
            stopped = stop()
            if stopped:
                break
            if time.monotonic() - committed >= commit_seconds:
                attempt.commit()
                committed = time.monotonic()
        attempt.commit()
    progress.finish(step)
    counts = Counter(attempt.done.values())
    return ShardOutcome(
        shard=shard,
        finished=all(row["record_id"] in attempt.done for row in planned),
        counts=dict(counts),
        translated=attempt.translated,
        commits=attempt.commits,
    )


def _batches(attempt: _Attempt, planned: list[dict[str, Any]], size: int) -> Iterator[list[_Picture]]:
    """Readable pictures of records that are due, `size` at a time; the last batch may be smaller or empty."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in planned:
        groups.setdefault(row["duplicate_of"] or row["record_id"], []).append(row)
    batch: list[_Picture] = []
    for members in groups.values():
        # Asked anew for each: a lost commit may have brought rows of others.
        left = [row for row in members if attempt.due(row["record_id"])]
        picture = attempt.read(left) if left else None
        if picture is not None:
            batch.append(picture)
        if len(batch) == size:
            yield batch
            batch = []
    yield batch
