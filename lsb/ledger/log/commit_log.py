"""The log of one shard: what is committed, and the one place where results become visible.

An entry either commits rows or condemns attempts. Nothing after it may cite a condemned attempt: that is what makes
it safe to delete files which nobody names yet. A condemnation can also say which records' images were erased.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from lsb.errors import LsbError, NotFoundError, TamperedError, UnverifiableError
from lsb.isolation import temporary_file, temporary_files
from lsb.ledger import layout
from lsb.ledger.log.chain import Chain, Link
from lsb.ledger.log.seal import proved, read_proved, well_formed
from lsb.ledger.schemas import FEATURES, MANIFEST, TableSchema, read_table
from lsb.records import Status, sha256
from lsb.store.store import Data, Store, read_pieces
from lsb.store.usage import Usage

SCHEMA = "lsb.shard-log/1"
HELD_BYTES = 16 << 20  # of an object that is read whole; a larger one goes to a file

COMMIT, CONDEMN = "commit", "condemn"


@dataclass(frozen=True)
class LogEntry:
    """One commit. Names in `files` are relative to the shard's folder; `rows` and `features` are two of them."""

    link: Link
    folder: str
    attempt: str
    counts: dict[str, int]
    files: dict[str, str]
    rows: str
    features: str | None  # the file to read now: an erasure replaces the one that was committed
    erased: frozenset[str] = frozenset()  # names in `files` that were erased since
    usage: Usage | None = None  # of stores, by the attempt since its commit before; None if nobody counted
    started: datetime | None = None  # the first of its rows; None if none was, or if nobody said

    @property
    def rows_key(self) -> str:
        return f"{self.folder}/{self.rows}"

    def digests(self) -> dict[str, str]:
        """Every file the entry names, by its key under the root, with its digest."""
        return {f"{self.folder}/{name}": digest for name, digest in self.files.items()}


Commit = tuple[LogEntry, pa.Table]  # an entry and the rows that it committed


@dataclass(frozen=True)
class Erasure:
    """What somebody asked to be deleted. Names are relative to the shard's folder.

    The features of other records go on in a copy: `replaced` names it for each file, `files` its digest, `attempt`
    the folder it lies in.
    """

    records: tuple[str, ...]
    erased: tuple[str, ...]  # every file that is to be gone
    attempt: str
    files: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Condemnation:
    """Attempts that no later entry may cite, and why."""

    link: Link
    folder: str
    attempts: tuple[str, ...]
    reason: str
    erasure: Erasure | None

    def digests(self) -> dict[str, str]:
        """Every file the entry relies on, by its key under the root, with its digest."""
        return {f"{self.folder}/{name}": digest for name, digest in self.erasure.files.items()} if self.erasure else {}


@dataclass(frozen=True)
class History:
    """A shard's log as one reading found it."""

    commits: list[LogEntry]
    condemnations: list[Condemnation]
    head: Link | None

    @cached_property
    def condemned(self) -> frozenset[str]:
        """Every attempt that may no longer be cited."""
        return frozenset(attempt for entry in self.condemnations for attempt in entry.attempts)

    @cached_property
    def erased(self) -> dict[str, Condemnation]:
        """Every erased file by its key under the root, with the entry that says so."""
        return {
            f"{entry.folder}/{name}": entry
            for entry in self.condemnations
            if entry.erasure
            for name in entry.erasure.erased
        }

    @cached_property
    def named(self) -> dict[str, str]:
        """Every file that some entry relies on and nobody erased, by its key under the root, with its digest."""
        named = {key: digest for commit in self.commits for key, digest in commit.digests().items()}
        named |= {key: digest for entry in self.condemnations for key, digest in entry.digests().items()}
        return {key: digest for key, digest in named.items() if key not in self.erased}


