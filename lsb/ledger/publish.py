"""From committed rows to an immutable snapshot: manifest, metrics, attestation, report, then the entry naming them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from io import BufferedRandom
from typing import Any

import pyarrow as pa

from lsb.errors import AlreadyExistsError, IncompleteError
from lsb.ledger import layout
from lsb.ledger.attestation import Signer, attest, open_envelope
from lsb.ledger.gates import Gates
from lsb.ledger.log.commit_log import ShardLog
from lsb.ledger.log.snapshots import (
    ATTESTATION_NAME,
    MANIFEST_NAME,
    METRICS_NAME,
    REPORT_NAME,
    Head,
    Snapshot,
    SnapshotHistory,
    SnapshotLog,
    head_of,
    point_job,
    snapshot_document,
)
from lsb.ledger.manifest import Collected, collect, collect_features
from lsb.ledger.run import Run, read_logs
from lsb.ledger.schemas import MANIFEST, written_tables
from lsb.records import has_output, sha256, sha256_of_file
from lsb.store.store import Store


def manifest_table(store: Store, run: Run, *, partial: bool = False, gates: Gates = Gates()) -> pa.Table:
    """One row of schema MANIFEST per planned record, in record-id order.

    Raises:
        IncompleteError: planned records lack rows and `partial` is off.
    """
    return _collected(store, run, partial, gates).rows


def read_features(store: Store, run: Run, rows: pa.Table) -> pa.Table:
    """FEATURES of those outputs among `rows` of the manifest that have them, in record-id order."""
    return collect_features(store, run, rows)


def publish(
    store: Store,
    run: Run,
    metrics: Mapping[str, Any],
    report: bytes | Callable[[Collected], bytes],
    *,
    partial: bool = False,
    stopped: str | None = None,
    gates: Gates | None = None,
    signer: Signer | None = None,
    named: bool = True,
) -> Snapshot:
    """Freeze what is committed as the run's next snapshot, and let the job's name stand for this run.

    With no commit, metric or gate changed since the last snapshot, that one is returned and nothing is written but
    the job's entry where it is missing; unless `signer` has not signed it.

    Args:
        metrics: JSON values only; no NaN, no infinity.
        report: the HTML page, or what makes it of the rows that are published: one that shows images, which must be
            made anew should one of them be erased meanwhile.
        partial: publish although planned records lack rows.
        stopped: why they do, for those who read the snapshot; implies `partial`.
        gates: what raises flags, by default what `metrics` say of it.
        signer: signs the attestation.
        named: let the job's name stand for this run. A run over some records of another one never takes it, nor one
            without a single picture.

    Raises:
        IncompleteError: they do, and `partial` is off.
        TamperedError: a log or a file of the run is not what was written.
    """
    text = json.dumps(metrics, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    log = SnapshotLog(store, run.id, run.sha256)
    gates = gates or Gates.of(metrics)
    while True:
        # In this order: whoever erases an image writes to the shard's log first and then to this one.
        history = log.history()
        collected = _collected(store, run, partial or stopped is not None, gates)
        heads = collected.heads
        last = history.snapshots[-1] if history.snapshots else None
        if last and _same(last, heads, collected, sha256(text.encode()), gates) and _signed(store, last, signer):
            break
        page = report(collected) if callable(report) else report
        with written_tables(collected.pieces, MANIFEST) as manifest:
            folder = _claim_folder(store, run, history, manifest)
            manifest_sha256 = sha256_of_file(manifest)
        files = {METRICS_NAME: text.encode(), REPORT_NAME: page}
        digests = {MANIFEST_NAME: manifest_sha256, **{name: sha256(data) for name, data in files.items()}}
        document = snapshot_document(
            folder,
            digests,
            heads,
            collected.counts(),
            collected.planned,
            gates.thresholds,
            collected.erasures,
            stopped,
        )
        head = history.head
        place = {"generation": head.number + 1 if head else 0, "parent": head.sha256 if head else None}
        files[ATTESTATION_NAME] = attest(run, {**document, **place}, signer)
        document["files"][ATTESTATION_NAME] = sha256(files[ATTESTATION_NAME])
        try:
            for name in (METRICS_NAME, ATTESTATION_NAME, REPORT_NAME):
                store.create(f"{layout.snapshot_folder(run.id, folder)}/{name}", files[name])
        except AlreadyExistsError:
            # The folder was condemned since the log was read: somebody's manifest is deleted, the rest not yet.
            continue
        if last := log.append(head, document):
            break
    if named and "only" not in run.plan and has_output(last.counts):
        point_job(store, run.job, last)
    return last


def current_heads(store: Store, run: Run) -> dict[str, Head]:
    """Each shard's newest log entry as a snapshot names it; shards without one are absent."""
    logs = read_logs(store, run, ShardLog.entries)
    return {shard: head_of(commits[-1].link) for shard, commits in logs if commits}


def latest_snapshot(store: Store, run: Run) -> Snapshot | None:
    """The run's newest snapshot, None before the first."""
    snapshots = SnapshotLog(store, run.id, run.sha256).history().snapshots
    return snapshots[-1] if snapshots else None


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


def _same(last: Snapshot, heads: Mapping[str, Head], collected: Collected, metrics: str, gates: Gates) -> bool:
    rows = (last.heads, last.erasures) == (heads, collected.erasures)
    return rows and last.files[METRICS_NAME] == metrics and last.gates == gates.thresholds


def _signed(store: Store, last: Snapshot, signer: Signer | None) -> bool:
    if signer is None:
        return True
    key = last.attestation_key
    return signer.public.verifies(open_envelope(store.read(key), key))


def _claim_folder(store: Store, run: Run, history: SnapshotHistory, manifest: BufferedRandom) -> int:
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
