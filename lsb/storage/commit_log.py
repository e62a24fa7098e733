"""The log of one shard: what is committed, and the one place where results become visible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from lsb.errors import LsbError, NotFoundError, TamperedError, UnverifiableError
from lsb.records import Status, sha256
from lsb.storage import layout
from lsb.storage.chain import Chain, Link
from lsb.storage.schemas import FEATURES, MANIFEST, TableSchema, read_table
from lsb.storage.store import Store

SCHEMA = "lsb.shard-log/1"


@dataclass(frozen=True)
class LogEntry:
    """One commit. Names in `files` are relative to the shard's folder; `rows` and `features` are two of them."""

    link: Link
    folder: str
    attempt: str
    counts: dict[str, int]
    files: dict[str, str]
    rows: str
    features: str | None

    @property
    def rows_key(self) -> str:
        return f"{self.folder}/{self.rows}"

    def digests(self) -> dict[str, str]:
        """Every file the entry relies on, by its key under the root, with its digest."""
        return {f"{self.folder}/{name}": digest for name, digest in self.files.items()}


Commit = tuple[LogEntry, pa.Table]  # an entry and the rows that it committed


@dataclass(frozen=True)
class ShardLog:
    """The commits of one shard of one run, whose `run.json` and plan every entry names by digest."""

    store: Store
    run_id: str
    run_sha256: str
    plan_sha256: str
    shard: str

    def entries(self) -> list[LogEntry]:
        """All commits in order; TamperedError or UnverifiableError as `Chain.links` says."""
        return [self._entry(link) for link in self._chain().links()]

    def scan(self) -> tuple[list[LogEntry], list[LsbError]]:
        """The commits that can be read, and everything that is wrong with the log."""
        links, problems = self._chain().scan()
        entries = []
        for link in links:
            try:
                entries.append(self._entry(link))
            except LsbError as error:
                problems.append(error)
        return entries, problems

    def append(
        self,
        after: LogEntry | None,
        *,
        attempt: str,
        files: Mapping[str, str],
        rows: str,
        features: str | None,
        counts: Mapping[str, int],
    ) -> LogEntry | None:
        """Commit behind `after`; None if another writer was first. `files`: name in the shard's folder to digest."""
        document = {
            "kind": "commit",
            "attempt": attempt,
            "files": dict(files),
            "rows": rows,
            "features": features,
            "counts": dict(counts),
        }
        link = self._chain().append(after.link if after else None, document)
        return self._entry(link) if link else None

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

    def _entry(self, link: Link) -> LogEntry:
        document = link.document
        if document.get("kind") != "commit":
            raise UnverifiableError(f"{link.key} is a {document.get('kind')!r}, which this version does not know")
        features = document["features"]
        if not {document["rows"], features or document["rows"]} <= document["files"].keys():
            raise TamperedError(f"{link.key} names row files without their digests", key=link.key)
        folder = layout.shard_folder(self.run_id, self.shard)
        return LogEntry(
            link, folder, document["attempt"], document["counts"], document["files"], document["rows"], features
        )


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
    try:
        data = store.read(key)
    except NotFoundError as error:
        raise TamperedError(f"{key} is missing", key=key) from error
    if sha256(data) != digest:
        raise TamperedError(f"{key} differs from what was written: its SHA-256 is another", key=key)
    return data
