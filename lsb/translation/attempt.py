"""What one call has made of a shard: images and rows in a folder of its own, invisible until they are committed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Semaphore
from typing import Any, TypedDict

import numpy as np
from PIL import Image

from lsb.errors import DecodingError, EncodingError, ImageError, TranslationError
from lsb.figures import FIGURES
from lsb.ledger import layout
from lsb.ledger.layout import new_attempt
from lsb.ledger.log.chain import Link
from lsb.ledger.rows import failed_row, ok_row, quarantined_row
from lsb.ledger.run import Run, is_due, open_log
from lsb.ledger.schemas import FEATURES, MANIFEST, ManifestRow, PlanRow, write_table
from lsb.pictures.decoder import DECODERS, Decoder
from lsb.pictures.images import contrast, pixels_sha256, reduction
from lsb.pictures.output import composed, written
from lsb.records import sha256
from lsb.redaction import redact, visible
from lsb.store.store import Store
from lsb.store.usage import Usage, counted
from lsb.translation.batch import Picture, Result

logger = logging.getLogger(__name__)

# Of a record whose output another one with the same bytes has made.
FREE: ManifestRow = {"device_seconds": 0.0, "bytes_read": 0, "bytes_written": 0, "requests": 0}


class Part(TypedDict):
    """What a commit names."""

    files: dict[str, str]  # name in the shard's folder -> SHA-256
    rows: str
    features: str | None
    counts: dict[str, int]  # rows by status
    usage: Usage  # of stores, since the commit before
    started: datetime | None  # of the first of them that was


@dataclass
class Attempt:
    """One call's work on a shard, under a fresh id."""

    store: Store
    run: Run
    shard: str
    execution: ManifestRow
    feature_limit: str  # the largest record id whose features are kept
    committed: Callable[[str, Mapping[str, int]], None]  # told shard and rows by status after each commit
    chosen: Mapping[str, int] | None = None  # see `lsb.translation.shard.run_shard`
    id: str = field(default_factory=new_attempt)
    part: int = 0
    head: Link | None = None  # the last entry of the shard's log that this call has seen
    done: dict[str, str] = field(default_factory=dict)  # record id -> committed status
    tries: dict[str, int] = field(default_factory=dict)
    rows: list[ManifestRow] = field(default_factory=list)  # made, not committed
    objects: dict[str, str] = field(default_factory=dict)  # output key -> SHA-256
    features: dict[str, np.ndarray] = field(default_factory=dict)  # record id -> vector
    encoding: Semaphore = field(default_factory=lambda: Semaphore(DECODERS))  # outputs in their own size
    translated: int = 0
    commits: int = 0
    usage: Usage = field(default_factory=Usage)  # what this call has asked of stores so far, added to by whoever counts
    told: Usage = field(default_factory=Usage)  # how much of it is in commits

    @property
    def counts(self) -> dict[str, int]:
        """Committed rows of the shard by status."""
        return dict(Counter(self.done.values()))

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

    def write(self, picture: Picture, found: Result, started: datetime, decoder: Decoder) -> ManifestRow:
        """Write the output that the network's picture leads to; what is known of it then.

        In any thread; no commit begins before it ends.

        Raises:
            ImageError, DecodingError: what is kept of the source cannot be decoded again; nothing is written then.
            EncodingError: the encoder refuses it; likewise.
        """
        assert found.made is not None
        frame, scores, kept = picture.task.frame, found.made.scores, picture.kept
        with self.encoding:
            output = frame.finish(found.made.image)
            data, pixels = written(composed(found.made.image, frame, kept, decoder), kept)
        key = layout.output_file(self.run.id, self.shard, self.id, picture.leader, kept.format)
        with counted() as usage:
            self.store.write(key, data)
        return {
            **picture.read,
            **costs_of(picture.usage + usage, found.made.seconds),
            "batch": found.batch,
            "batch_padding": found.padding,
            "started": started,
            "finished": datetime.now(UTC),
            "output_key": key,
            "output_sha256": sha256(data),
            "pixels_sha256": pixels_sha256(pixels),
            "output_bytes": len(data),
            "output_format": kept.format,
            "output_metadata": None if kept.found is None else [*kept.metadata.kinds],
            "output_width": pixels.width,
            "output_height": pixels.height,
            "output_scale": frame.scale,
            "output_limited": frame.limited,
            "scores": _scores(output, scores, picture),
        }

    def keep(self, picture: Picture, found: Result, result: ManifestRow) -> None:
        """Make the rows of all records of a picture whose output is written, with what `write` said of it."""
        assert found.made is not None
        self.translated += 1
        output, digest = result["output_key"], result["output_sha256"]
        assert output is not None
        assert digest is not None
        self.objects[output] = digest
        for place, planned in enumerate(picture.members):
            own = result if place == 0 else {**result, **FREE}
            self._add(ok_row(self.run, planned, self._evidence(planned), own))
            if found.made.scores is not None and planned["record_id"] <= self.feature_limit:
                self.features[planned["record_id"]] = found.made.scores.features

    def give_up(
        self,
        picture: Picture,
        problem: TranslationError | ImageError | DecodingError | EncodingError,
        batch: int,
    ) -> None:
        """Make the rows of a picture that could not be translated, or whose output could not be written."""
        for place, planned in enumerate(picture.members):
            costs = costs_of(picture.usage) if place == 0 else FREE
            read: ManifestRow = {**picture.read, **costs, "batch": batch}
            self.failed(planned, problem.code, problem.message, read, getattr(problem, "retryable", True))

    def failed(
        self,
        planned: PlanRow,
        code: str,
        detail: str,
        read: ManifestRow | None = None,
        retryable: bool = True,
    ) -> None:
        """Make the row of a record that is not the input's fault."""
        evidence = self._evidence(planned)
        detail = redact(detail, planned["key"])
        self._add(failed_row(self.run, planned, evidence, code, detail, read or {}, retryable))

    def quarantined(self, planned: PlanRow, code: str, detail: str, read: ManifestRow) -> None:
        """Make the row of a record whose file is no usable image."""
        self._add(quarantined_row(self.run, planned, self._evidence(planned), code, redact(detail), read))

    def commit(self) -> None:
        """Make all rows visible in one step, behind whatever others committed meanwhile."""
        log = open_log(self.store, self.run, self.shard)
        while self.rows:
            part = self._write_part()
            entry = log.append(self.head, attempt=self.id, **part)
            if entry is not None:
                self.head = entry.link
                self.told += part["usage"]
                made, self.rows = self.rows, []
                self.done |= {row["record_id"]: row["status"] for row in made}
                self.tries |= {row["record_id"]: row["tries"] for row in made}
                failures = Counter(code for row in made if (code := row.get("error_code")))
                FIGURES.commit(Counter(row["status"] for row in made), failures)
                self.commits += 1
                self.committed(self.shard, self.counts)
                logger.info("%d rows committed", len(made), extra={"attempt": self.id})
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

    def _write_part(self) -> Part:
        files: dict[str, str] = {}

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
        for output in {output for row in self.rows if (output := row.get("output_key"))}:
            files[output.removeprefix(layout.shard_folder(self.run.id, self.shard) + "/")] = self.objects[output]
        self.part += 1
        counts = Counter(row["status"] for row in self.rows)
        usage = self.usage - self.told
        started = min((start for row in self.rows if (start := row.get("started"))), default=None)
        return {
            "files": files,
            "rows": rows,
            "features": features,
            "counts": counts,
            "usage": usage,
            "started": started,
        }

    def _add(self, row: ManifestRow) -> None:
        # Others may have committed the record since it was read.
        if self.due(row["record_id"]):
            self.rows.append(row)
            if code := row.get("error_code"):
                about = {"attempt": self.id, "record": row["record_id"], "code": code}
                logger.info("%s %s: %s", visible(row["source_key"]), code, row["error_detail"], extra=about)

    def _evidence(self, planned: PlanRow) -> ManifestRow:
        tries = self.tries.get(planned["record_id"], 0) + 1
        return {"shard": self.shard, "attempt": self.id, "tries": tries, **self.execution}


def costs_of(usage: Usage, seconds: float | None = None) -> ManifestRow:
    """What a record has cost alone. `seconds`: with the model."""
    read, written = usage.bytes_read, usage.bytes_written
    return {"device_seconds": seconds, "bytes_read": read, "bytes_written": written, "requests": usage.requests}


def _scores(output: Image.Image, score: Any, picture: Picture) -> list[tuple[str, float]]:
    # Known without any network, so that an empty picture is flagged in every run.
    values = {"output_contrast": contrast(output)}
    factor = reduction(picture.read["source_width"] or 0, picture.read["source_height"] or 0) or 1
    if factor > 1:
        values["source_reduction"] = float(factor)
    return sorted({**(score.values if score else {}), **values}.items())
