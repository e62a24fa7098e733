"""How far a run is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from lsb.ledger.carrying import carried_pieces
from lsb.ledger.log.commit_log import LogEntry, ShardLog
from lsb.ledger.manifest import erased_elsewhere
from lsb.ledger.plan import read_apart, shard_sizes
from lsb.ledger.publish import latest_snapshot
from lsb.ledger.run import Run, read_logs
from lsb.records import Status
from lsb.store.store import Store


@dataclass(frozen=True)
class RunStatus:
    """Counts of one moment.

    `records` counts by `ok`, `quarantined`, `failed`, `erased`, `pending`; `shards` by `done`, `partial`, `pending`;
    `rate` is committed records per second of the time in which somebody was at work on them: from the start of each
    commit's first batch to its entry in the log, what several did at once counted once. None where no image was made.
    """

    run_id: str
    planned: int
    records: dict[str, int]
    shards: dict[str, int]
    carried: int  # of the records, those that an earlier run dealt with
    first_commit: datetime | None
    last_commit: datetime | None
    rate: float | None
    stopped: str | None = None  # why the last call gave up, if nothing was committed since

    @property
    def finished(self) -> bool:
        return self.records["pending"] == 0

    @property
    def seconds_left(self) -> float | None:
        """At the rate so far; None where that is unknown."""
        return self.records["pending"] / self.rate if self.rate else None


def counts_by_shard(store: Store, run: Run) -> dict[str | None, dict[str, int]]:
    """Rows by shard and status; under None those of records that no shard has."""
    by_shard = read_logs(store, run, lambda log: log.counts(log.entries()))
    return {None: counts_apart(store, run), **dict(by_shard)}


def counts_apart(store: Store, run: Run) -> dict[str, int]:
    """Rows by status of records that no shard has."""
    apart = read_apart(store, run)
    counts = Counter({Status.QUARANTINED.value: apart.unusable.num_rows})
    for rows in carried_pieces(store, run.parent, apart.carried, columns=["record_id", "status"]):
        counts.update(rows["status"].to_pylist())
    return dict(counts)


def status(store: Store, run: Run) -> RunStatus:
    """Count what the shards' logs say; TamperedError if one of them is not what was written.

    Rows are read only where their entries do not say all: where failed records were tried again or images were erased,
    and those of older versions.
    """
    planned, apart = shard_sizes(store, run), read_apart(store, run)
    records = Counter({state.value: 0 for state in Status} | {"pending": 0})
    records[Status.QUARANTINED.value] += apart.unusable.num_rows
    gone = erased_elsewhere(store, carried_pieces(store, run.parent, apart.carried, columns=[*_STATE, "carried_from"]))
    carried = 0
    for rows in carried_pieces(store, run.parent, apart.carried, columns=_STATE):
        records.update(_states(rows, gone))
        carried += rows.num_rows
    shards = Counter({"done": 0, "partial": 0, "pending": 0})
    spans: list[tuple[datetime, datetime]] = []
    rows_made = 0
    heads: dict[str, str] = {}
    for shard, found in read_logs(store, run, _read_shard):
        if found.head is not None:
            heads[shard] = found.head
        spans += found.spans
        rows_made += found.rows
        records.update(found.states)
        there = sum(found.states.values())
        left = planned.get(shard, 0) - there
        records["pending"] += left
        shards["done" if left == 0 else "partial" if there else "pending"] += 1
    times = [ended for _, ended in spans]
    seconds = covered(spans)
    snapshot = latest_snapshot(store, run)
    unchanged = snapshot and {shard: head["sha256"] for shard, head in snapshot.heads.items()} == heads
    stopped = snapshot.stopped if snapshot and unchanged else None
    return RunStatus(
        run_id=run.id,
        planned=run.plan["records"],
        records=dict(records),
        shards=dict(shards),
        carried=carried,
        first_commit=min(times, default=None),
        last_commit=max(times, default=None),
        rate=rows_made / seconds if seconds > 0 else None,
        stopped=stopped,
    )


_STATE = ["record_id", "status", "output_key"]


@dataclass(frozen=True)
class _Shard:
    """What a shard's log says: records by state, the time of each commit, and how many rows they have in all."""

    head: str | None
    states: Mapping[str, int]
    spans: list[tuple[datetime, datetime]]
    rows: int


def _read_shard(log: ShardLog) -> _Shard:
    history = log.history()
    commits = history.commits
    if history.erased:
        states = Counter(_states(log.rows(commits, columns=_STATE), history.erased))
    else:
        states = Counter(log.counts(commits))
    spans = [worked(log, entry) for entry in commits]
    rows = sum(sum(entry.counts.values()) for entry in commits)
    return _Shard(commits[-1].link.sha256 if commits else None, states, spans, rows)


def worked(log: ShardLog, entry: LogEntry) -> tuple[datetime, datetime]:
    """When work on what an entry commits began, and when it was committed; where it does not say, by its rows."""
    committed = entry.link.time
    started = entry.started or pc.min(log.table(entry, columns=["started"])["started"]).as_py()
    return started or committed, committed


def covered(spans: Iterable[tuple[datetime, datetime]]) -> float:
    """Seconds that lie in some span."""
    seconds, until = 0.0, None
    for start, end in sorted(spans):
        start = start if until is None else max(start, until)
        if end > start:
            seconds += (end - start).total_seconds()
            until = end
    return seconds


def _states(rows: pa.Table, erased: Iterable[str]) -> list[str]:
    """Each row's status, given the outputs that were erased."""
    gone = pc.fill_null(pc.is_in(rows["output_key"], pa.array(erased, pa.string())), False)
    states: list[str] = pc.if_else(gone, Status.ERASED.value, rows["status"]).to_pylist()
    return states
