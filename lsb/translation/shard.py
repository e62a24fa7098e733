"""One shard from end to end: read, translate, score, encode, write, commit.

    pending records ─ read & check ─> batches ─ translate ─> objects ─> rows ─> commit, in parts

Pictures wait, at the size that the network works at, until a batch of that size is full; none waits beyond its shard.
An image's fault becomes its row; whatever else goes wrong is raised and leaves the committed parts as they are.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pyarrow.compute as pc

from lsb.errors import DecodingError, EncodingError, ImageError, NotFoundError, StoreError, UsageError
from lsb.ledger.run import Run, read_plan
from lsb.ledger.schemas import ManifestRow, PlanRow
from lsb.metrics.pixels import reduced
from lsb.pictures.encoding import LONGEST_SIDE, OutputSettings
from lsb.pictures.geometry import Geometry
from lsb.pictures.knowledge import doubt
from lsb.pictures.output import kept_of
from lsb.progress import NoProgress, Progress
from lsb.records import Action, sha256
from lsb.redaction import redact, visible
from lsb.store.store import Store
from lsb.translation.attempt import Attempt
from lsb.translation.batch import Batches, Picture
from lsb.translation.equipment import Equipment
from lsb.translation.hints import Hints
from lsb.translation.model import Task
from lsb.translation.waiting import Waiting

logger = logging.getLogger(__name__)

Group = list[PlanRow]  # planned records with equal bytes


@dataclass(frozen=True)
class ShardOutcome:
    """What became of a shard by the end of one call."""

    shard: str
    finished: bool  # every planned record of the shard has a row
    counts: dict[str, int]  # committed rows of the shard by status
    translated: int  # images that this call translated
    commits: int  # log entries that this call won


def run_shard(
    store: Store,
    run: Run,
    shard: str,
    equipment: Equipment,
    *,
    chosen: Mapping[str, int] | None = None,
    commit_seconds: float = 120.0,
    progress: Progress = NoProgress(),
    stop: Callable[[], bool] = lambda: False,
    committed: Callable[[str, Mapping[str, int]], None] = lambda shard, counts: None,
) -> ShardOutcome:
    """Do what is left of a shard, committing every `commit_seconds` and at the end.

    `stop` is asked between batches; once it says yes, what is made is committed and the call returns unfinished.
    Any number of calls may work on one shard at once: one wins each commit, the others go on from there.

    Args:
        chosen: None does every record that has no row yet. Otherwise exactly these records, each with the number of
            tries known when it was chosen: those without a row, and those whose `failed` row is not a later try.
            Final rows stay whatever is chosen.
        committed: told the shard and its rows by status after each commit.

    Raises:
        UsageError: the run has no such shard.
        TamperedError: the shard's log or plan is not what was written; nothing is written then.
        StoreError: the store or a transient fault of the sources; what is committed stays.
        ModelError: the model cannot be loaded.
    """
    if shard not in run.shards():
        raise UsageError(f"run {run.id} has no shard {shard!r}; it has {run.plan['shards']}, from 00000")
    plan = read_plan(store, run)
    usable = plan.filter(pc.not_equal(plan["action"], Action.QUARANTINE.value))["record_id"]
    limit = usable[min(equipment.feature_sample, len(usable)) - 1].as_py()
    planned = plan.filter(pc.equal(plan["shard"], shard)).to_pylist()
    attempt = Attempt(store, run, shard, equipment.execution, limit, committed, chosen)
    attempt.refresh()
    job = _ShardJob(attempt, equipment)
    step = f"shard {shard}"
    todo = [row["record_id"] for row in planned if attempt.due(row["record_id"])]
    progress.start(step, len(todo))
    seen = 0
    last = time.monotonic()
    stopped = False
    # More than once only where the attempt was condemned meanwhile and lost what it had made.
    while not stopped and any(map(attempt.due, todo)):
        for batch in job.batches(planned):
            job.work(batch)
            dealt_with = len(todo) - sum(map(attempt.due, todo)) + len(attempt.rows)
            progress.advance(step, max(0, dealt_with - seen))
            seen = max(seen, dealt_with)
            stopped = stop()
            if stopped:
                break
            if time.monotonic() - last >= commit_seconds:
                attempt.commit()
                last = time.monotonic()
        attempt.commit()
    progress.finish(step)
    return ShardOutcome(
        shard=shard,
        finished=all(row["record_id"] in attempt.done for row in planned),
        counts=attempt.counts,
        translated=attempt.translated,
        commits=attempt.commits,
    )


@dataclass
class _ShardJob:
    """Reads and translates for an attempt."""

    attempt: Attempt
    equipment: Equipment
    hints: Hints = field(init=False)
    model: Batches = field(init=False)
    output: OutputSettings = field(init=False)
    rules: int = field(init=False)  # of decoding

    def __post_init__(self) -> None:
        attempt = self.attempt
        self.hints = Hints(attempt.store, attempt.run.id, attempt.shard, attempt.id)
        self.model = Batches(self.equipment.model, self.hints)
        self.output = OutputSettings.of_transform(attempt.run.transform)
        self.rules = Geometry.of_transform(attempt.run.transform).decoding_rules

    def batches(self, planned: list[PlanRow]) -> Iterator[list[Picture]]:
        """Readable pictures of what is due, of one size, as many as the model takes at a time, or fewer.

        None at all where what was read has filled no batch, so that the caller can commit or stop. Records that
        another attempt may have died of come last and one by one, the least suspect first, and what is made is
        committed before.
        """
        groups: dict[str, Group] = {}
        for row in planned:
            groups.setdefault(row["duplicate_of"] or row["record_id"], []).append(row)
        due = {row["record_id"] for row in planned if self.attempt.due(row["record_id"])}
        found = self.hints.suspects(due, self.attempt.tries, self.equipment.try_seconds) if due else Counter()
        self.model.deaths.update(found)
        alone = {
            leader: max(found[row["record_id"]] for row in members)
            for leader, members in groups.items()
            if any(row["record_id"] in found for row in members)
        }
        together = deque(members for leader, members in groups.items() if leader not in alone)
        waiting = Waiting()
        while together:
            for picture in self._read_some(together, self.model.size):
                waiting.add(picture)
            filled = False
            for batch in self._named(waiting.full(self.model.size)):
                filled = True
                yield batch
            if together and not filled:
                yield []
        yield from self._named(waiting.rest(self.model.size))
        for number, leader in enumerate(sorted(alone, key=lambda leader: alone[leader])):
            if number == 0 or alone[leader]:
                self.attempt.commit()
            yield self._read_some(deque([groups[leader]]), 1)

    def work(self, pictures: list[Picture]) -> None:
        """Translate a batch; write what came out and make the rows of all."""
        started = datetime.now(UTC)
        results = self.model.translate(pictures) if pictures else []
        for picture, result in zip(pictures, results, strict=True):
            if result.made is not None:
                if result.made.unscored is not None:
                    name = visible(picture.members[0]["key"])
                    logger.warning("no scores for %s: %s", name, redact(str(result.made.unscored)))
                try:
                    self.attempt.keep(picture, result, started, self.equipment.decoder)
                except (ImageError, DecodingError, EncodingError) as error:
                    for row in picture.members:
                        self.attempt.failed(row, error.code, error.message, picture.read)
            elif result.problem is not None:
                self.attempt.give_up(picture, result.problem, result.batch)

    def _named(self, batches: Iterable[list[Picture]]) -> Iterator[list[Picture]]:
        """The same, each named in the hint when it is taken, without what others have committed while it waited."""
        for batch in batches:
            left = []
            for picture in batch:
                if members := [row for row in picture.members if self.attempt.due(row["record_id"])]:
                    left.append(replace(picture, members=members))
            if left:
                names = {record for picture in left for record in picture.records}
                if not names <= self.hints.named:
                    self.hints.write(names, self.attempt.tries)
                yield left

    def _read_some(self, waiting: deque[Group], size: int) -> list[Picture]:
        """The first of what is waiting. A file that ends this process when it is read has been named before."""
        batch: list[Group] = []
        while waiting and len(batch) < size:
            # Asked anew for each: a lost commit may have brought rows of others.
            members = [row for row in waiting.popleft() if self.attempt.due(row["record_id"])]
            if members:
                batch.append(members)
        if batch:
            self.hints.write([row["record_id"] for members in batch for row in members], self.attempt.tries)
        return [picture for members in batch if (picture := self._read(members)) is not None]

    def _read(self, members: Group) -> Picture | None:
        """The image of records with equal bytes; None, and rows that say why, if none of them can be read."""
        for index, planned in enumerate(members):
            try:
                data = self.equipment.sources.read(planned["key"])
            except StoreError as error:
                if not error.of_object:
                    raise
                code = "source_missing" if isinstance(error, NotFoundError) else "source_unreadable"
                self.attempt.failed(planned, code, str(error))
                continue
            digest = sha256(data)
            if digest != (planned["sha256"] or digest) or len(data) != planned["bytes"]:
                detail = "the file's bytes are not the ones that were planned; a new run takes the new ones"
                self.attempt.failed(planned, "source_changed", detail)
                # Its size and time need not show it, so that the next ingest would believe what this one did.
                name, uri = self.attempt.run.dataset["name"], self.equipment.sources.uri
                doubt(self.attempt.store, name, uri, planned["record_id"])
                continue
            try:
                image, info = self.equipment.decoder.decode(data, self.rules)
                kept = kept_of(data, info, self.output, self.equipment.decoder, self.rules)
            except ImageError as error:
                self.attempt.quarantined(planned, digest, error)
                continue
            except DecodingError as error:
                # Equal bytes would cost as much again.
                for row in members[index:]:
                    seen: ManifestRow = {"source_sha256": digest, "source_bytes": len(data)}
                    self.attempt.failed(row, error.code, error.message, seen)
                return None
            read: ManifestRow = {
                "source_sha256": digest,
                "source_bytes": len(data),
                "source_format": info.format,
                "source_mode": info.mode,
                "source_width": info.width,
                "source_height": info.height,
                "source_orientation": info.orientation,
                "source_frames": info.frames,
                "source_transparent": info.transparent,
                "source_metadata": None if kept.found is None else [*kept.found],
            }
            frame = self.equipment.frame(image.size)
            read |= {"working_width": frame.working[0], "working_height": frame.working[1]}
            read["tiles"] = None if frame.tiles is None else frame.tiles.count
            longest = LONGEST_SIDE.get(kept.format, max(frame.output))
            if max(frame.output) > longest:
                for row in members[index:]:
                    detail = f"{max(frame.output)} pixels on a side, {kept.format} has at most {longest}"
                    self.attempt.failed(row, "output_too_large", detail, read, retryable=False)
                return None
            truth = self.equipment.truths.find(planned["key"])
            task = Task(frame.prepare(image), digest, frame, reduced(image), truth and reduced(truth))
            return Picture(members[index:], read, task, kept)
        return None
