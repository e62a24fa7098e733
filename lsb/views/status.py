"""How far a run is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from lsb.ledger.carrying import carried_rows
from lsb.ledger.log.commit_log import Commit, History, LogEntry, ShardLog, fold
from lsb.ledger.manifest import erased_elsewhere
from lsb.ledger.plan import read_plan
from lsb.ledger.publish import latest_snapshot
from lsb.ledger.run import Run, read_logs
from lsb.records import Action, Status
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
    by_shard = read_logs(store, run, lambda log: counts_of(log, log.entries()))
    return {None: counts_apart(store, run), **dict(by_shard)}


def counts_apart(store: Store, run: Run) -> dict[str, int]:
    """Rows by status of records that no shard has."""
    plan = read_plan(store, run, columns=["record_id", "shard", "action"])
    unusable = pc.sum(pc.equal(plan["action"], Action.QUARANTINE.value)).as_py() or 0
    apart = Counter(carried_rows(store, run.parent, plan, columns=["record_id", "status"])["status"].to_pylist())
    apart[Status.QUARANTINED.value] += unusable
    return dict(apart)


def counts_of(log: ShardLog, entries: Sequence[LogEntry]) -> dict[str, int]:
    """A shard's rows by status, after these entries, which are all."""
    total = sum((Counter(entry.counts) for entry in entries), Counter())
    if len(entries) > 1 and total[Status.FAILED.value]:  # a failed row may have given way to a later one
        rows = log.rows(entries, columns=["record_id", "status"])
        total = Counter(rows["status"].to_pylist())
    return dict(total)


def status(store: Store, run: Run) -> RunStatus:
    """Count what the shards' logs hold; TamperedError if one of them is not what was written."""
    plan = read_plan(store, run, columns=["record_id", "shard", "action"])
    planned = Counter(plan["shard"].to_pylist())
    records = Counter({state.value: 0 for state in Status} | {"pending": 0})
    records[Status.QUARANTINED.value] += pc.sum(pc.equal(plan["action"], Action.QUARANTINE.value)).as_py() or 0
    carried = carried_rows(store, run.parent, plan, columns=["record_id", "status", "output_key", "carried_from"])
    records.update(_states(carried, erased_elsewhere(store, carried)))
    shards = Counter({"done": 0, "partial": 0, "pending": 0})
    commits: list[tuple[datetime, datetime, int]] = []
    heads: dict[str, str] = {}
    for shard, (history, made) in read_logs(store, run, _history_and_rows):
        if made:
            heads[shard] = made[-1][0].link.sha256
        for entry, rows in made:
            commits.append((pc.min(rows["started"]).as_py() or entry.link.time, entry.link.time, rows.num_rows))
        states = _states(fold(made), history.erased)
        records.update(states)
        left = planned[shard] - len(states)
        records["pending"] += left
        shards["done" if left == 0 else "partial" if states else "pending"] += 1
    times = [ended for _, ended, _ in commits]
    seconds = covered((started, ended) for started, ended, _ in commits)
    rate = sum(count for *_, count in commits) / seconds if seconds > 0 else None
    snapshot = latest_snapshot(store, run)
    unchanged = snapshot and {shard: head["sha256"] for shard, head in snapshot.heads.items()} == heads
    stopped = snapshot.stopped if snapshot and unchanged else None
    return RunStatus(
        run_id=run.id,
        planned=plan.num_rows,
        records=dict(records),
        shards=dict(shards),
        carried=carried.num_rows,
        first_commit=min(times, default=None),
        last_commit=max(times, default=None),
        rate=rate,
        stopped=stopped,
    )


def _history_and_rows(log: ShardLog) -> tuple[History, list[Commit]]:
    history = log.history()
    columns = ["record_id", "status", "output_key", "started"]
    return history, [(entry, log.table(entry, columns=columns)) for entry in history.commits]


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
