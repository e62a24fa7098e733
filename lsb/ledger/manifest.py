"""What became of every planned record: the rows of all shards and of what ingest set aside, in record-id order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import pyarrow as pa
import pyarrow.compute as pc

from lsb.ledger import layout
from lsb.ledger.carrying import carried_pieces
from lsb.ledger.gates import NUMBERS, Gates
from lsb.ledger.log.commit_log import Commit, Condemnation, History, ShardLog, fold
from lsb.ledger.log.snapshots import Head, head_of
from lsb.ledger.pieces import PIECE_ROWS, Pieces
from lsb.ledger.plan import read_apart
from lsb.ledger.rows import unusable_rows
from lsb.ledger.run import Run, open_named_run, read_logs
from lsb.ledger.schemas import FEATURES, MANIFEST
from lsb.records import Action, Status
from lsb.store.store import Store
from lsb.store.usage import Usage, total


@dataclass(frozen=True)
class Collected:
    """The rows of a run at one moment, and the log entries they come from."""

    pieces: Pieces  # of MANIFEST or some of its columns, record-id order, flags set
    heads: dict[str, Head]  # last commit of each shard that has one
    planned: int
    counted: Mapping[str, int]  # rows by status
    erasures: dict[str, str]  # log entries that erased some of the images -> digest
    gates: Gates  # what the flags come from
    usage: Usage | None  # of stores, by the run's own shards; None if not all of their commits say

    @property
    def rows(self) -> pa.Table:
        """All of them in one table."""
        return self.pieces.table()

    @property
    def missing(self) -> int:
        return self.planned - self.pieces.num_rows

    def counts(self) -> dict[str, int]:
        """Rows by status."""
        return dict(self.counted)


def collect(store: Store, run: Run, *, gates: Gates, columns: Sequence[str] | None = None) -> Collected:
    """All rows there are.

    Args:
        columns: those that are wanted; None for all. A few others come along.

    Raises:
        TamperedError: a log, a row file or the plan is not what was written.
    """
    wanted = _wanted(columns)
    gathered = _Gathered(run.plan["records"], gates, wanted)
    for shard, (history, made) in read_logs(store, run, lambda log: _history_and_rows(log, wanted)):
        gathered.add_commits(shard, made, history.erased)
    apart = read_apart(store, run)
    gathered.add_unusable(run, apart.unusable)
    columns = ["record_id", "output_key", "carried_from"]
    erased = erased_elsewhere(store, carried_pieces(store, run.parent, apart.carried, columns=columns))
    for rows in carried_pieces(store, run.parent, apart.carried, columns=wanted):
        gathered.add(rows, erased)
    return gathered.collected()


def combine(
    run: Run,
    plan: pa.Table,
    commits: Iterable[tuple[str, Sequence[Commit]]],
    carried: pa.Table,
    gates: Gates,
    erased: Mapping[str, Condemnation] | None = None,
) -> Collected:
    """The rows of `commits`, by shard, those that are carried, and those of what ingest set aside.

    Args:
        erased: outputs that were erased, by key, with the entry that says so.
    """
    gathered = _Gathered(plan.num_rows, gates, MANIFEST.arrow.names)
    for shard, made in commits:
        gathered.add_commits(shard, made, erased or {})
    gathered.add_unusable(run, plan)
    gathered.add(carried, erased or {})
    return gathered.collected()


class _Gathered:
    """Rows as they come, each table made what a manifest says of it."""

    def __init__(self, planned: int, gates: Gates, columns: Sequence[str]) -> None:
        self._planned, self._gates, self._columns = planned, gates, columns
        self._pieces = Pieces(planned, MANIFEST.empty().select(columns))
        self._counted: Counter[str] = Counter()
        self._heads: dict[str, Head] = {}
        self._erasures: dict[str, str] = {}
        self._usage: Usage | None = Usage()

    def add(self, rows: pa.Table, erased: Mapping[str, Condemnation]) -> None:
        rows = self._gates.judged(rows.select(self._columns))
        rows, entries = _without_erased(rows, erased)
        self._erasures |= {entry.link.key: entry.link.sha256 for entry in entries}
        for count in pc.value_counts(rows["status"]).to_pylist():
            self._counted[count["values"]] += count["counts"]
        self._pieces.add(rows)

    def add_commits(self, shard: str, made: Sequence[Commit], erased: Mapping[str, Condemnation]) -> None:
        if made:
            self._heads[shard] = head_of(made[-1][0].link)
            self._usage = total((self._usage, *(entry.usage for entry, _ in made)))
            self.add(fold(made), erased)

    def add_unusable(self, run: Run, planned: pa.Table) -> None:
        unusable = planned.filter(pc.equal(planned["action"], Action.QUARANTINE.value))
        for start in range(0, unusable.num_rows, PIECE_ROWS):
            self.add(unusable_rows(run, unusable.slice(start, PIECE_ROWS)), {})

    def collected(self) -> Collected:
        return Collected(
            self._pieces, self._heads, self._planned, self._counted, self._erasures, self._gates, self._usage
        )


def erased_elsewhere(store: Store, tables: Iterable[pa.Table]) -> dict[str, Condemnation]:
    """What was erased of the images that rows carry, by output key: it stands in the logs of the runs that made them.

    Raises:
        TamperedError: such a log is not what was written.
    """
    makers: dict[str, tuple[str, str] | None] = {}  # by the folder of what they made
    for rows in tables:
        carried = rows["output_key"].filter(pc.is_valid(rows["carried_from"])).drop_null()
        for folder in pc.unique(pc.replace_substring_regex(carried, "/[^/]*$", "")).to_pylist():
            if folder not in makers:
                makers[folder] = layout.maker_of(f"{folder}/rows-00000.parquet")
    return _erased_by(store, {maker for maker in makers.values() if maker})


def _erased_by(store: Store, makers: Iterable[tuple[str, str]]) -> dict[str, Condemnation]:
    erased: dict[str, Condemnation] = {}
    for run_id, found in groupby(sorted(makers), key=itemgetter(0)):
        shards = [shard for _, shard in found]
        for _, history in read_logs(store, open_named_run(store, run_id), ShardLog.history, shards):
            erased |= history.erased
    return erased


def _without_erased(rows: pa.Table, erased: Mapping[str, Condemnation]) -> tuple[pa.Table, list[Condemnation]]:
    """The same with rows that say `erased` and why, where an `ok` row names one of these outputs, and their entries."""
    if not erased:
        return rows, []
    gone = pc.fill_null(pc.is_in(rows["output_key"], pa.array(erased, pa.string())), False)
    gone = pc.and_(gone, pc.equal(rows["status"], Status.OK.value))
    entries = [erased[key] for key in rows["output_key"].filter(gone).to_pylist()]
    if not entries:
        return rows, []
    reasons = pc.replace_with_mask(
        pa.nulls(rows.num_rows, pa.string()), gone.combine_chunks(), pa.array([entry.reason for entry in entries])
    )
    for name, value in (
        ("status", Status.ERASED.value),
        ("error_code", Status.ERASED.value),
        ("error_detail", reasons),
        *((name, None) for name in (*NUMBERS, "flags")),
    ):
        place = rows.schema.get_field_index(name)
        if place < 0:
            continue
        kind = MANIFEST.arrow.field(name)
        column = pc.if_else(gone, value if value is reasons else pa.scalar(value, kind.type), rows[name])
        rows = rows.set_column(place, kind, column)
    return rows, entries


def collect_features(store: Store, run: Run, rows: pa.Table | None = None) -> pa.Table:
    """FEATURES of the outputs that have them, in record-id order; of carried ones from the run that made them.

    Args:
        rows: of the manifest, whose features are wanted; None for all of the run's.
    """
    if rows is None:
        rows = collect(store, run, gates=Gates(), columns=["carried_from", "shard"]).rows
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


def _wanted(columns: Sequence[str] | None) -> list[str]:
    """All that is to be read so that `columns` can be said, in the manifest's order."""
    names: list[str] = MANIFEST.arrow.names
    if columns is None:
        return names
    needed = {*columns, "record_id", "status", "output_key"}
    if "flags" in columns:
        needed |= {"scores", *NUMBERS}
    return [name for name in names if name in needed]


def _history_and_rows(log: ShardLog, columns: list[str]) -> tuple[History, list[Commit]]:
    history = log.history()
    return history, [(entry, log.table(entry, columns=columns)) for entry in history.commits]


def _features(log: ShardLog) -> list[pa.Table]:
    return [log.features(entry) for entry in log.entries()]
