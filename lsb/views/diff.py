"""What differs between two versions of a data set, or between the newest snapshots of two runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from lsb.errors import UsageError
from lsb.ledger.carrying import read_manifest, reference
from lsb.ledger.layout import parse_run_uri
from lsb.ledger.publish import latest_snapshot
from lsb.ledger.run import open_run
from lsb.ledger.schemas import RECORDS, read_table
from lsb.store.store import Store, open_store

_DATASET = re.compile(
    r"(?:(?P<root>.*)/)?(?P<folder>datasets/[^/]+/[0-9a-f]{64})(?:/|/(?P<table>records(?:-[0-9a-f]{64})?\.parquet))?"
)
# What is compared, by the name under which a change is reported.
_OF_RECORDS = {"source": ("sha256", "bytes", "etag"), "status": ("status", "error_code")}
_OF_ROWS = {
    "source": ("source_sha256",),
    "status": ("status", "error_code"),
    "transform": ("transform_id",),
    "output": ("pixels_sha256",),
}

Row = Mapping[str, object]  # the columns that are compared
Rows = Mapping[str, Row]  # by source key


@dataclass(frozen=True)
class Difference:
    """From one side to the other, by source key. `changed` says of each record what is different about it."""

    added: tuple[str, ...]
    vanished: tuple[str, ...]
    changed: dict[str, tuple[str, ...]]
    unchanged: int


def compare(before: str, after: str) -> Difference:
    """The difference between two data sets `<root>/datasets/<name>/<version>` or two runs `<root>/runs/<run>`.

    Of runs the newest snapshots are compared: sources, statuses, transforms and the outputs' pixels. Of data sets,
    where either side was made from a listing, size and etag stand for the bytes. A version that was taken in again once
    pictures were decoded in another way has several tables: the newest one is read, or the one that is named.

    Raises:
        UsageError: one of them is neither, they are not of one kind, or a run has no snapshot.
    """
    one, other = _DATASET.fullmatch(before), _DATASET.fullmatch(after)
    if one is not None and other is not None:
        return _difference(_records(one), _records(other), _OF_RECORDS)
    if one is not None or other is not None:
        raise UsageError(f"{before} and {after} are not of one kind; give two data sets or two runs")
    return _difference(_rows(before), _rows(after), _OF_ROWS)


def _records(found: re.Match[str]) -> Rows:
    store = open_store(found["root"] or ".")
    tables = [entry for entry in store.list(found["folder"]) if _DATASET.fullmatch(entry.key)]
    key = f"{found['folder']}/{found['table']}" if found["table"] else found["folder"]
    # Where a clock's grain cannot tell: the table of that very name was there first.
    tables.sort(key=lambda entry: (entry.modified, not entry.key.endswith("/records.parquet")))
    if found["table"]:
        tables = [entry for entry in tables if entry.key == key]
    if not tables:
        raise UsageError(f"no data set {key} in {store.uri}; `lsb ingest` prints the version of one")
    return _by_key(read_table(store.read(tables[-1].key), RECORDS), "key", _OF_RECORDS)


def _rows(uri: str) -> Rows:
    root, run_id = parse_run_uri(uri)
    store: Store = open_store(root)
    snapshot = latest_snapshot(store, open_run(store, run_id))
    if snapshot is None:
        raise UsageError(f"{uri} has published nothing yet; finish it with `lsb run` or `lsb rerun`")
    return _by_key(read_manifest(store, reference(snapshot)), "source_key", _OF_ROWS)


def _by_key(table: pa.Table, key: str, parts: Mapping[str, tuple[str, ...]]) -> Rows:
    columns = [column for names in parts.values() for column in names]
    return {row.pop(key): row for row in table.select([key, *columns]).to_pylist()}


def _difference(before: Rows, after: Rows, parts: Mapping[str, tuple[str, ...]]) -> Difference:
    changed = {}
    both = before.keys() & after.keys()
    for key in sorted(both):
        what = tuple(part for part, names in parts.items() if _differ(before[key], after[key], names))
        if what:
            changed[key] = what
    return Difference(
        added=tuple(sorted(after.keys() - before.keys())),
        vanished=tuple(sorted(before.keys() - after.keys())),
        changed=changed,
        unchanged=len(both) - len(changed),
    )


def _differ(before: Row, after: Row, names: tuple[str, ...]) -> bool:
    if "etag" in names and None not in (before["sha256"], after["sha256"]):
        names = ("sha256",)  # the same bytes under another time are no change
    elif "etag" in names:
        names = ("bytes", "etag")
    return any(before[name] != after[name] for name in names)
