"""What a run takes over from others: the snapshots that it names, the rows, and that their images are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lsb.audit.shards import Shards
from lsb.audit.verdict import TAMPERED, Inspection
from lsb.carrying import carried_rows, read_manifest, reference
from lsb.records import Status
from lsb.sharding import Run, open_run
from lsb.storage import layout
from lsb.storage.schemas import MANIFEST
from lsb.storage.snapshots import SnapshotLog


def inspect_carried(seen: Inspection, run: Run, plan: pa.Table | None, shards: Shards) -> None:
    """Check what is carried and add it to `shards`: the rows, and their images to those that are to be checked.

    Of the parent its `run.json`, the snapshot and the manifest are checked, not its shards: verify it to know that its
    rows were committed.
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
    columns = (made[name].to_pylist() for name in ("output_key", "output_sha256", "pixels_sha256"))
    shards.outputs |= {key: (digest, pixels) for key, digest, pixels in zip(*columns, strict=True)}


def _inspect_reference(seen: Inspection, run: Run, named: Mapping[str, Any]) -> None:
    """A snapshot of another run must be there as `run.json` names it."""
    with seen.guard(layout.run_file(named["run"])):
        other = open_run(seen.store, named["run"])
        history = SnapshotLog(seen.store, other.id, other.sha256).history()
        found = history.find(named["snapshot"], named["snapshot_sha256"])
        key = layout.numbered(layout.snapshot_log(other.id), named["snapshot"])
        if found is None or any(named[name] != value for name, value in reference(found).items()):
            seen.find(TAMPERED, key, f"{key} is not the snapshot that {layout.run_file(run.id)} names")
    with seen.guard(named["manifest"]):
        read_manifest(seen.store, named, columns=["record_id"])
        seen.checked["snapshots of other runs"] += 1
