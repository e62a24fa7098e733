"""What became of every planned record: the rows of all shards and of what ingest set aside, in record-id order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from operator import itemgetter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lsb.ledger import layout
from lsb.ledger.carrying import carried_rows
from lsb.ledger.log.commit_log import Commit, Condemnation, History, LogEntry, ShardLog, fold
from lsb.ledger.plan import read_plan
from lsb.ledger.rows import unusable_rows
from lsb.ledger.run import Run, open_named_run, read_logs
from lsb.ledger.schemas import FEATURES, MANIFEST
from lsb.records import Action, Status
from lsb.store.store import Store


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
    heads: dict[str, LogEntry]  # last commit of each shard that has one
    planned: int
    erasures: dict[str, str] = field(default_factory=dict)  # log entries that erased some of the images -> digest

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
    commits: dict[str, list[Commit]] = {}
    erased: dict[str, Condemnation] = {}
    for shard, (history, made) in read_logs(store, run, _history_and_rows):
        commits[shard] = made
        erased |= history.erased
    plan = read_plan(store, run)
    collected = combine(run, plan, commits, carried_rows(store, run.parent, plan), gates)
    return without_erased(collected, {**erased, **erased_elsewhere(store, collected.rows)})


def combine(
    run: Run, plan: pa.Table, commits: Mapping[str, Sequence[Commit]], carried: pa.Table, gates: Gates
) -> Collected:
    """The rows of `commits`, by shard, those that are carried, and those of what ingest set aside."""
    tables = [unusable_rows(run, plan.filter(pc.equal(plan["action"], Action.QUARANTINE.value))), carried]
    tables += [fold(made) for made in commits.values()]
    heads = {shard: made[-1][0] for shard, made in commits.items() if made}
    return Collected(with_flags(pa.concat_tables(tables).sort_by("record_id"), gates), heads, plan.num_rows)


def erased_elsewhere(store: Store, rows: pa.Table) -> dict[str, Condemnation]:
    """What was erased of the images that `rows` carry, by output key: it stands in the logs of the runs that made them.

    Raises:
        TamperedError: such a log is not what was written.
    """
    carried = rows.filter(pc.is_valid(rows["carried_from"]))["output_key"].drop_null().to_pylist()
    erased: dict[str, Condemnation] = {}
    makers = sorted({maker for key in carried if (maker := layout.maker_of(key))})
    for run_id, found in groupby(makers, key=itemgetter(0)):
        shards = [shard for _, shard in found]
        for _, history in read_logs(store, open_named_run(store, run_id), ShardLog.history, shards):
            erased |= history.erased
    return erased


def without_erased(collected: Collected, erased: Mapping[str, Condemnation]) -> Collected:
    """The same with rows that say `erased` and why, where an `ok` row names one of these outputs."""
    rows = collected.rows
    gone = pc.fill_null(pc.is_in(rows["output_key"], pa.array(erased, pa.string())), False)
    gone = pc.and_(gone, pc.equal(rows["status"], Status.OK.value))
    keys = rows["output_key"].filter(gone).to_pylist()
    if not keys:
        return collected
    reasons = pc.replace_with_mask(
        pa.nulls(rows.num_rows, pa.string()), gone.combine_chunks(), pa.array([erased[key].reason for key in keys])
    )
    for name, value in (
        ("status", Status.ERASED.value),
        ("error_code", Status.ERASED.value),
        ("error_detail", reasons),
        ("flags", None),
    ):
        place = MANIFEST.arrow.get_field_index(name)
        kind = MANIFEST.arrow.field(place)
        column = pc.if_else(gone, value if value is reasons else pa.scalar(value, kind.type), rows[name])
        rows = rows.set_column(place, kind, column)
    return replace(collected, rows=rows, erasures={erased[key].link.key: erased[key].link.sha256 for key in keys})


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
        maker = run if origin == run.id else open_named_run(store, origin)
        shards = pc.unique(rows["shard"].filter(pc.equal(origins, origin))).to_pylist()
        for _, found in read_logs(store, maker, _features, shards):
            tables += found
    features = pa.concat_tables(tables)
    return features.filter(pc.is_in(features["record_id"], rows["record_id"].combine_chunks())).sort_by("record_id")


def _history_and_rows(log: ShardLog) -> tuple[History, list[Commit]]:
    history = log.history()
    return history, [(entry, log.table(entry)) for entry in history.commits]


def _features(log: ShardLog) -> list[pa.Table]:
    return [log.features(entry) for entry in log.entries()]


def with_flags(rows: pa.Table, gates: Gates) -> pa.Table:
    """`rows` with the flags that `gates` give: a list for `ok` rows, null for others."""
    place = MANIFEST.arrow.get_field_index("flags")
    field = MANIFEST.arrow.field(place)
    flags = pc.if_else(pc.equal(rows["status"], Status.OK.value), gates.flags(rows["scores"]), None)
    return rows.set_column(place, field, flags.cast(field.type))
