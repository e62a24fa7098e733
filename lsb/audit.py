"""Recompute everything that a run claims, from `run.json` to the last pixel.

What an entry, a snapshot or `run.json` names must be there with the digest it was given; what can be derived is
derived again and compared. Files that nobody names are listed and raise no alarm.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from lsb.errors import (
    ImageError,
    IncompleteError,
    LsbError,
    NotFoundError,
    TamperedError,
    UnverifiableError,
    UsageError,
)
from lsb.images import decode, pixels_sha256
from lsb.ingest import version_of
from lsb.manifest import Gates, collect
from lsb.publish import subjects
from lsb.records import Status, digest_of, sha256
from lsb.sharding import Run, make_plan, open_log, open_run, read_plan
from lsb.storage import layout
from lsb.storage.commit_log import LogEntry, ShardLog, read_checked
from lsb.storage.schemas import MANIFEST, RECORDS, read_table
from lsb.storage.snapshots import Snapshot, job_chain, snapshot_chain, snapshot_of
from lsb.storage.store import Store

TAMPERED, UNVERIFIABLE, INCOMPLETE = "tampered", "unverifiable", "incomplete"
_EXIT_CODES = {
    TAMPERED: TamperedError.exit_code,
    UNVERIFIABLE: UnverifiableError.exit_code,
    INCOMPLETE: IncompleteError.exit_code,
}
_CHECKED_COLUMNS = [
    "record_id",
    "shard",
    "attempt",
    "status",
    "source_key",
    "source_sha256",
    "transform_id",
    "output_key",
    "output_sha256",
    "pixels_sha256",
]


@dataclass(frozen=True)
class Finding:
    """Something wrong: `kind` is `tampered`, `unverifiable` or `incomplete`; `key` names the object."""

    kind: str
    key: str
    message: str


@dataclass(frozen=True)
class Verdict:
    """What a check of a run found. `checked` counts objects by class; `sample` is None if all images were read."""

    run_id: str
    findings: tuple[Finding, ...]
    orphans: tuple[str, ...]
    checked: dict[str, int]
    sample: int | None = None

    @property
    def exit_code(self) -> int:
        """0 if all is well, else 10 (tampered) before 12 (unverifiable) before 11 (incomplete)."""
        found = {finding.kind for finding in self.findings}
        return next((code for kind, code in _EXIT_CODES.items() if kind in found), 0)


def verify(store: Store, run_id: str, sample: int | None = None) -> Verdict:
    """Check a run and everything it rests on.

    Args:
        sample: read only this many output images, always the same ones; None reads all.

    Raises:
        UsageError: the store has no such run.
    """
    audit = _Audit(store, run_id, sample)
    audit.check()
    return Verdict(run_id, tuple(audit.findings.values()), tuple(audit.orphans()), dict(audit.checked), sample)


@dataclass
class _Audit:
    store: Store
    run_id: str
    sample: int | None
    findings: dict[tuple[str, str], Finding] = field(default_factory=dict)
    checked: Counter[str] = field(default_factory=Counter)
    present: set[str] = field(default_factory=set)  # every key under the run
    named: set[str] = field(default_factory=set)  # every key under the run that something names
    blind: list[str] = field(default_factory=list)  # folders whose log is broken: nobody knows what is named there
    outputs: dict[str, tuple[str, str]] = field(default_factory=dict)  # key -> digests of file and pixels

    def check(self) -> None:
        self.present = {entry.key for entry in self.store.list(layout.run_folder(self.run_id))}
        run = self._run()
        if run is None:
            return
        plan = self._plan(run)
        self._transform(run)
        planned: dict[str, dict[str, Any]] = {}
        for row in plan.select(["record_id", "key", "sha256", "shard"]).to_pylist() if plan is not None else ():
            planned.setdefault(row["shard"], {})[row["record_id"]] = row
        for shard in run.shards():
            self._shard(run, shard, planned.get(shard, {}) if plan is not None else None)
        self._images()
        snapshots = self._snapshots(run)
        self._job(run, snapshots)
        self._complete(run, snapshots)

    def orphans(self) -> Iterator[str]:
        """Keys under the run that nobody names."""
        if self.named:
            for key in sorted(self.present - self.named):
                if not key.startswith(tuple(self.blind)):
                    yield key

    def find(self, kind: str, key: str, message: str) -> None:
        self.findings.setdefault((kind, key), Finding(kind, key, message))

    @contextmanager
    def guard(self, key: str) -> Iterator[None]:
        """Errors become findings; `key` is blamed where the error names none."""
        try:
            yield
        except LsbError as error:
            tampered = isinstance(error, TamperedError | NotFoundError)
            self.find(TAMPERED if tampered else UNVERIFIABLE, error.details.get("key") or key, error.message)

    def named_file(self, key: str, digest: str, kind: str) -> bytes | None:
        """A file's bytes if they are what was written."""
        self.named.add(key)
        with self.guard(key):
            data = read_checked(self.store, key, digest)
            self.checked[kind] += 1
            return data
        return None

    def _run(self) -> Run | None:
        key = layout.run_file(self.run_id)
        if not self.store.exists(key):
            if not self.present:
                raise UsageError(f"no run {self.run_id} in {self.store.uri}; `lsb run` prints the id of a run")
            self.find(TAMPERED, key, f"{key} is missing though the run has other files")
            return None
        with self.guard(key):
            run = open_run(self.store, self.run_id)
            self.named.add(key)
            self.checked["run"] += 1
            return run
        return None

    def _plan(self, run: Run) -> pa.Table | None:
        """The plan, if it is the frozen one; it must follow from the data set's records."""
        records = None
        data = self.named_file(run.dataset["key"], run.dataset["sha256"], "data set")
        if data is not None:
            with self.guard(run.dataset["key"]):
                records = read_table(data, RECORDS)
                columns = records.select(["record_id", "sha256", "bytes", "etag"])
                if version_of(columns.to_pylist()) != run.dataset["version"]:
                    self.find(TAMPERED, run.dataset["key"], "its records give another version of the data set")
        key = run.plan["key"]
        self.named.add(key)
        with self.guard(key):
            plan = read_plan(self.store, run)
            self.checked["plan"] += 1
            if records is not None and not plan.equals(make_plan(records, run.plan["shard_size"])):
                self.find(TAMPERED, key, f"{key} does not follow from the data set and the plan's settings")
            return plan
        return None

    def _transform(self, run: Run) -> None:
        for key, digest in run.files.items():
            self.named_file(key, digest, "prompt files")
        if digest_of(run.transform["model"]) != run.model["digest"]:
            key = layout.run_file(run.id)
            self.find(TAMPERED, key, f"{key} names a model that is not the transform's")
        for role, key in run.prompts.items():
            if run.files.get(key) != run.transform["prompts"][role]:
                self.find(TAMPERED, key, f"{key} is not the {role} prompt of the run's transform")

    def _shard(self, run: Run, shard: str, planned: dict[str, dict[str, Any]] | None) -> None:
        log = open_log(self.store, run, shard)
        entries, problems = log.scan()
        for problem in problems:
            with self.guard(layout.shard_log(run.id, shard)):
                raise problem
        if problems:
            self.blind.append(layout.shard_folder(run.id, shard) + "/")
        for entry in entries:
            self.named.add(entry.link.key)
            self.checked["log entries"] += 1
            self._entry(run, log, entry, planned)
        with self.guard(layout.shard_log(run.id, shard)):
            log.rows(entries, columns=["record_id", "status"])

    def _entry(self, run: Run, log: ShardLog, entry: LogEntry, planned: dict[str, dict[str, Any]] | None) -> None:
        keys = entry.digests()
        with self.guard(entry.rows_key):
            table = log.table(entry, columns=_CHECKED_COLUMNS)
            self.checked["row files"] += 1
            for problem in _row_problems(run, entry, table, planned):
                self.find(TAMPERED, entry.rows_key, f"{entry.rows_key}: {problem}")
            rows = table.to_pylist()
            self.checked["rows"] += len(rows)
            for row in rows:
                if row["output_key"] in keys:
                    self.outputs[row["output_key"]] = (keys[row["output_key"]], row["pixels_sha256"])
        self.named |= keys.keys()
        if entry.features:
            key = f"{entry.folder}/{entry.features}"
            self.named_file(key, keys[key], "feature files")
        for key in keys.keys() - self.outputs.keys() - {entry.rows_key, f"{entry.folder}/{entry.features}"}:
            self.named_file(key, keys[key], "other files")

    def _images(self) -> None:
        # A sample still finds every output that is gone: that takes no more than the listing.
        for key in sorted(self.outputs.keys() - self.present):
            self.find(TAMPERED, key, f"{key} is missing")
        there = self.outputs.keys() & self.present
        chosen = sorted(there, key=lambda key: sha256(key.encode()))[: self.sample]
        for key in sorted(chosen):
            digest, pixels = self.outputs[key]
            data = self.named_file(key, digest, "outputs")
            if data is None:
                continue
            try:
                same = pixels_sha256(decode(data)[0]) == pixels
            except ImageError:
                same = False
            if not same:
                self.find(TAMPERED, key, f"{key} does not hold the pixels that its row names")

    def _snapshots(self, run: Run) -> list[Snapshot]:
        links, problems = snapshot_chain(self.store, run.id, run.sha256).scan()
        for problem in problems:
            with self.guard(layout.snapshot_log(run.id)):
                raise problem
        if problems:
            self.blind.append(layout.snapshots_folder(run.id) + "/")
        snapshots = [snapshot_of(link) for link in links]
        for link, snapshot in zip(links, snapshots, strict=True):
            self.named.add(link.key)
            self.checked["snapshots"] += 1
            self._snapshot(run, snapshot)
        return snapshots

    def _snapshot(self, run: Run, snapshot: Snapshot) -> None:
        files = {key: self.named_file(key, digest, "snapshot files") for key, digest in snapshot.digests().items()}
        manifest, statement = files.get(snapshot.manifest_key), files.get(snapshot.attestation_key)
        if manifest is not None:
            key = snapshot.manifest_key
            with self.guard(key):
                collected = collect(self.store, run, gates=Gates(**snapshot.gates), upto=snapshot.heads)
                if not read_table(manifest, MANIFEST).equals(collected.rows):
                    self.find(TAMPERED, key, f"{key} holds other rows than the shards")
                elif (collected.counts(), collected.planned) != (snapshot.counts, snapshot.planned):
                    self.find(TAMPERED, key, f"{key} has other counts than its snapshot says")
        if statement is not None:
            expected = subjects(run, snapshot.folder, snapshot.files, snapshot.heads)
            if _attested(statement) != expected:
                key = snapshot.attestation_key
                self.find(TAMPERED, key, f"{key} covers other digests than its snapshot names")

    def _job(self, run: Run, snapshots: list[Snapshot]) -> None:
        links, problems = job_chain(self.store, run.job).scan()
        for problem in problems:
            with self.guard(layout.job_log(run.job)):
                raise problem
        digests = {snapshot.number: snapshot.sha256 for snapshot in snapshots}
        for link in links:
            self.checked["job entries"] += 1
            number = link.document["snapshot"]
            if link.document["run"] == run.id and digests.get(number) != link.document["snapshot_sha256"]:
                key = layout.numbered(layout.snapshot_log(run.id), number)
                self.find(TAMPERED, key, f"{key} is not the snapshot that {link.key} names")

    def _complete(self, run: Run, snapshots: list[Snapshot]) -> None:
        if any(finding.kind == TAMPERED for finding in self.findings.values()):
            return  # what is missing then is no statement about the work
        key = layout.snapshot_log(run.id)
        if not snapshots:
            self.find(INCOMPLETE, key, "no snapshot is published; run it again to finish")
        elif missing := snapshots[-1].planned - sum(snapshots[-1].counts.values()):
            self.find(INCOMPLETE, key, f"{missing} planned records have no row in the last snapshot; run it again")


