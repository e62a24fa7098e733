"""Check one run from `run.json` down.

What an entry, a snapshot or `run.json` names must be there with the digest it was given; what can be derived is
derived again and compared. Files that nobody names are listed and raise no alarm.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from lsb.audit.anchor import Anchor, inspect_anchor
from lsb.audit.carried import inspect_carried
from lsb.audit.rows import inspect_identities, same
from lsb.audit.shards import inspect_outputs, inspect_shards
from lsb.audit.snapshots import Snapshots, inspect_job, inspect_snapshots
from lsb.audit.verdict import INCOMPLETE, TAMPERED, Inspection, Verdict
from lsb.errors import UsageError
from lsb.ledger import layout
from lsb.ledger.dataset import version_of
from lsb.ledger.log.snapshots import Snapshot
from lsb.ledger.plan import planned, read_plan, sample_of
from lsb.ledger.run import Run, open_run, settings_of
from lsb.ledger.schemas import RECORDS, read_table
from lsb.records import digest_of
from lsb.store.store import Store


def verify(store: Store, run_id: str, sample: int | None = None, anchor: Anchor = Anchor(), seed: str = "") -> Verdict:
    """Check a run and everything it rests on.

    Args:
        sample: read only this many output images, always the same ones, 0 none at all; None reads all.
        anchor: what must stand behind the newest snapshot.
        seed: chooses another sample.

    Raises:
        UsageError: the store has no such run.
    """
    seen = Inspection(store, run_id, {entry.key for entry in store.list(layout.run_folder(run_id))})
    run = _inspect_run(seen)
    snapshots = Snapshots()
    if run is not None:
        plan = _inspect_plan(seen, run)
        _inspect_transform(seen, run)
        shards = inspect_shards(seen, run, plan, sample, seed)
        inspect_carried(seen, run, plan, shards)
        inspect_outputs(seen, shards)
        snapshots = inspect_snapshots(seen, run, plan, shards)
        inspect_job(seen, run, snapshots.views)
        _inspect_completeness(seen, run, snapshots.views)
    assurance = inspect_anchor(seen, anchor, snapshots)
    return Verdict(
        run_id=run_id,
        findings=tuple(seen.findings.values()),
        orphans=tuple(seen.orphans()),
        checked=dict(seen.checked),
        sample=sample,
        snapshot=snapshots.views[-1].sha256 if snapshots.views else None,
        assurance=assurance,
        erased=tuple(seen.erased),
    )


def _inspect_run(seen: Inspection) -> Run | None:
    key = layout.run_file(seen.run_id)
    if not seen.store.exists(key):
        if not seen.present:
            raise UsageError(f"no run {seen.run_id} in {seen.store.uri}; `lsb run` prints the id of a run")
        seen.find(TAMPERED, key, f"{key} is missing though the run has other files")
        return None
    with seen.guard(key):
        run = open_run(seen.store, seen.run_id)
        seen.name([key])
        seen.checked["run"] += 1
        return run
    return None


def _inspect_plan(seen: Inspection, run: Run) -> pa.Table | None:
    """The plan, if it is the frozen one; it must follow from the data set's records and the snapshots it names."""
    proved = None
    data = seen.named_file(run.dataset["key"], run.dataset["sha256"], "data set")
    if data is not None:
        with seen.guard(run.dataset["key"]):
            records = read_table(data, RECORDS)
            if version_of(records) != run.dataset["version"]:
                seen.find(TAMPERED, run.dataset["key"], "its records give another version of the data set")
            inspect_identities(seen, run.dataset["key"], records["record_id"], records["key"])
            proved = data
            del records  # there may be millions
    key = run.plan["key"]
    seen.name([key])
    with seen.guard(key):
        plan = read_plan(seen.store, run)
        seen.checked["plan"] += 1
        inspect_identities(seen, key, plan["record_id"], plan["key"])
        counted = {"records": plan.num_rows, "shards": len(plan["shard"].drop_null().unique())}
        if counted != {"records": run.plan["records"], "shards": run.plan["shards"]}:
            seen.find(TAMPERED, layout.run_file(run.id), f"{layout.run_file(run.id)} counts {key} in another way")
        frozen = run.plan.get("sample")
        if frozen is not None and frozen != sample_of(plan, frozen["records"]):
            seen.find(
                TAMPERED, layout.run_file(run.id), f"{layout.run_file(run.id)} names another sample than {key} gives"
            )
        if proved is not None:
            _, pieces = planned(seen.store, proved, settings_of(run.plan), run.parent)
            if not same(pieces, [plan]):
                seen.find(TAMPERED, key, f"{key} does not follow from the data set, the parent and the plan's settings")
        return plan
    return None


def _inspect_transform(seen: Inspection, run: Run) -> None:
    place = layout.run_file(run.id)
    with seen.guard(place):
        for key, digest in run.files.items():
            seen.named_file(key, digest, "prompt files")
        if digest_of(run.transform["model"]) != run.model["digest"]:
            seen.find(TAMPERED, place, f"{place} names a model that is not the transform's")
        for role, key in run.prompts.items():
            if run.files.get(key) != run.transform["prompts"][role]:
                seen.find(TAMPERED, key, f"{key} is not the {role} prompt of the run's transform")


def _inspect_completeness(seen: Inspection, run: Run, snapshots: Sequence[Snapshot]) -> None:
    if seen.tampered:
        return  # what is missing then is no statement about the work
    key = layout.snapshot_log(run.id)
    with seen.guard(key):
        if not snapshots:
            seen.find(INCOMPLETE, key, "no snapshot is published; run it again to finish")
        elif missing := snapshots[-1].missing:
            seen.find(INCOMPLETE, key, f"{missing} planned records have no row in the last snapshot; run it again")
