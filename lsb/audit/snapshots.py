"""The published views: their files, and that the manifest holds what the shards hold."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from lsb.audit.erasures import inspect_erased, known_erasures
from lsb.audit.rows import inspect_identities, same
from lsb.audit.shards import Shards
from lsb.audit.verdict import TAMPERED, Inspection
from lsb.ledger import layout
from lsb.ledger.attestation import PAYLOAD_TYPE, Envelope, open_envelope, statement
from lsb.ledger.gates import Gates
from lsb.ledger.log.commit_log import Commit
from lsb.ledger.log.snapshots import Snapshot, SnapshotLog, job_chain
from lsb.ledger.manifest import Collected, combine
from lsb.ledger.run import Run
from lsb.ledger.schemas import MANIFEST, read_table, tables_of


@dataclass
class Snapshots:
    """The published views that can be read, in order, and the newest one's attestation."""

    views: list[Snapshot] = field(default_factory=list)
    envelope: Envelope | None = None
    whole: bool = False  # the log was read from end to end

    @property
    def newest(self) -> Snapshot | None:
        return self.views[-1] if self.views else None


def inspect_snapshots(seen: Inspection, run: Run, plan: pa.Table | None, shards: Shards) -> Snapshots:
    """Check every snapshot of the run."""
    log = layout.snapshot_log(run.id)
    history, problems = SnapshotLog(seen.store, run.id, run.sha256).scan()
    for problem in problems:
        seen.blame(problem, log)
    if problems:
        seen.blind.append(layout.snapshots_folder(run.id) + "/")
    seen.name(link.key for link in history.links)
    inspect_erased(seen, history.erased)
    found = Snapshots(history.snapshots, whole=not problems)
    for snapshot in history.snapshots:
        seen.checked["snapshots"] += 1
        found.envelope = None
        with seen.guard(layout.numbered(log, snapshot.number)):
            found.envelope = _inspect_snapshot(seen, run, plan, shards, snapshot, history.erased)
    return found


def inspect_job(seen: Inspection, run: Run, snapshots: Sequence[Snapshot]) -> None:
    """Check the log that says which snapshots the job's name stood for."""
    links, problems = job_chain(seen.store, run.job).scan()
    for problem in problems:
        seen.blame(problem, layout.job_log(run.job))
    digests = {snapshot.number: snapshot.sha256 for snapshot in snapshots}
    for link in links:
        seen.checked["job entries"] += 1
        with seen.guard(link.key):
            number = link.document["snapshot"]
            if link.document["run"] == run.id and digests.get(number) != link.document["snapshot_sha256"]:
                key = layout.numbered(layout.snapshot_log(run.id), number)
                seen.find(TAMPERED, key, f"{key} is not the snapshot that {link.key} names")


def _inspect_snapshot(
    seen: Inspection, run: Run, plan: pa.Table | None, shards: Shards, snapshot: Snapshot, erased: Collection[str]
) -> Envelope | None:
    named = {key: digest for key, digest in snapshot.digests().items() if key not in erased}
    files = dict(seen.named_files(named, "snapshot files"))
    commits = _commits(seen, snapshot, shards)
    manifest, attestation = files.get(snapshot.manifest_key), files.get(snapshot.attestation_key)
    gates = _gates(seen, snapshot, files.get(snapshot.metrics_key))
    if manifest is not None and plan is not None and commits is not None and shards.carried is not None and gates:
        with seen.guard(snapshot.manifest_key):
            gone = {**shards.erased, **shards.erased_elsewhere}
            known = known_erasures(seen, snapshot.erasures, gone, f"snapshot {snapshot.number} of {run.id}")
            collected = combine(run, plan, commits, shards.carried, gates, known)
            _inspect_manifest(seen, collected, snapshot, manifest)
    return _inspect_attestation(seen, run, snapshot, attestation) if attestation else None


def _gates(seen: Inspection, snapshot: Snapshot, metrics: bytes | None) -> Gates | None:
    """What raised the snapshot's flags; None if that cannot be read, which is then found."""
    if metrics is not None:
        with seen.guard(snapshot.metrics_key):
            return Gates.of(json.loads(metrics), snapshot.gates)
    return None


def _commits(seen: Inspection, snapshot: Snapshot, shards: Shards) -> Iterator[tuple[str, list[Commit]]] | None:
    """The commits that a snapshot covers, by shard; None if some cannot be read, which is then found."""
    covered: dict[str, int] = {}
    whole = True
    for shard, head in snapshot.heads.items():
        commits = shards.commits.get(shard, [])
        places = [place for place, (entry, _) in enumerate(commits) if entry.link.sha256 == head["sha256"]]
        if not places and head["sha256"] not in shards.unread:
            seen.find(TAMPERED, head["key"], f"{head['key']} is not the entry that a snapshot names")
        whole = whole and bool(places) and head["sha256"] not in shards.unread
        covered[shard] = places[0] + 1 if places else 0
    return ((shard, shards.committed(shard, count)) for shard, count in covered.items()) if whole else None


def _inspect_manifest(seen: Inspection, collected: Collected, snapshot: Snapshot, manifest: bytes) -> None:
    key = snapshot.manifest_key
    names = read_table(manifest, MANIFEST, columns=["record_id", "source_key"])
    inspect_identities(seen, key, names["record_id"], names["source_key"])
    if not same(collected.pieces, tables_of(manifest, MANIFEST)):
        seen.find(TAMPERED, key, f"{key} holds other rows than the shards")
    elif (collected.counts(), collected.planned) != (snapshot.counts, snapshot.planned):
        seen.find(TAMPERED, key, f"{key} has other counts than its snapshot says")


def _inspect_attestation(seen: Inspection, run: Run, snapshot: Snapshot, attestation: bytes) -> Envelope | None:
    """The envelope, whose statement must be the one that the snapshot's entry gives."""
    key = snapshot.attestation_key
    with seen.guard(key):
        envelope = open_envelope(attestation, key)
        expected = statement(run, snapshot.stated, envelope.key_id)
        if (envelope.payload_type, envelope.payload) != (PAYLOAD_TYPE, expected):
            seen.find(TAMPERED, key, f"{key} states something else than its snapshot's entry")
        return envelope
    return None
