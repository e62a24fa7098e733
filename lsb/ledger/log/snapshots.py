"""The published views of a run, and which run a job's name stands for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from lsb.errors import LsbError, TamperedError, UnverifiableError
from lsb.ledger import layout
from lsb.ledger.log.chain import Chain, Link
from lsb.ledger.log.seal import well_formed
from lsb.store.store import Store

SNAPSHOT, CONDEMN = "snapshot", "condemn"
SNAPSHOT_SCHEMA = "lsb.snapshot/1"
JOB_SCHEMA = "lsb.job/1"
MANIFEST_NAME = "manifest.parquet"
METRICS_NAME = "metrics.json"
ATTESTATION_NAME = "attestation.json"
REPORT_NAME = "report/index.html"
_OF_THE_LOG = ("schema", "run", "run_sha256", "nonce", "time")


class Head(TypedDict):
    """How a snapshot names the newest entry of a shard's log."""

    key: str
    generation: int
    sha256: str


def head_of(link: Link) -> Head:
    """How a snapshot names an entry."""
    return {"key": link.key, "generation": link.number, "sha256": link.sha256}


class SnapshotDocument(TypedDict):
    """What an entry of the snapshot log holds, apart from what every log entry holds."""

    kind: str
    folder: int
    files: dict[str, str]  # name in the folder -> SHA-256
    heads: dict[str, Head]  # by shard
    counts: dict[str, int]
    planned: int
    gates: dict[str, float]
    erasures: dict[str, str]
    stopped: str | None


@dataclass(frozen=True)
class Snapshot:
    """An immutable view of a run. `heads` has each shard's newest entry at that time."""

    run_id: str
    number: int
    folder: str
    files: dict[str, str]  # name in the folder -> SHA-256
    heads: dict[str, Head]  # by shard
    counts: dict[str, int]
    planned: int
    gates: dict[str, float]
    erasures: dict[str, str]  # key -> digest of the log entries that erased images, as far as the manifest knows
    stopped: str | None  # why planned records have no row, if somebody knows
    sha256: str  # of the entry in snapshots/log
    stated: Mapping[str, Any]  # what the entry says apart from what the log itself adds: the snapshot attests to this

    @property
    def missing(self) -> int:
        """How many planned records have no row in it."""
        return self.planned - sum(self.counts.values())

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


@dataclass(frozen=True)
class SnapshotHistory:
    """The log of a run's snapshots as one reading found it."""

    snapshots: list[Snapshot]
    condemned: frozenset[int]  # folders that no later snapshot may cite
    erased: frozenset[str]  # keys of pages that may show an image which somebody asked to be deleted
    erasures: dict[str, str]  # key -> digest of the log entries that say so
    links: list[Link]  # every entry

    @property
    def head(self) -> Link | None:
        return self.links[-1] if self.links else None

    def find(self, number: int, digest: str) -> Snapshot | None:
        """The snapshot that some document names by its number and the digest of its entry."""
        found = (snapshot for snapshot in self.snapshots if (snapshot.number, snapshot.sha256) == (number, digest))
        return next(found, None)


@dataclass(frozen=True)
class SnapshotLog:
    """The log of the published views of one run. An entry names a snapshot or condemns the folders of unfinished ones.

    A publisher whose folder was condemned has lost the number it would have written: it begins again in a new folder.
    """

    store: Store
    run_id: str
    run_sha256: str

    def history(self) -> SnapshotHistory:
        """The whole log.

        Raises:
            TamperedError: what `Chain.links` says, or a snapshot in a condemned folder.
            UnverifiableError: an entry of an unknown schema or kind.
        """
        history, problems = self.scan()
        if problems:
            raise problems[0]
        return history

    def scan(self) -> tuple[SnapshotHistory, list[LsbError]]:
        """What can be read of the log, and everything that is wrong with it."""
        links, problems = self._chain().scan()
        snapshots: list[Snapshot] = []
        condemned: set[int] = set()
        erased: set[str] = set()
        erasures: dict[str, str] = {}
        for link in links:
            try:
                with well_formed(link.key):
                    kind = link.document.get("kind")
                    if kind == CONDEMN:
                        condemned.update(link.document["folders"])
                        pages = {f"{layout.snapshots_folder(self.run_id)}/{name}" for name in link.document["erased"]}
                        if strangers := [page for page in pages if not layout.is_page(page)]:
                            raise TamperedError(f"{link.key} erases {strangers[0]!r}, which is no page", key=link.key)
                        erased.update(pages)
                        erasures |= link.document["erasures"]
                    else:
                        snapshots.append(_uncondemned(link, condemned))
            except LsbError as error:
                problems.append(error)
        return SnapshotHistory(snapshots, frozenset(condemned), frozenset(erased), erasures, links), problems

    def append(self, after: Link | None, document: Mapping[str, Any]) -> Snapshot | None:
        """Publish behind `after` what `snapshot_document` made; None if another writer was first."""
        link = self._chain().append(after, document)
        return _snapshot(link) if link else None

    def condemn(
        self,
        after: Link | None,
        *,
        reason: str,
        folders: Iterable[int] = (),
        erased: Iterable[str] = (),
        erasures: Mapping[str, str] | None = None,
    ) -> Link | None:
        """Condemn folders, or erase pages, behind `after`; None if another writer was first.

        Args:
            erased: pages by their name under `snapshots/`.
            erasures: key to digest of the log entries for which they are erased. A publisher that did not know these
                loses its number and reads them.
        """
        document = {
            "kind": CONDEMN,
            "reason": reason,
            "folders": sorted(folders),
            "erased": sorted(erased),
            "erasures": dict(erasures or {}),
        }
        return self._chain().append(after, document)

    def _chain(self) -> Chain:
        identity = {"run": self.run_id, "run_sha256": self.run_sha256}
        return Chain(self.store, layout.snapshot_log(self.run_id), SNAPSHOT_SCHEMA, identity)


def _uncondemned(link: Link, condemned: set[int]) -> Snapshot:
    kind = link.document.get("kind")
    if kind != SNAPSHOT:
        raise UnverifiableError(f"{link.key} is a {kind!r}, which this version does not know", key=link.key)
    folder = link.document["folder"]
    if folder in condemned:
        raise TamperedError(f"{link.key} cites folder {folder}, which was condemned before", key=link.key)
    return _snapshot(link)


def _snapshot(link: Link) -> Snapshot:
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
        erasures=document["erasures"],
        stopped=document.get("stopped"),
        sha256=link.sha256,
        stated={name: value for name, value in document.items() if name not in _OF_THE_LOG},
    )


def snapshot_document(
    folder: int,
    files: Mapping[str, str],
    heads: Mapping[str, Head],
    counts: Mapping[str, int],
    planned: int,
    gates: Mapping[str, float],
    erasures: Mapping[str, str],
    stopped: str | None = None,
) -> SnapshotDocument:
    return {
        "kind": SNAPSHOT,
        "folder": folder,
        "files": dict(files),
        "heads": dict(heads),
        "counts": dict(counts),
        "planned": planned,
        "gates": dict(gates),
        "erasures": dict(erasures),
        "stopped": stopped,
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
