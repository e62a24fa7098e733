"""What became of every planned record: the rows of all shards and of what ingest set aside, in record-id order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lsb.carrying import carried_rows
from lsb.records import Action, Status
from lsb.rows import unusable_rows
from lsb.sharding import Run, open_log, open_run, read_plan
from lsb.storage.commit_log import Commit, LogEntry, fold
from lsb.storage.schemas import FEATURES, MANIFEST
from lsb.storage.store import Store


@dataclass(frozen=True)
class Gates:
    """Scores that raise a flag. A flag rejects nothing: it says which outputs to look at first."""

    structure_high: float = 0.3  # structure distance above this: the layout of the source is lost
    flat_output: float = 0.02  # standard deviation of the output's pixels, in [0, 1], below this: nothing is drawn

    def flags(self, scores: pa.ChunkedArray) -> pa.Array:
        """For each image the names of the gates that its scores fire; `scores` is a column of the manifest."""
        fired = {
            "structure_high": pc.greater(pc.map_lookup(scores, "structure_distance", "last"), self.structure_high),
            "flat_output": pc.less(pc.map_lookup(scores, "output_contrast", "last"), self.flat_output),
        }
        combinations: list[list[str]] = [[]]
        chosen = np.zeros(len(scores), np.int64)
        for place, (name, mask) in enumerate(fired.items()):
            combinations += [[*names, name] for names in combinations]
            chosen |= np.asarray(pc.fill_null(mask, False)).astype(np.int64) << place
        return pa.array(combinations, pa.list_(pa.string())).take(pa.array(chosen))

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


def collect(store: Store, run: Run, *, gates: Gates) -> Collected:
    """All rows there are.

    Raises:
        TamperedError: a log, a row file or the plan is not what was written.
    """
    commits = {}
    for shard in run.shards():
        log = open_log(store, run, shard)
        commits[shard] = [(entry, log.table(entry)) for entry in log.entries()]
    plan = read_plan(store, run)
    return combine(run, plan, commits, carried_rows(store, run.parent, plan), gates)


def combine(
    run: Run, plan: pa.Table, commits: Mapping[str, Sequence[Commit]], carried: pa.Table, gates: Gates
) -> Collected:
    """The rows of `commits`, by shard, those that are carried, and those of what ingest set aside."""
    tables = [unusable_rows(run, plan.filter(pc.equal(plan["action"], Action.QUARANTINE.value))), carried]
    tables += [fold(made) for made in commits.values()]
    heads = {shard: made[-1][0] for shard, made in commits.items() if made}
    return Collected(with_flags(pa.concat_tables(tables).sort_by("record_id"), gates), heads, plan.num_rows)


def collect_features(store: Store, run: Run, rows: pa.Table | None = None) -> pa.Table:
    """FEATURES of the outputs that have them, in record-id order; of carried ones from the run that made them.

    Args:
        rows: of the manifest, whose features are wanted; None for all of the run's.
    """
    if rows is None:
        rows = collect(store, run, gates=Gates()).rows
    rows = rows.filter(pc.equal(rows["status"], Status.OK.value))
    origins = pc.fill_null(rows["carried_from"], run.id)
    tables = [FEATURES.empty()]
    for origin in pc.unique(origins).to_pylist():
        maker = run if origin == run.id else open_run(store, origin)
        for shard in pc.unique(rows["shard"].filter(pc.equal(origins, origin))).to_pylist():
            log = open_log(store, maker, shard)
            tables += [log.features(entry) for entry in log.entries()]
    found = pa.concat_tables(tables)
    return found.filter(pc.is_in(found["record_id"], rows["record_id"].combine_chunks())).sort_by("record_id")


def with_flags(rows: pa.Table, gates: Gates) -> pa.Table:
    """`rows` with the flags that `gates` give: a list for `ok` rows, null for others."""
    place = MANIFEST.arrow.get_field_index("flags")
    field = MANIFEST.arrow.field(place)
    flags = pc.if_else(pc.equal(rows["status"], Status.OK.value), gates.flags(rows["scores"]), None)
    return rows.set_column(place, field, flags.cast(field.type))
