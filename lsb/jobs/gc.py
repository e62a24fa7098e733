"""Delete what nobody names: what attempts, publications and plans that never ended have left behind.

Somebody who is only slow may still be about to name it. So an attempt or a snapshot's folder is condemned in its log
first, behind the very entry that was read: either the slow one's entry came first and its files stay, or the
condemnation did, and whoever finds itself condemned begins again elsewhere. Age spares those who are at work from
having to; no claim rests on it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, groupby

import pyarrow.compute as pc

from lsb.errors import LsbError, NotFoundError, StoreError, TamperedError, UnverifiableError, UsageError
from lsb.ledger import layout
from lsb.ledger.log.commit_log import History, read_checked
from lsb.ledger.log.snapshots import SnapshotHistory, SnapshotLog
from lsb.ledger.parts import is_of_parts
from lsb.ledger.run import Run, open_log, open_run
from lsb.ledger.schemas import MANIFEST, read_table
from lsb.records import sha256
from lsb.store import temporary
from lsb.store.scratch import ScratchStore
from lsb.store.store import Entry, Store

LEAST_HOURS = 24.0
REASON = "clean-up"
ATTEMPTS, SNAPSHOTS, PLANS, HINTS, LEASES = "attempts", "snapshots", "plans", "hints", "leases"
TEMPORARY = "temporary"


@dataclass(frozen=True)
class Leftover:
    """An object that nobody names; `kind` is `attempts`, `snapshots`, `plans`, `hints`, `leases` or `temporary`."""

    key: str
    size: int
    kind: str


@dataclass(frozen=True)
class CleanUp:
    """What was deleted, or would be in a dry run. `left_alone`: run id to why nothing under it was deleted."""

    deleted: tuple[Leftover, ...]
    left_alone: dict[str, LsbError]

    @property
    def size(self) -> int:
        """Bytes of all that was deleted."""
        return sum(leftover.size for leftover in self.deleted)

    def counts(self) -> dict[str, int]:
        """Objects by kind."""
        return dict(Counter(leftover.kind for leftover in self.deleted))

    @property
    def exit_code(self) -> int:
        """0, or 10 (tampered) before 12 (unverifiable) where a run was left alone."""
        return min((error.exit_code for error in self.left_alone.values()), default=0)


def clean_up(
    store: Store, *, older_than: float = LEAST_HOURS, dry_run: bool = False, least: float = LEAST_HOURS
) -> CleanUp:
    """Delete every object in the known layout that no log entry, snapshot or `run.json` under the root names.

    Any number of these, of workers and of publishers may be at work at once. A run whose logs or snapshots are not
    what was written is left alone.

    Args:
        older_than: hours since an object was written, by the store's clock.
        dry_run: delete nothing; what it returns is what would be deleted.
        least: the smallest `older_than` that is allowed.

    Raises:
        UsageError: `older_than` is below that, the store is a run and no root, or nothing in it is of lsb.
    """
    if older_than < least:
        raise UsageError(
            f"{older_than:g} hours are too few: what is younger than {least:g} may belong to somebody at work; "
            f"give {least:g} or more"
        )
    if store.exists("run.json"):
        raise UsageError(f"{store.uri} is a run; give the root under which its `runs` folder lies")
    runs = store.list("runs")
    _demand_store(store, runs)
    before = _now(store) - older_than * 3600
    sweep = _Sweep(ScratchStore(store) if dry_run else store, before)
    for run_id, entries in groupby(runs, key=lambda entry: layout.run_of(entry.key)):
        if run_id:
            with sweep.sparing(run_id):
                sweep.look_at(run_id, list(entries))
    for run_id in sweep.found:
        with sweep.sparing(run_id):
            sweep.clean(run_id)
    built = (entry for entry in store.list(temporary.TEMPORARY) if temporary.is_temporary(entry.key))
    sweep.delete((entry for entry in built if entry.modified < before), TEMPORARY)
    return CleanUp(tuple(sweep.deleted), sweep.left_alone)


@dataclass
class _Found:
    """What of one run is old enough and lies where nothing but an entry could name it, and the run's logs."""

    run: Run | None = None  # None: the run of these plans has not been created
    plans: list[Entry] = field(default_factory=list)
    hints: list[Entry] = field(default_factory=list)
    leases: list[Entry] = field(default_factory=list)
    objects: dict[str, list[tuple[str, Entry]]] = field(default_factory=lambda: defaultdict(list))  # shard -> attempt
    views: list[tuple[int, Entry]] = field(default_factory=list)  # folder of a snapshot
    histories: dict[str, History] = field(default_factory=dict)
    published: SnapshotHistory | None = None


