"""From committed rows to an immutable snapshot: manifest, metrics, attestation, report, then the entry naming them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from lsb.errors import AlreadyExistsError, IncompleteError
from lsb.manifest import Collected, Gates, collect, collect_features
from lsb.records import canonical_json, sha256
from lsb.sharding import Run
from lsb.storage import layout
from lsb.storage.schemas import MANIFEST, write_table
from lsb.storage.snapshots import (
    ATTESTATION_NAME,
    MANIFEST_NAME,
    METRICS_NAME,
    REPORT_NAME,
    Snapshot,
    SnapshotHistory,
    SnapshotLog,
    point_job,
    snapshot_document,
)
from lsb.storage.store import Store

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
PREDICATE_TYPE = "urn:lsb:snapshot-attestation:v1"


def manifest_table(store: Store, run: Run, *, partial: bool = False, gates: Gates = Gates()) -> pa.Table:
    """One row of schema MANIFEST per planned record, in record-id order.

    Raises:
        IncompleteError: planned records lack rows and `partial` is off.
    """
    return _collected(store, run, partial, gates).rows


def read_features(store: Store, run: Run) -> pa.Table:
    """FEATURES of the outputs in the metric sample, in record-id order."""
    return collect_features(store, run)


def publish(
    store: Store,
    run: Run,
    metrics: Mapping[str, Any],
    report: bytes,
    *,
    partial: bool = False,
    gates: Gates = Gates(),
) -> Snapshot:
    """Freeze what is committed as the run's next snapshot, and let the job's name stand for this run.

    With no commit, metric or gate changed since the last snapshot, that one is returned and nothing is written but
    the job's entry where it is missing.

    Args:
        metrics: JSON values only; no NaN, no infinity.
        report: the HTML page.
        partial: publish although planned records lack rows.

    Raises:
        IncompleteError: they do, and `partial` is off.
        TamperedError: a log or a file of the run is not what was written.
    """
    collected = _collected(store, run, partial, gates)
    text = json.dumps(metrics, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    heads = {
        shard: {"key": entry.link.key, "generation": entry.link.number, "sha256": entry.link.sha256}
        for shard, entry in collected.heads.items()
    }
    log = SnapshotLog(store, run.id, run.sha256)
    while True:
        history = log.history()
        last = history.snapshots[-1] if history.snapshots else None
        if last and _same(last, heads, sha256(text.encode()), gates):
            break
        manifest = write_table(collected.rows, MANIFEST)
        folder = _claim_folder(store, run, history, manifest)
        files = {MANIFEST_NAME: manifest, METRICS_NAME: text.encode(), REPORT_NAME: report}
        files[ATTESTATION_NAME] = attestation(run, layout.snapshot_folder(run.id, folder), files, heads, collected)
        for name in (METRICS_NAME, ATTESTATION_NAME, REPORT_NAME):
            store.create(f"{layout.snapshot_folder(run.id, folder)}/{name}", files[name])
        digests = {name: sha256(data) for name, data in files.items()}
        document = snapshot_document(folder, digests, heads, collected.counts(), collected.planned, gates.thresholds())
        if last := log.append(history.head, document):
            break
    point_job(store, run.job, last)
    return last


def latest_snapshot(store: Store, run: Run) -> Snapshot | None:
    """The run's newest snapshot, None before the first."""
    snapshots = SnapshotLog(store, run.id, run.sha256).history().snapshots
    return snapshots[-1] if snapshots else None


def attestation(
    run: Run, folder: str, files: Mapping[str, bytes], heads: Mapping[str, Mapping[str, Any]], collected: Collected
) -> bytes:
    """An in-toto statement over manifest, metrics, run, plan and shard heads in a DSSE envelope without signature."""
    covered = subjects(run, folder, {name: sha256(data) for name, data in files.items()}, heads)
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(covered.items())],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "assurance": "integrity only",
            "run": run.id,
            "dataset": {"name": run.dataset["name"], "version": run.dataset["version"]},
            "transform": run.transform_id,
            "planned": collected.planned,
            "counts": collected.counts(),
        },
    }
    payload = base64.b64encode(canonical_json(statement)).decode()
    return canonical_json({"payloadType": PAYLOAD_TYPE, "payload": payload, "signatures": []})


def subjects(
    run: Run, folder: str, digests: Mapping[str, str], heads: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """What an attestation covers, directly: key under the root to SHA-256."""
    return {
        **{f"{folder}/{name}": digests[name] for name in (MANIFEST_NAME, METRICS_NAME)},
        layout.run_file(run.id): run.sha256,
        run.plan["key"]: run.plan["sha256"],
        **{head["key"]: head["sha256"] for head in heads.values()},
    }


def _collected(store: Store, run: Run, partial: bool, gates: Gates) -> Collected:
    collected = collect(store, run, gates=gates)
    if collected.missing and not partial:
        raise IncompleteError(
            f"{collected.missing} of {collected.planned} planned records of run {run.id} lack rows; "
            "run it again to finish them",
            run=run.id,
            missing=collected.missing,
        )
    return collected


def _same(last: Snapshot, heads: Mapping[str, Any], metrics: str, gates: Gates) -> bool:
    return last.heads == heads and last.files[METRICS_NAME] == metrics and last.gates == gates.thresholds()


def _claim_folder(store: Store, run: Run, history: SnapshotHistory, manifest: bytes) -> int:
    """The number of a snapshot folder that nobody else writes to, claimed by creating the manifest in it.

    It is the snapshot's own number, unless somebody crashed there or is at it now. A condemned one is never used
    again: clean-up may still be deleting there.
    """
    number = history.head.number + 1 if history.head else 0
    while True:
        if number not in history.condemned:
            try:
                store.create(f"{layout.snapshot_folder(run.id, number)}/{MANIFEST_NAME}", manifest)
            except AlreadyExistsError:
                pass
            else:
                return number
        number += 1
