"""What a run takes over from others: the snapshots that it names, the rows, and that their images are there."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from lsb.audit.erasures import inspect_erased
from lsb.audit.shards import Shards
from lsb.audit.verdict import TAMPERED, Inspection
from lsb.ledger import layout
from lsb.ledger.carrying import SnapshotReference, carried_rows, read_manifest, reference
from lsb.ledger.log.snapshots import SnapshotLog
from lsb.ledger.manifest import erased_elsewhere
from lsb.ledger.run import Run, open_log, open_named_run
from lsb.ledger.schemas import MANIFEST
from lsb.records import Status


def inspect_carried(seen: Inspection, run: Run, plan: pa.Table | None, shards: Shards) -> None:
    """Check what is carried and add it to `shards`: the rows, and their images to those that are to be checked.

    Of other runs it is checked that the snapshots are there and that their logs name the images. That a row says of an
    image what its shard did is a matter of their own check.
    """
    if only := run.plan.get("only"):
        _inspect_reference(seen, run, only)
    if run.parent is None:
        shards.carried = MANIFEST.empty()
        return
    _inspect_reference(seen, run, run.parent)
    with seen.guard(run.parent["manifest"]):
        shards.carried = carried_rows(seen.store, run.parent, plan) if plan is not None else None
    if (rows := shards.carried) is None:
        return
    seen.checked["carried rows"] += rows.num_rows
    if pc.any(pc.not_equal(rows["transform_id"], run.transform_id)).as_py():
        key = run.parent["manifest"]
        seen.find(TAMPERED, key, f"{key} holds carried rows of another transform")
    made = rows.filter(pc.equal(rows["status"], Status.OK.value))
    for origin in pc.unique(made["carried_from"]).to_pylist():
        seen.present_elsewhere |= {entry.key for entry in seen.store.list(layout.run_folder(origin))}
    with seen.guard(run.parent["manifest"]):
        shards.erased_elsewhere = erased_elsewhere(seen.store, [rows])
    erased = shards.erased_elsewhere.keys() & set(made["output_key"].to_pylist())
    inspect_erased(seen, erased)
    made = made.filter(pc.invert(pc.is_in(made["output_key"], pa.array(erased, pa.string()))))
    for origin in pc.unique(made["carried_from"]).to_pylist():
        _inspect_origin(seen, origin, made.filter(pc.equal(made["carried_from"], origin)), shards)


def _inspect_origin(seen: Inspection, origin: str, rows: pa.Table, shards: Shards) -> None:
    """The logs of the run that made these images must name them."""
    columns = ["shard", "output_key", "output_sha256", "pixels_sha256"]
    for shard in pc.unique(rows["shard"]).to_pylist():
        with seen.guard(layout.shard_log(origin, shard)):
            named = open_log(seen.store, open_named_run(seen.store, origin), shard).history().named
            for row in rows.filter(pc.equal(rows["shard"], shard)).select(columns).to_pylist():
                key, digest = row["output_key"], row["output_sha256"]
                if named.get(key) != digest:
                    seen.find(TAMPERED, key, f"{key} is carried, but the log of run {origin} does not name it so")
                else:
                    shards.outputs[key] = (digest, row["pixels_sha256"])


def _inspect_reference(seen: Inspection, run: Run, named: SnapshotReference) -> None:
    """A snapshot of another run must be there as `run.json` names it."""
    with seen.guard(layout.run_file(named["run"])):
        other = open_named_run(seen.store, named["run"])
        history = SnapshotLog(seen.store, other.id, other.sha256).history()
        found = history.find(named["snapshot"], named["snapshot_sha256"])
        key = layout.numbered(layout.snapshot_log(other.id), named["snapshot"])
        if found is None or not reference(found).items() <= named.items():
            seen.find(TAMPERED, key, f"{key} is not the snapshot that {layout.run_file(run.id)} names")
        if named.get("same_decoding", run.decoding == other.decoding) != (run.decoding == other.decoding):
            file = layout.run_file(run.id)
            seen.find(
                TAMPERED, file, f"{file} does not say of run {other.id} whether it decoded pictures in the same way"
            )
    with seen.guard(named["manifest"]):
        read_manifest(seen.store, named, columns=["record_id"])
        seen.checked["snapshots of other runs"] += 1
