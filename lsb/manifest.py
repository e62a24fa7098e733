"""What became of every planned record: the rows of all shards and of what ingest set aside, in record-id order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lsb.errors import TamperedError
from lsb.records import Action, Status
from lsb.rows import unusable_rows
from lsb.sharding import Run, open_log, read_plan
from lsb.storage.commit_log import LogEntry
from lsb.storage.schemas import FEATURES, MANIFEST
from lsb.storage.store import Store


@dataclass(frozen=True)
class Gates:
    """Scores that raise a flag. A flag rejects nothing: it says which outputs to look at first."""

    structure_high: float = 0.3  # structure distance above this: the layout of the source is lost
    flat_output: float = 0.02  # standard deviation of the output's pixels, in [0, 1], below this: nothing is drawn

    def flags(self, scores: Mapping[str, float]) -> list[str]:
        """The names of the gates that these scores fire."""
        fired = []
        if scores.get("structure_distance", 0.0) > self.structure_high:
            fired.append("structure_high")
        if scores.get("output_contrast", 1.0) < self.flat_output:
            fired.append("flat_output")
        return fired

    def thresholds(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Collected:
    """The rows of a run at one moment, and the log entries they come from."""

    rows: pa.Table  # MANIFEST, record-id order, flags set
    heads: dict[str, LogEntry]  # last entry of each shard that has one
    planned: int

    @property
    def missing(self) -> int:
        return self.planned - self.rows.num_rows

    def counts(self) -> dict[str, int]:
        """Rows by status."""
        return dict(Counter(self.rows["status"].to_pylist()))


def collect(store: Store, run: Run, *, gates: Gates, upto: Mapping[str, Mapping[str, Any]] | None = None) -> Collected:
    """All rows there are.

    Args:
        gates: what sets the flags.
        upto: heads of a snapshot; entries after them are left out, and so are shards it does not name.

    Raises:
        TamperedError: a log, a row file or the plan is not what was written, or `upto` names an entry that is gone.
    """
    plan = read_plan(store, run)
    tables = [unusable_rows(run, plan.filter(pc.equal(plan["action"], Action.QUARANTINE.value)))]
    heads: dict[str, LogEntry] = {}
    for shard in run.shards():
        log = open_log(store, run, shard)
        entries = log.entries() if upto is None or shard in upto else []
        if upto is not None and shard in upto:
            entries = _until(entries, upto[shard], f"{run.id}, shard {shard}")
        if entries:
            heads[shard] = entries[-1]
            tables.append(log.rows(entries))
    return Collected(with_flags(pa.concat_tables(tables).sort_by("record_id"), gates), heads, plan.num_rows)


def collect_features(store: Store, run: Run) -> pa.Table:
    """FEATURES of all outputs that have them, in record-id order."""
    tables = [FEATURES.empty()]
    for shard in run.shards():
        log = open_log(store, run, shard)
        tables += [log.features(entry) for entry in log.entries()]
    return pa.concat_tables(tables).sort_by("record_id")


def with_flags(rows: pa.Table, gates: Gates) -> pa.Table:
    """`rows` with the flags that `gates` give: a list for `ok` rows, null for others."""
    flags = [
        gates.flags(dict(scores or ())) if state == Status.OK else None
        for scores, state in zip(rows["scores"].to_pylist(), rows["status"].to_pylist(), strict=True)
    ]
    place = MANIFEST.arrow.get_field_index("flags")
    return rows.set_column(place, MANIFEST.arrow.field(place), pa.array(flags, MANIFEST.arrow.field(place).type))


def _until(entries: list[LogEntry], head: Mapping[str, Any], place: str) -> list[LogEntry]:
    for index, entry in enumerate(entries):
        if entry.link.sha256 == head["sha256"]:
            return entries[: index + 1]
    raise TamperedError(f"the log of {place} lacks the entry that a snapshot names", key=head["key"])
