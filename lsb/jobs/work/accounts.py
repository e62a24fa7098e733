"""What a run has cost so far, whoever did it: rows by status, and the time of devices.

Rows are counted from the shards' logs. A worker knows its own commits at once; others' are looked for when their leases
changed: whether a shard's log has a next entry is one small request.

A device is at work on a shard for as long as the shard is leased, what loading a model takes included. Leases may be
deleted, and a run of an older version has none: a shard counts at least for the time from the first row of each commit
to the commit.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from lsb.config.job import BudgetConfig
from lsb.jobs.budget import Tally
from lsb.ledger import layout
from lsb.ledger.leases import Lease, read_lease
from lsb.ledger.log.commit_log import LogEntry, ShardLog
from lsb.ledger.run import Run, pending, read_logs
from lsb.store.read_ahead import read_ahead
from lsb.store.store import Store
from lsb.views.status import counts_apart, covered, worked


@dataclass(frozen=True)
class _Account:
    """A shard as its log was read: rows by status, the number of its next entry, and seconds of work on its commits."""

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
        counts: dict[str | None, dict[str, int]] = {None: counts_apart(store, run)}
        counts |= {shard: account.counts for shard, account in self._accounts.items()}
        self.tally = Tally(budget, run.plan["records"], counts)
        if self._timed:
            self._read_seconds([entry.key for entry in store.list(layout.leases_folder(run.id))])
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
            changed = {shard: lease for shard, lease in leases.items() if lease != self._seen.get(shard)}
            others = sorted(changed.keys() - set(own))
            for shard, account in read_logs(self._store, self._run, partial(self._news, changed), others):
                if account is not None:
                    self._accounts[shard] = account
                    self.tally.commit(shard, account.counts)
            if self._timed:
                self._read_seconds([key for lease in changed.values() for key in self._unread(lease)])
                self._spend()
            self._seen |= changed
        finally:
            self._looking.release()

    def rows(self, shard: str) -> int:
        """How many rows a shard had, when it was last looked into."""
        return sum(self._accounts[shard].counts.values())

    def _news(self, leases: Mapping[str, Lease], log: ShardLog) -> _Account | None:
        if not leases[log.shard].given_back:  # so that it may be that nothing is committed since
            known = self._accounts[log.shard].next
            if not self._store.exists(layout.numbered(layout.shard_log(self._run.id, log.shard), known)):
                return None
        return self._account(log)

    def _account(self, log: ShardLog) -> _Account:
        history = log.history()
        head, commits = history.head, history.commits
        seconds = _seconds(log, commits) if self._timed else 0.0
        return _Account(log.counts(commits), head.number + 1 if head else 0, seconds)

    def _unread(self, lease: Lease) -> Iterator[str]:
        """The keys of what is to be read of a shard's leases, if this is its newest: those since the last look, too."""
        before = self._seen.get(lease.shard)
        for number in range(before.number if before else 0, lease.number):
            for back in (False, True):
                yield layout.lease_file(self._run.id, lease.shard, number, back=back)
        yield layout.lease_file(self._run.id, lease.shard, lease.number, back=lease.given_back)

    def _read_seconds(self, keys: Sequence[str]) -> None:
        with read_ahead(keys, lambda key: read_lease(self._store, key)) as contents:
            for key, content in contents:
                place, found = layout.lease_of(key), content()
                if place is not None and found is not None:
                    self._leased[place[:2]] = max(found.seconds, self._leased.get(place[:2], 0.0))

    def _spend(self) -> None:
        leased: dict[str, float] = defaultdict(float)
        for (shard, _), seconds in self._leased.items():
            leased[shard] += seconds
        self.tally.spend(sum(max(leased[shard], one.seconds) for shard, one in self._accounts.items()))


def why_stopped(store: Store, run: Run, budget: BudgetConfig) -> str | None:
    """Why nobody goes on with a run of which something is left; None if somebody may, or nothing is."""
    return Accounts(store, run, budget, {}).tally.spent if pending(store, run) else None


def _seconds(log: ShardLog, commits: Sequence[LogEntry]) -> float:
    """Those between the first row of a commit and the commit, each attempt by itself: it had a device of its own."""
    spans = defaultdict(list)
    for entry in commits:
        spans[entry.attempt].append(worked(log, entry))
    return sum(map(covered, spans.values()))