def _row_problems(
    run: Run, entry: LogEntry, table: pa.Table, planned: dict[str, dict[str, Any]] | None
) -> Iterator[str]:
    rows = table.to_pylist()
    if dict(Counter(row["status"] for row in rows)) != entry.counts:
        yield "its rows are not as many by status as its log entry counts"
    keys = entry.digests()
    seen = set()
    for row in rows:
        record = row["record_id"]
        if record in seen:
            yield f"record {record} has two rows"
        seen.add(record)
        if (row["shard"], row["attempt"], row["transform_id"]) != (
            entry.link.document["shard"],
            entry.attempt,
            run.transform_id,
        ):
            yield f"record {record} names another shard, attempt or transform"
        source = planned.get(record) if planned is not None else None
        if planned is not None and source is None:
            yield f"record {record} is not planned in this shard"
        if source is not None and source["key"] != row["source_key"]:
            yield f"record {record} names another source than the plan"
        if row["status"] != Status.OK:
            continue
        if source is not None and source["sha256"] not in (None, row["source_sha256"]):
            yield f"record {record} was made from other bytes than planned"
        if row["output_sha256"] is None or keys.get(row["output_key"]) != row["output_sha256"]:
            yield f"record {record} names an output that its log entry does not"


def _attested(envelope: bytes) -> dict[str, str] | None:
    try:
        statement = json.loads(base64.b64decode(json.loads(envelope)["payload"], validate=True))
        return {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    except (ValueError, KeyError, TypeError):
        return None
