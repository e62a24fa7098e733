"""An account of many nights of one job, made from its store alone.

account = account_of(store, "nightly")
assert account.problems == []
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa

from lsb.audit import verify
from lsb.ledger.carrying import FINAL
from lsb.ledger.log.commit_log import read_checked
from lsb.ledger.log.snapshots import MANIFEST_NAME, Snapshot, SnapshotLog, current_run
from lsb.ledger.plan import read_plan
from lsb.ledger.run import Run, open_log, open_run
from lsb.ledger.schemas import MANIFEST, RECORDS, read_table
from lsb.records import Action
from lsb.store.store import Store

INTACT, INCOMPLETE = 0, 11
Picture = tuple[str, str | None]  # record id and digest of the source: a record that has not changed


@dataclass(frozen=True)
class Night:
    """What the store says of one run."""

    run: str
    planned_at: str
    parent: str | None
    listed: int  # files in its data set
    left_out: dict[str, int]  # what else the listing saw, by kind
    rows: dict[str, int]  # of its last snapshot's manifest, by status
    without_result: int  # listed, but without a row in it: the night was cut off
    carried: int
    translated: int  # with a picture
    again: int  # of these unchanged and final in the parent's snapshot: must be none
    after_the_snapshot: int  # of these committed by the parent, but after its snapshot
    better_parent: str | None  # a snapshot that was there and would have saved more
    snapshots: int
    verify: int

    @property
    def whole(self) -> bool:
        return self.snapshots > 0 and self.without_result == 0


@dataclass
class Account:
    nights: list[Night] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"nights": [asdict(night) for night in self.nights], "problems": self.problems}


def account_of(store: Store, job: str) -> Account:
    """Every run of a job in the order in which they were planned, and what is wrong with them."""
    runs = sorted(runs_of(store, job), key=lambda run: run.created)
    account = Account()
    for place, run in enumerate(runs):
        night, problems = _night(store, run, runs[:place], runs[place + 1 :])
        account.nights.append(night)
        account.problems += [f"{run.id}: {problem}" for problem in problems]
    if not runs:
        account.problems.append("there is no run")
        return account
    last = account.nights[-1]
    if not last.whole or last.verify != INTACT:
        account.problems.append(f"the last run {last.run} is not whole and intact: verify says {last.verify}")
    if (named := current_run(store, job)) != last.run:
        account.problems.append(f"the job's name stands for {named}, not for the last run {last.run}")
    return account


def runs_of(store: Store, job: str) -> list[Run]:
    """All runs of a job that were planned, finished or not."""
    names = {entry.key.split("/")[1] for entry in store.list("runs") if entry.key.endswith("/run.json")}
    return [run for run in (open_run(store, name) for name in sorted(names)) if run.job == job]


def snapshots_of(store: Store, run: Run) -> list[tuple[Snapshot, datetime]]:
    """Its snapshots, the oldest first, each with the moment of its entry."""
    history = SnapshotLog(store, run.id, run.sha256).history()
    times = {link.sha256: link.time for link in history.links}
    return [(snapshot, times[snapshot.sha256]) for snapshot in history.snapshots]


def manifest_of(store: Store, snapshot: Snapshot) -> pa.Table:
    return read_table(read_checked(store, snapshot.manifest_key, snapshot.files[MANIFEST_NAME]), MANIFEST)


def committed(store: Store, run: Run) -> set[Picture]:
    """What the run's own shards have made a picture of."""
    made: set[Picture] = set()
    for shard in run.shards():
        log = open_log(store, run, shard)
        for entry in log.entries():
            rows = log.table(entry, columns=["record_id", "source_sha256", "status"]).to_pylist()
            made |= {(row["record_id"], row["source_sha256"]) for row in rows if row["status"] == "ok"}
    return made


def usable_of(store: Store, run: Run) -> set[Picture]:
    """What of a run's data set can be translated."""
    records = read_table(read_checked(store, run.dataset["key"], run.dataset["sha256"]), RECORDS).to_pylist()
    return {(row["record_id"], row["sha256"]) for row in records if row["status"] == "ok"}


def final(rows: pa.Table) -> set[Picture]:
    """The records of a manifest that need not be done again as long as their bytes are the same."""
    return {(row["record_id"], row["source_sha256"]) for row in rows.to_pylist() if row["status"] in FINAL}


def _night(store: Store, run: Run, before: list[Run], after: list[Run]) -> tuple[Night, list[str]]:
    problems: list[str] = []
    records = read_table(read_checked(store, run.dataset["key"], run.dataset["sha256"]), RECORDS).to_pylist()
    plan = read_plan(store, run).to_pylist()
    listed, planned = ({row["record_id"] for row in rows} for rows in (records, plan))
    if listed != planned or len(plan) != len(planned):
        problems.append(f"{len(listed)} files are listed and {len(plan)} planned")
    snapshots = snapshots_of(store, run)
    rows = manifest_of(store, snapshots[-1][0]) if snapshots else MANIFEST.empty()
    ids = rows["record_id"].to_pylist()
    if len(set(ids)) != len(ids) or not set(ids) <= planned:
        problems.append("its manifest has two rows of one record, or a row of one that was not planned")
    made = committed(store, run)
    if after and not snapshots and made & usable_of(store, after[0]):
        problems.append("it has committed pictures and no snapshot, so that no later run can carry them")
    usable = usable_of(store, run)
    held, late = _parents(store, run)
    if again := made & held:
        problems.append(f"{len(again)} unchanged records that its parent's snapshot held were translated again")
    better = _better(store, run, before, usable, len(usable & held))
    if better:
        problems.append(f"it went on from {run.parent and run.parent['run']}, though {better} would have saved more")
    verdict = verify(store, run.id).exit_code
    without = len(planned - set(ids))
    allowed = (INTACT,) if snapshots and not without else (INCOMPLETE,)
    if verdict not in allowed:
        problems.append(f"verify says {verdict}")
    night = Night(
        run=run.id,
        planned_at=run.created,
        parent=run.parent and run.parent["run"],
        listed=len(listed),
        left_out=dict(run.left_out or {}),
        rows=dict(Counter(rows["status"].to_pylist())),
        without_result=without,
        carried=sum(row["action"] == Action.CARRY.value for row in plan),
        translated=len(made),
        again=len(again),
        after_the_snapshot=len(made & late),
        better_parent=better,
        snapshots=len(snapshots),
        verify=verdict,
    )
    return night, problems


def _parents(store: Store, run: Run) -> tuple[set[Picture], set[Picture]]:
    """What the parent's snapshot held, and what the parent has committed beside it."""
    if run.parent is None:
        return set(), set()
    parent = open_run(store, run.parent["run"])
    (snapshot,) = (one for one, _ in snapshots_of(store, parent) if one.sha256 == run.parent["snapshot_sha256"])
    held = final(manifest_of(store, snapshot))
    return held, committed(store, parent) - held


def _better(store: Store, run: Run, before: list[Run], usable: set[Picture], carried: int) -> str | None:
    """A snapshot from before the plan that holds more of its usable records than the parent's."""
    for other in before:
        if (other.transform_id, other.dataset["name"]) != (run.transform_id, run.dataset["name"]):
            continue
        for snapshot, time in snapshots_of(store, other):
            if (
                time < datetime.fromisoformat(run.created)
                and len(usable & final(manifest_of(store, snapshot))) > carried
            ):
                return f"snapshot {snapshot.number} of {other.id}"
    return None