@dataclass
class _Sweep:
    store: Store
    before: float  # the store's time; what was written then or later stays
    found: dict[str, _Found] = field(default_factory=dict)
    carried: set[str] = field(default_factory=set)  # outputs that manifests of other runs name
    deleted: list[Leftover] = field(default_factory=list)
    left_alone: dict[str, LsbError] = field(default_factory=dict)

    @contextmanager
    def sparing(self, run_id: str) -> Iterator[None]:
        """Leave a run alone whose logs or snapshots are not what was written, or cannot be read."""
        try:
            yield
        except (TamperedError, UnverifiableError) as error:
            self.left_alone[run_id] = error
        except StoreError as error:
            if not error.of_object:
                raise
            self.left_alone[run_id] = UnverifiableError(error.message, key=error.key)

    def look_at(self, run_id: str, entries: Sequence[Entry]) -> None:
        """Read a run's logs, all of them before anything is deleted, and note what may go."""
        found = _Found()
        for entry in entries:
            place = layout.place_of(entry.key)
            if layout.is_advice(entry.key) and entry.modified < self.before:
                (found.hints if layout.is_hint(entry.key) else found.leases).append(entry)
            if place is None or entry.modified >= self.before:
                continue
            if place.attempt:
                found.objects[place.attempt[0]].append((place.attempt[1], entry))
            elif place.snapshot is not None:
                found.views.append((place.snapshot, entry))
            else:
                found.plans.append(entry)
        key = layout.run_file(run_id)
        if any(entry.key == key for entry in entries) or self.store.exists(key):
            self._read_logs(run_id, found)
        elif len(found.plans) < len([entry for entry in entries if entry.modified < self.before]):
            raise TamperedError(f"{key} is missing though the run has other files", key=key)
        self.found[run_id] = found

    def clean(self, run_id: str) -> None:
        """Delete what nobody names of a run that was looked at."""
        found = self.found[run_id]
        if found.run is None or found.published is None:
            self._clean_plans(run_id, found.plans)
            return
        self.delete((entry for entry in found.plans if entry.key != found.run.plan["key"]), PLANS)
        # Nobody relies on these: the next attempt just knows less, and somebody asleep may meet another at his shard.
        self.delete(found.hints, HINTS)
        self.delete(found.leases, LEASES)
        for shard, history in found.histories.items():
            self._clean_shard(found.run, shard, history, found.objects[shard])
        self._clean_snapshots(found.run, found.published, found.views)

    def delete(self, entries: Iterable[Entry], kind: str) -> None:
        for entry in entries:
            self.store.delete(entry.key)
            self.deleted.append(Leftover(entry.key, entry.size, kind))

    def _read_logs(self, run_id: str, found: _Found) -> None:
        found.run = run = open_run(self.store, run_id)
        found.published = SnapshotLog(self.store, run.id, run.sha256).history()
        found.histories = {shard: open_log(self.store, run, shard).history() for shard in run.shards()}
        for snapshot in found.published.snapshots:
            for shard, head in snapshot.heads.items():
                if head["sha256"] not in {commit.link.sha256 for commit in found.histories[shard].commits}:
                    text = f"the log of {run.id}, shard {shard} lacks the entry that a snapshot names"
                    raise TamperedError(text, key=head["key"])
            manifest = read_checked(self.store, snapshot.manifest_key, snapshot.digests()[snapshot.manifest_key])
            rows = read_table(manifest, MANIFEST, columns=["output_key", "carried_from"])
            self.carried.update(rows.filter(pc.is_valid(rows["carried_from"]))["output_key"].drop_null().to_pylist())

    def _clean_shard(self, run: Run, shard: str, history: History, objects: Sequence[tuple[str, Entry]]) -> None:
        log = open_log(self.store, run, shard)
        while True:
            kept = history.named.keys() | (self.carried - history.erased.keys())
            unnamed = [(attempt, entry) for attempt, entry in objects if entry.key not in kept]
            attempts = {attempt for attempt, _ in unnamed} - history.condemned
            if not attempts or log.condemn(history.head, attempts=attempts, reason=REASON):
                break
            history = log.history()
        self.delete((entry for _, entry in unnamed), ATTEMPTS)

    def _clean_snapshots(self, run: Run, history: SnapshotHistory, views: Sequence[tuple[int, Entry]]) -> None:
        log = SnapshotLog(self.store, run.id, run.sha256)
        while True:
            named = {key for snapshot in history.snapshots for key in snapshot.digests()} - history.erased
            unnamed = [(folder, entry) for folder, entry in views if entry.key not in named]
            folders = {folder for folder, _ in unnamed} - history.condemned
            if not folders or log.condemn(history.head, folders=folders, reason=REASON):
                break
            history = log.history()
        self.delete((entry for _, entry in unnamed), SNAPSHOTS)

    def _clean_plans(self, run_id: str, plans: Sequence[Entry]) -> None:
        """Delete plans that no run was made of. Somebody slow may be making it now: then the plan is put back."""
        for entry in plans:
            try:
                data = self.store.read(entry.key)
            except NotFoundError:  # another clean-up was first
                continue
            self.store.delete(entry.key)
            name = layout.plan_file(run_id, sha256(data), of_parts=is_of_parts(data))
            if entry.key == name and self.store.exists(layout.run_file(run_id)):
                self.store.write(entry.key, data)
            else:
                self.deleted.append(Leftover(entry.key, entry.size, PLANS))


def _demand_store(store: Store, runs: Sequence[Entry]) -> None:
    others = (entry for folder in layout.FOLDERS if folder != "runs" for entry in store.list(folder))
    if not any(layout.makes_a_store(entry.key) for entry in chain(runs, others)):
        raise UsageError(
            f"{store.uri} is no store of lsb: nothing that lsb makes lies in its {', '.join(layout.FOLDERS)}; "
            "give a job's `store`"
        )


def _now(store: Store) -> float:
    """The time by the store's own clock, which is the one that dates its objects."""
    key = temporary.probe_file()
    store.write(key, b"")
    try:
        return next(entry.modified for entry in store.list(temporary.TEMPORARY) if entry.key == key)
    finally:
        store.delete(key)