@dataclass(frozen=True)
class ShardLog:
    """The log of one shard of one run, whose `run.json` and plan every entry names by digest."""

    store: Store
    run_id: str
    run_sha256: str
    plan_sha256: str
    shard: str

    def entries(self) -> list[LogEntry]:
        """All commits in order; see `history`."""
        return self.history().commits

    def history(self) -> History:
        """The whole log.

        Raises:
            TamperedError: what `Chain.links` says, or an entry that cites a condemned attempt.
            UnverifiableError: an entry of an unknown schema or kind.
        """
        history, problems = self.scan()
        if problems:
            raise problems[0]
        return history

    def scan(self) -> tuple[History, list[LsbError]]:
        """What can be read of the log, and everything that is wrong with it."""
        links, problems = self._chain().scan()
        commits: list[LogEntry] = []
        condemnations: list[Condemnation] = []
        condemned: set[str] = set()
        for link in links:
            try:
                entry = self._entry(link)
                cited = entry.attempt if isinstance(entry, LogEntry) else entry.erasure and entry.erasure.attempt
                if cited in condemned:
                    raise TamperedError(f"{link.key} cites attempt {cited}, which was condemned before", key=link.key)
            except LsbError as error:
                problems.append(error)
                continue
            if isinstance(entry, LogEntry):
                commits.append(entry)
            else:
                condemnations.append(entry)
                condemned.update(entry.attempts)
                commits = [_after(entry.erasure, commit) for commit in commits] if entry.erasure else commits
        return History(commits, condemnations, links[-1] if links else None), problems

    def append(
        self,
        after: Link | None,
        *,
        attempt: str,
        files: Mapping[str, str],
        rows: str,
        features: str | None,
        counts: Mapping[str, int],
        usage: Usage = Usage(),
        started: datetime | None = None,
    ) -> LogEntry | None:
        """Commit behind `after`; None if another writer was first.

        Args:
            files: name in the shard's folder to digest.
            counts: rows by status.
            started: when work on the first of the rows began.
        """
        document = {
            "kind": COMMIT,
            "attempt": attempt,
            "files": dict(files),
            "rows": rows,
            "features": features,
            "counts": dict(counts),
            "usage": asdict(usage),
            **({} if started is None else {"started": started.isoformat(timespec="microseconds")}),
        }
        link = self._chain().append(after, document)
        return self._commit(link) if link else None

    def condemn(
        self, after: Link | None, *, attempts: Iterable[str], reason: str, erasure: Erasure | None = None
    ) -> Condemnation | None:
        """Condemn behind `after`; None if another writer was first."""
        document = {
            "kind": CONDEMN,
            "attempts": sorted(attempts),
            "reason": reason,
            "erasure": erasure and {**vars(erasure), "records": [*erasure.records], "erased": [*erasure.erased]},
        }
        link = self._chain().append(after, document)
        return self._condemnation(link) if link else None

    def table(self, entry: LogEntry, *, columns: list[str] | None = None) -> pa.Table:
        """The rows that `entry` committed; TamperedError if the file is missing or differs."""
        return self._read(entry, entry.rows, MANIFEST, columns)

    def features(self, entry: LogEntry) -> pa.Table:
        """The features that `entry` committed, maybe none."""
        if entry.features is None:
            return FEATURES.empty()
        return self._read(entry, entry.features, FEATURES, None)

    def rows(self, entries: Iterable[LogEntry], *, columns: list[str] | None = None) -> pa.Table:
        """The state after `entries`: one row per record. `columns` must include `record_id` and `status`.

        Raises:
            TamperedError: a row that was final is replaced, or a file is missing or differs.
        """
        return fold([(entry, self.table(entry, columns=columns)) for entry in entries])

    def counts(self, entries: Sequence[LogEntry]) -> dict[str, int]:
        """The shard's rows by status, after these entries, which are all. Rows are read only where it takes them."""
        total = sum((Counter(entry.counts) for entry in entries), Counter())
        if len(entries) > 1 and total[Status.FAILED.value]:  # a failed row may have given way to a later one
            rows = self.rows(entries, columns=["record_id", "status"])
            total = Counter(rows["status"].to_pylist())
        return dict(total)

    def _read(self, entry: LogEntry, name: str, schema: TableSchema, columns: list[str] | None) -> pa.Table:
        return read_table(
            read_checked(self.store, f"{entry.folder}/{name}", entry.files[name]), schema, columns=columns
        )

    def _chain(self) -> Chain:
        identity = {
            "run": self.run_id,
            "run_sha256": self.run_sha256,
            "plan_sha256": self.plan_sha256,
            "shard": self.shard,
        }
        return Chain(self.store, layout.shard_log(self.run_id, self.shard), SCHEMA, identity)

    def _entry(self, link: Link) -> LogEntry | Condemnation:
        kind = link.document.get("kind")
        if kind not in (COMMIT, CONDEMN):
            raise UnverifiableError(f"{link.key} is a {kind!r}, which this version does not know", key=link.key)
        with well_formed(link.key):
            return self._commit(link) if kind == COMMIT else self._condemnation(link)

    def _commit(self, link: Link) -> LogEntry:
        document = link.document
        attempt, files, features = document["attempt"], document["files"], document["features"]
        if not {document["rows"], features or document["rows"]} <= files.keys():
            raise TamperedError(f"{link.key} names row files without their digests", key=link.key)
        self._check_place(link, attempt, files)
        entry = LogEntry(link, self._folder, attempt, document["counts"], files, document["rows"], features)
        started = document.get("started")
        return replace(
            entry,
            usage=_usage(document["usage"]) if "usage" in document else None,
            started=None if started is None else datetime.fromisoformat(started),
        )

    def _condemnation(self, link: Link) -> Condemnation:
        document = link.document
        erasure = None
        if document["erasure"]:
            found = document["erasure"]
            erasure = Erasure(**{**found, "records": tuple(found["records"]), "erased": tuple(found["erased"])})
            self._check_place(link, erasure.attempt, erasure.files)
            if rows := [name for name in erasure.erased if layout.is_rows_file(name)]:
                raise TamperedError(f"{link.key} erases {rows[0]}, but rows stay for ever", key=link.key)
            if strangers := [name for name in erasure.erased if not layout.maker_of(f"{self._folder}/{name}")]:
                raise TamperedError(f"{link.key} erases {strangers[0]!r}, which is no attempt's file", key=link.key)
        return Condemnation(link, self._folder, tuple(document["attempts"]), document["reason"], erasure)

    def _check_place(self, link: Link, attempt: str, names: Iterable[str]) -> None:
        # What lies elsewhere would not be protected, or condemned, with the attempt.
        folder = f"{attempt}/"
        if strangers := [name for name in names if not name.startswith(folder)]:
            raise TamperedError(f"{link.key} names {strangers[0]}, outside its attempt's folder", key=link.key)

    @property
    def _folder(self) -> str:
        return layout.shard_folder(self.run_id, self.shard)


