"""What a store holds: every run of every job, how far it is, how old and how large."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime

from lsb.errors import LsbError, UsageError
from lsb.ledger import layout
from lsb.ledger.log.commit_log import ShardLog
from lsb.ledger.log.snapshots import current_run
from lsb.ledger.publish import latest_snapshot
from lsb.ledger.run import open_run, read_logs
from lsb.store.store import Entry, Store

PUBLISHED, PARTIAL, BEGUN, PLANNED, UNREADABLE = "published", "partial", "begun", "planned", "unreadable"


@dataclass(frozen=True)
class ListedRun:
    """One run of a store.

    `state` is `published` (its newest snapshot shows a row for each planned record and all that is committed),
    `partial` (it does not), `begun` (commits but no snapshot), `planned` (no commits), or `unreadable` (see `error`).
    `counts` is the newest snapshot's.
    """

    run: str
    job: str
    state: str
    current: bool = False  # what the job's name stands for
    planned: int | None = None
    counts: dict[str, int] = field(default_factory=dict)  # records by status
    snapshot: int | None = None  # the newest one's number
    created: str | None = None  # ISO 8601, UTC
    last_commit: str | None = None
    objects: int = 0
    bytes: int = 0
    error: LsbError | None = None


def list_runs(store: Store) -> list[ListedRun]:
    """Every run, by job and time of creation. Reads the names of all objects under `runs`, and a few small documents of
    each run.

    Raises:
        UsageError: the store is a run and no root.
    """
    if store.exists("run.json"):
        raise UsageError(f"{store.uri} is a run; give the root under which its `runs` folder lies")
    entries: dict[str, list[Entry]] = defaultdict(list)
    for entry in store.list("runs"):
        run_id = layout.run_of(entry.key)
        if run_id:
            entries[run_id].append(entry)
    current: dict[str, str | None] = {}
    found = []
    for run_id, under in entries.items():
        job = str(layout.job_of(run_id))
        try:
            if job not in current:
                current[job] = current_run(store, job)
            found.append(_run(store, run_id, job, under, current=current[job] == run_id))
        except LsbError as error:
            found.append(ListedRun(run_id, job, UNREADABLE, objects=len(under), bytes=_bytes(under), error=error))
    return sorted(found, key=lambda run: (run.job, run.created or "", run.run))


def _run(store: Store, run_id: str, job: str, entries: list[Entry], *, current: bool) -> ListedRun:
    run = open_run(store, run_id)
    snapshot = latest_snapshot(store, run)
    heads: dict[str, Entry] = {}  # each shard's newest entry, by name alone
    for entry in entries:
        if shard := layout.shard_of_log(entry.key):
            heads[shard] = max(entry, heads.get(shard, entry))
    times = [entry.modified for entry in heads.values()]
    if snapshot is None:
        state = BEGUN if heads else PLANNED
    else:
        shown = {head["key"] for head in snapshot.heads.values()}
        later = [shard for shard, entry in heads.items() if entry.key not in shown]
        # They may condemn or erase, which is no commit.
        commits = [made[-1].link for _, made in read_logs(store, run, ShardLog.entries, later) if made]
        state = PARTIAL if snapshot.missing or any(link.key not in shown for link in commits) else PUBLISHED
        times = [entry.modified for shard, entry in heads.items() if shard not in later]
        times += [link.time.timestamp() for link in commits]
    last = max(times, default=None)
    return ListedRun(
        run=run_id,
        job=job,
        state=state,
        current=current,
        planned=run.plan["records"],
        counts=dict(snapshot.counts) if snapshot else {},
        snapshot=None if snapshot is None else snapshot.number,
        created=run.created,
        last_commit=datetime.fromtimestamp(last, UTC).isoformat(timespec="seconds") if last else None,
        objects=len(entries),
        bytes=_bytes(entries),
    )


def _bytes(entries: list[Entry]) -> int:
    return sum(entry.size for entry in entries)
