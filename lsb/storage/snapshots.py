"""The published views of a run, and which run a job's name stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lsb.storage import layout
from lsb.storage.chain import Chain, Link
from lsb.storage.store import Store

SNAPSHOT_SCHEMA = "lsb.snapshot/1"
JOB_SCHEMA = "lsb.job/1"
MANIFEST_NAME = "manifest.parquet"
METRICS_NAME = "metrics.json"
ATTESTATION_NAME = "attestation.json"
REPORT_NAME = "report/index.html"


@dataclass(frozen=True)
class Snapshot:
    """An immutable view of a run. `heads` maps each shard to the digest of its log's last entry then."""

    run_id: str
    number: int
    folder: str
    files: dict[str, str]  # name in the folder -> SHA-256
    heads: dict[str, dict[str, Any]]  # shard -> {"generation", "sha256"}
    counts: dict[str, int]
    planned: int
    gates: dict[str, float]
    sha256: str  # of the entry in snapshots/log

    @property
    def manifest_key(self) -> str:
        return f"{self.folder}/{MANIFEST_NAME}"

    @property
    def metrics_key(self) -> str:
        return f"{self.folder}/{METRICS_NAME}"

    @property
    def attestation_key(self) -> str:
        return f"{self.folder}/{ATTESTATION_NAME}"

    @property
    def report_key(self) -> str:
        return f"{self.folder}/{REPORT_NAME}"

    def digests(self) -> dict[str, str]:
        """Every file of the snapshot by its key under the root, with its digest."""
        return {f"{self.folder}/{name}": digest for name, digest in self.files.items()}


def snapshot_chain(store: Store, run_id: str, run_sha256: str) -> Chain:
    """The log of a run's snapshots."""
    return Chain(store, layout.snapshot_log(run_id), SNAPSHOT_SCHEMA, {"run": run_id, "run_sha256": run_sha256})


def snapshot_of(link: Link) -> Snapshot:
    """What an entry of the snapshot log says."""
    document = link.document
    return Snapshot(
        run_id=document["run"],
        number=link.number,
        folder=layout.snapshot_folder(document["run"], document["folder"]),
        files=document["files"],
        heads=document["heads"],
        counts=document["counts"],
        planned=document["planned"],
        gates=document["gates"],
        sha256=link.sha256,
    )


def snapshot_document(
    folder: int,
    files: Mapping[str, str],
    heads: Mapping[str, Any],
    counts: Mapping[str, int],
    planned: int,
    gates: Mapping[str, float],
) -> dict[str, Any]:
    """What an entry of the snapshot log holds, apart from what every log entry holds."""
    return {
        "folder": folder,
        "files": dict(files),
        "heads": dict(heads),
        "counts": dict(counts),
        "planned": planned,
        "gates": dict(gates),
    }


def job_chain(store: Store, job: str) -> Chain:
    """The log that says which run a job's name stands for."""
    return Chain(store, layout.job_log(job), JOB_SCHEMA, {"job": job})


def point_job(store: Store, job: str, snapshot: Snapshot) -> None:
    """Let the job's name stand for `snapshot`'s run from now on; nothing happens if it does already."""
    chain = job_chain(store, job)
    wanted = {"run": snapshot.run_id, "snapshot": snapshot.number, "snapshot_sha256": snapshot.sha256}
    while True:
        links = chain.links()
        head = links[-1] if links else None
        if head and {name: head.document[name] for name in wanted} == wanted:
            return
        if chain.append(head, wanted):
            return


def current_run(store: Store, job: str) -> str | None:
    """The run id that the job's name stands for, None before its first snapshot."""
    links = job_chain(store, job).links()
    return links[-1].document["run"] if links else None