def _usage(found: Mapping[str, int]) -> Usage:
    return Usage(int(found["requests"]), int(found["bytes_read"]), int(found["bytes_written"]))


def _after(erasure: Erasure, commit: LogEntry) -> LogEntry:
    """The commit as it is to be read after an erasure."""
    gone = commit.files.keys() & set(erasure.erased)
    if not gone:
        return commit
    files, features = commit.files, commit.features
    if features in gone:
        features = erasure.replaced.get(features)
        files = {**files, features: erasure.files[features]} if features else files
    return replace(commit, files=files, features=features, erased=commit.erased | gone)


def fold(commits: Sequence[Commit]) -> pa.Table:
    """Rows of several commits as one table, a `failed` row giving way to a later one; TamperedError for others."""
    if not commits:
        return MANIFEST.empty()
    table = pa.concat_tables([rows for _, rows in commits])
    if len(pc.unique(table["record_id"])) == table.num_rows:
        return table
    last: dict[str, int] = {}
    status: dict[str, str] = {}
    place = 0
    for entry, rows in commits:
        for record, state in zip(rows["record_id"].to_pylist(), rows["status"].to_pylist(), strict=True):
            if status.get(record, Status.FAILED) != Status.FAILED:
                key = entry.rows_key
                raise TamperedError(f"{key} replaces the final row of record {record}", key=key)
            last[record], status[record] = place, state
            place += 1
    return table.take(pa.array(sorted(last.values()), pa.int64()))


def read_checked(store: Store, key: str, digest: str) -> bytes:
    """The object's bytes, whose SHA-256 somebody wrote down; TamperedError if it is missing or differs."""

    def prove(data: bytes) -> bytes:
        if sha256(data) != digest:
            raise _differs(key)
        return data

    try:
        return read_proved(store, key, prove)
    except NotFoundError as error:
        raise TamperedError(f"{key} is missing", key=key) from error


@contextmanager
def checked_data(store: Store, key: str, digest: str) -> Iterator[Data]:
    """The same, in a temporary file if it is large, so that it is not held.

    Raises:
        TemporaryFileError: no room for the file.
    """
    with ExitStack() as stack:

        def fetch() -> Data:
            found, held, file = hashlib.sha256(), b"", None
            for piece in read_pieces(store, key):
                found.update(piece)
                if file is None and len(held) + len(piece) > HELD_BYTES:
                    file = stack.enter_context(temporary_file())
                if file is None:
                    held += piece
                else:
                    with temporary_files():
                        file.write(held + piece)
                    held = b""
            if found.hexdigest() != digest:
                raise _differs(key)
            if file is not None:
                with temporary_files():
                    file.flush()
            return held if file is None else file

        try:
            data = proved(fetch)
        except NotFoundError as error:
            raise TamperedError(f"{key} is missing", key=key) from error
        yield data


def _differs(key: str) -> TamperedError:
    return TamperedError(f"{key} differs from what was written: its SHA-256 is another", key=key)
