"""Somebody who can write to a store and knows its format: changes files and makes seals and digests fit again.

Whatever the forger changes, `fit` makes everything above it anew, as far up as asked for, so that nothing but a key or
a digest kept elsewhere can tell.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from lsb.ledger import layout
from lsb.ledger.attestation import Signer, attest
from lsb.ledger.gates import Gates
from lsb.ledger.log.seal import SEAL, seal
from lsb.ledger.manifest import combine
from lsb.ledger.plan import read_plan
from lsb.ledger.run import Run, open_log, open_run
from lsb.ledger.schemas import MANIFEST, read_table, write_table
from lsb.records import sha256
from lsb.store.store import Store

OF_THE_LOG = ("schema", "run", "run_sha256", "nonce", "time")


def edit(store: Store, key: str, **changes: Any) -> str:
    """Change fields of a sealed document, None removing one, and seal it again. Returns its new digest."""
    document = json.loads(store.read(key))
    del document[SEAL]
    for name, value in changes.items():
        document[name] = value
        if value is None:
            del document[name]
    data = seal(document)
    store.write(key, data)
    return sha256(data)


def fields(store: Store, key: str) -> dict[str, Any]:
    return dict(json.loads(store.read(key)))


def change_rows(store: Store, key: str, change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Rewrite a file of manifest rows."""
    rows = read_table(store.read(key), MANIFEST).to_pylist()
    store.write(key, write_table(MANIFEST.table([row | change(row) for row in rows]), MANIFEST))


def logs(store: Store, folder: str) -> list[str]:
    """The entries of a log, in order."""
    return [entry.key for entry in store.list(folder)]


def fit_shards(store: Store, run: Run) -> None:
    """Make every shard's log name the files as they are now."""
    for shard in run.shards():
        parent = None
        for key in logs(store, layout.shard_log(run.id, shard)):
            folder = layout.shard_folder(run.id, shard)
            files = {name: sha256(store.read(f"{folder}/{name}")) for name in fields(store, key)["files"]}
            linked = {} if parent is None else {"parent": parent}
            identity = {"run_sha256": run.sha256, "plan_sha256": run.plan["sha256"]}
            parent = edit(store, key, files=files, **identity, **linked)


def fit_snapshots(store: Store, run: Run, signer: Signer | None = None) -> None:
    """Make every snapshot hold the shards' rows and files as they are now, signed by `signer` or not at all."""
    parent = None
    for key in logs(store, layout.snapshot_log(run.id)):
        document = fields(store, key)
        place = layout.snapshot_folder(run.id, document["folder"])
        heads, commits = {}, {}
        for shard, head in document["heads"].items():
            log = open_log(store, run, shard)
            entries = log.entries()[: head["generation"] + 1]
            heads[shard] = {**head, "sha256": entries[-1].link.sha256}
            commits[shard] = [(entry, log.table(entry)) for entry in entries]
        try:
            metrics = json.loads(store.read(f"{place}/metrics.json"))
        except ValueError:  # it was changed before
            metrics = {}
        gates = Gates.of(metrics, document["gates"])
        collected = combine(run, read_plan(store, run), commits.items(), MANIFEST.empty(), gates)
        store.write(f"{place}/manifest.parquet", write_table(collected.rows, MANIFEST))
        document |= {"counts": collected.counts(), "planned": collected.planned}
        document |= {"heads": heads, "run_sha256": run.sha256, "parent": parent}
        files = {name: sha256(store.read(f"{place}/{name}")) for name in document["files"]}
        stated = {name: value for name, value in document.items() if name not in (*OF_THE_LOG, SEAL)}
        store.write(f"{place}/attestation.json", attest(run, {**stated, "files": files}, signer))
        files["attestation.json"] = sha256(store.read(f"{place}/attestation.json"))
        del document[SEAL]
        data = seal({**document, "files": files})
        store.write(key, data)
        parent = sha256(data)


def fit_job(store: Store, run: Run) -> None:
    """Make the job's log name the snapshots as they are now."""
    snapshots = logs(store, layout.snapshot_log(run.id))
    parent = None
    for key in logs(store, layout.job_log(run.job)):
        digest = sha256(store.read(snapshots[fields(store, key)["snapshot"]]))
        linked = {} if parent is None else {"parent": parent}
        parent = edit(store, key, snapshot_sha256=digest, **linked)


def fit(store: Store, run_id: str, signer: Signer | None = None) -> None:
    """Make all logs fit the files as they are now."""
    run = open_run(store, run_id)
    fit_shards(store, run)
    fit_snapshots(store, run, signer)
    fit_job(store, run)
