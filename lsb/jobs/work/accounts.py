"""What a run has cost so far, whoever did it: rows by status, and the time of devices.

Rows are counted from the shards' logs. A worker knows its own commits at once; others' are looked for when their leases
changed: whether a shard's log has a next entry is one small request.

A device is at work on a shard for as long as the shard is leased, what loading a model takes included. Leases may be
deleted, and a run of an older version has none: a shard counts at least for the time that its rows cover.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lsb.config.job import BudgetConfig
from lsb.jobs.budget import Tally
from lsb.ledger import layout
from lsb.ledger.leases import Lease, read_lease
from lsb.ledger.log.commit_log import LogEntry, ShardLog
from lsb.ledger.run import Run, pending, read_logs
from lsb.store.read_ahead import read_ahead
from lsb.store.store import Store
from lsb.views.status import counts_apart, counts_of, covered


@dataclass(frozen=True)
class _Account:
    """A shard as its log was read: rows by status, the number of its next entry, and seconds that its rows cover."""

    counts: dict[str, int]
    next: int
    seconds: float = 0.0


class Accounts:
    """Tells a tally what all workers of a run have committed and how long they took."""

    def __init__(self, store: Store, run: Run, budget: BudgetConfig, leases: Mapping[str, Lease]) -> None:
        """Reads all logs. `leases` were looked at before."""
        self._store = store
        self._run = run
        self._timed = budget.max_device_hours is not None
        self._seen = dict(leases)
        self._looking = threading.Lock()
        self._accounts = dict(read_logs(store, run, self._account))
        self._leased: dict[tuple[str, int], float] = {}  # shard and number of a lease -> seconds
        self._read: dict[str, float] = {}  # a lease's key -> when what was read of it had been written
        counts: dict[str | None, dict[str, int]] = {None: counts_apart(store, run)}
        counts |= {shard: account.counts for shard, account in self._accounts.items()}
        self.tally = Tally(budget, run.plan["records"], counts)
        self._spend()

    def look(self, leases: Mapping[str, Lease], own: Iterable[str]) -> None:
        """Count what others have done since the last look. Of several threads that look at once one does.

        Args:
            leases: each shard's newest.
            own: shards whose commits are told to the tally by whoever makes them.
        """
        if not self._looking.acquire(blocking=False):
            return
        try:
            changed = {shard for shard, lease in leases.items() if lease != self._seen.get(shard)}
            for shard, account in read_logs(self._store, self._run, self._news, sorted(changed.difference(own))):
                if account is not None:
                    self._accounts[shard] = account
                    self.tally.commit(shard, account.counts)
            self._seen |= leases
            self._spend()
        finally:
            self._looking.release()

    def _news(self, log: ShardLog) -> _Account | None:
        known = self._accounts[log.shard].next
        there = self._store.exists(layout.numbered(layout.shard_log(self._run.id, log.shard), known))
        return self._account(log) if there else None

    def _account(self, log: ShardLog) -> _Account:
        history = log.history()
        head, commits = history.head, history.commits
        seconds = _seconds(log, commits) if self._timed else 0.0
        return _Account(counts_of(log, commits), head.number + 1 if head else 0, seconds)

    def _spend(self) -> None:
        if not self._timed:
            return
        entries = {entry.key: entry.modified for entry in self._store.list(layout.leases_folder(self._run.id))}
        newer = [key for key, modified in entries.items() if self._read.get(key) != modified]
        with read_ahead(newer, lambda key: read_lease(self._store, key)) as contents:
            for key, content in contents:
                place, found = layout.lease_of(key), content()
                if place is not None and found is not None:
                    self._leased[place[:2]] = max(found.seconds, self._leased.get(place[:2], 0.0))
                    self._read[key] = entries[key]
        leased: dict[str, float] = defaultdict(float)
        for (shard, _), seconds in self._leased.items():
            leased[shard] += seconds
        self.tally.spend(sum(max(leased[shard], one.seconds) for shard, one in self._accounts.items()))


def why_stopped(store: Store, run: Run, budget: BudgetConfig) -> str | None:
    """Why nobody goes on with a run of which something is left; None if somebody may, or nothing is."""
    return Accounts(store, run, budget, {}).tally.spent if pending(store, run) else None


def _seconds(log: ShardLog, commits: Sequence[LogEntry]) -> float:
    """Those that the rows of a shard cover, each attempt by itself: it had a device of its own."""
    spans = defaultdict(list)
    for entry in commits:
        rows = log.table(entry, columns=["started", "finished"])
        for started, finished in zip(rows["started"].to_pylist(), rows["finished"].to_pylist(), strict=True):
            if started is not None and finished is not None:
                spans[entry.attempt].append((started, finished))
    return sum(map(covered, spans.values()))
