"""From a folder of images to a data set: every image file becomes one record, unusable ones too.

The version of a data set is a digest over its records, so the same files give the same version again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from lsb.errors import AlreadyExistsError, ImageError, NotFoundError, SourceError, StoreError
from lsb.images import ERROR_CODES as IMAGE_CODES
from lsb.images import SUFFIXES, decode
from lsb.progress import NoProgress, Progress
from lsb.records import Status, dataset_version, key_of, record_id, sha256
from lsb.redaction import redact
from lsb.storage import layout
from lsb.storage.commit_log import read_checked
from lsb.storage.schemas import RECORDS, read_table, write_table
from lsb.storage.store import Entry, Store, open_store

logger = logging.getLogger(__name__)

MAX_BYTES = 1 << 30
ERROR_CODES = {
    **IMAGE_CODES,
    "unreadable_source": "the file is listed but cannot be read",
    "name_not_utf8": "the file's name is not valid UTF-8, so no record can name it",
    "too_many_bytes": f"the file has more than {MAX_BYTES >> 20} MiB",
}
_STEP = "ingest"


@dataclass(frozen=True)
class Dataset:
    """One version of a data set."""

    name: str
    version: str
    records: int  # every image file, unusable ones too
    quarantined: int
    duplicates: int  # usable files whose bytes an earlier record of the set has too
    key: str  # of records.parquet
    sha256: str  # of records.parquet


def open_sources(uri: str) -> Store:
    """The folder of images at `uri`, for reading; SourceError if it is missing or not readable."""
    try:
        return open_store(uri)
    except StoreError as error:
        if error.transient:
            raise
        raise SourceError(f"cannot use the images at {uri}: {error}") from error


def ingest(
    sources: Store,
    name: str,
    store: Store,
    *,
    read: Literal["full", "listing"] = "full",
    progress: Progress = NoProgress(),
) -> Dataset:
    """Record every image file under `sources` as a version of the data set `name`.

    Files and folders whose name begins with a dot and files without an image's suffix are ignored. What cannot be
    decoded becomes a record with status `quarantined`.

    Args:
        read: `full` decodes and hashes each file, but for those whose key, size and etag the latest version of the
            data set has already; `listing` reads no bytes and leaves digests and sizes of the pictures open.

    Raises:
        SourceError: no image file at all, or the folder cannot be listed.
    """
    entries = _images(sources)
    known = _latest_rows(store, name) if read == "full" else {}
    progress.start(_STEP, len(entries))
    rows = []
    for entry in entries:
        rows.append(_reused(entry, known) or (_read(sources, entry) if read == "full" else _listed(entry)))
        progress.advance(_STEP)
    progress.finish(_STEP)
    rows.sort(key=lambda row: row["record_id"])
    _mark_duplicates(rows)
    return _store_version(store, name, rows)


def read_records(store: Store, dataset: Dataset) -> pa.Table:
    """The data set's records; TamperedError if the file is missing or differs."""
    return read_table(read_checked(store, dataset.key, dataset.sha256), RECORDS)


def version_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """The version of a data set with these records, given by their `record_id`, `sha256`, `bytes` and `etag`."""
    # Bytes that were not read are told apart by what the listing says about them.
    return dataset_version((row["record_id"], row.get("sha256") or f"{row['bytes']}:{row['etag']}") for row in rows)


def _images(sources: Store) -> list[Entry]:
    try:
        listed = sources.list()
    except StoreError as error:
        if error.transient:
            raise
        raise SourceError(f"cannot list the images at {sources.uri}: {error}") from error
    images = [entry for entry in listed if _is_image(entry.key)]
    if not images:
        kinds = ", ".join(sorted(SUFFIXES))
        raise SourceError(f"no images at {sources.uri} ({len(listed)} files in all); allowed are {kinds}")
    logger.info("%d images at %s, %d other files ignored", len(images), sources.uri, len(listed) - len(images))
    return images


def _is_image(key: str) -> bool:
    path = PurePosixPath(key)
    return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)


def _listed(entry: Entry) -> dict[str, Any]:
    """A record of which nothing but the listing is known."""
    key = key_of(entry.key)
    row: dict[str, Any] = {
        "record_id": record_id(key),
        "key": key,
        "bytes": entry.size,
        "etag": entry.etag,
        "status": Status.OK.value,
    }
    if key != entry.key:
        return _quarantined(row, "name_not_utf8", ERROR_CODES["name_not_utf8"])
    return row


def _read(sources: Store, entry: Entry) -> dict[str, Any]:
    row = _listed(entry)
    if row["status"] == Status.QUARANTINED:
        return row
    if entry.size > MAX_BYTES:
        return _quarantined(row, "too_many_bytes", ERROR_CODES["too_many_bytes"])
    try:
        data = sources.read(entry.key)
    except StoreError as error:
        if not error.of_object:
            raise
        return _quarantined(row, "unreadable_source", str(error.__cause__ or error))
    row |= {"sha256": sha256(data), "bytes": len(data)}
    try:
        _, info = decode(data)
    except ImageError as error:
        return _quarantined(row, error.code, error.message)
    return row | {
        "format": info.format,
        "mode": info.mode,
        "width": info.width,
        "height": info.height,
        "orientation": info.orientation,
    }


def _quarantined(row: dict[str, Any], code: str, detail: str) -> dict[str, Any]:
    return row | {"status": Status.QUARANTINED.value, "error_code": code, "error_detail": redact(detail)}


def _reused(entry: Entry, known: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The record of an earlier version, if the listing shows the same file."""
    row = known.get(entry.key)
    if row is None or row["sha256"] is None or (row["bytes"], row["etag"]) != (entry.size, entry.etag):
        return None
    return {**row, "duplicate_of": None}


def _latest_rows(store: Store, name: str) -> dict[str, dict[str, Any]]:
    versions = [entry for entry in store.list(layout.dataset_folder(name)) if entry.key.endswith("/records.parquet")]
    if not versions:
        return {}
    latest = max(versions, key=lambda entry: entry.modified)
    return {row["key"]: row for row in read_table(store.read(latest.key), RECORDS).to_pylist()}


def _mark_duplicates(rows: list[dict[str, Any]]) -> None:
    """Name in each usable row the first record, by id, that has the same bytes. `rows` are in record-id order."""
    first: dict[str, str] = {}
    for row in rows:
        digest = row.get("sha256")
        if digest and row["status"] == Status.OK:
            leader = first.setdefault(digest, row["record_id"])
            row["duplicate_of"] = None if leader == row["record_id"] else leader


def _store_version(store: Store, name: str, rows: list[dict[str, Any]]) -> Dataset:
    version = version_of(rows)
    key = layout.dataset_records(name, version)
    # A file that is there already describes the same records, and somebody may rely on its bytes.
    try:
        data = store.read(key)
    except NotFoundError:
        data = write_table(RECORDS.table(rows), RECORDS)
        try:
            store.create(key, data)
        except AlreadyExistsError:
            data = store.read(key)
    table = read_table(data, RECORDS)
    return Dataset(
        name=name,
        version=version,
        records=table.num_rows,
        quarantined=pc.sum(pc.equal(table["status"], Status.QUARANTINED.value)).as_py() or 0,
        duplicates=table.num_rows - table["duplicate_of"].null_count,
        key=key,
        sha256=sha256(data),
    )
