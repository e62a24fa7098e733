"""From a folder of images to a data set: every image file becomes one record, unusable ones too.

The version of a data set is a digest over its records, so the same files give the same version again.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from lsb.errors import DecodingError, ImageError, SourceError, StoreError
from lsb.ledger import layout
from lsb.ledger.dataset import Dataset, write_dataset
from lsb.ledger.schemas import RECORDS, RecordRow, places
from lsb.pictures.choice import Choice
from lsb.pictures.codecs.formats import SUFFIXES
from lsb.pictures.decoder import DECODERS, shared_decoder
from lsb.pictures.images import ERROR_CODES as IMAGE_CODES
from lsb.pictures.images import RULES, decoding_version
from lsb.pictures.knowledge import Knowledge
from lsb.pictures.listed import AT_ONCE, SourceFile
from lsb.pictures.sources import MAX_BYTES, Listing, Source, described, list_sources
from lsb.progress import NoProgress, Progress
from lsb.records import Status, canonical_json, key_of, record_id, sha256
from lsb.redaction import redact, visible
from lsb.store.read_ahead import read_ahead
from lsb.store.store import Store

logger = logging.getLogger(__name__)

ERROR_CODES = {
    **IMAGE_CODES,
    "name_not_utf8": "the file's name is not valid UTF-8, so no record can name it",
    "too_many_bytes": f"the file has more than {MAX_BYTES >> 20} MiB",
}
_STEP = "ingest"


def ingest(
    sources: Source,
    name: str,
    store: Store,
    *,
    read: Literal["full", "listing", "anew"] = "full",
    choice: Choice = Choice(),
    rules: int = RULES,
    listed: Callable[[pa.ChunkedArray], None] = lambda records: None,
    progress: Progress = NoProgress(),
) -> Dataset:
    """Record every image file under `sources` as a version of the data set `name`.

    What `lsb.pictures.sources` leaves out is counted, logged, and kept beside the data set. What cannot be decoded
    becomes a record with status `quarantined` if its bytes prove it. A file that takes too much time or memory, or that
    cannot be read, is left to its shard, whose row may be tried again.

    Args:
        read: `full` decodes and hashes each file, but for those of which `lsb.pictures.knowledge` knows all; `listing`
            reads only files whose size and time could not show a change, and leaves digests and sizes of the others'
            pictures open; `anew` reads every file.
        choice: which files are looked at.
        rules: of decoding, see `lsb.pictures.images.decode`.
        listed: told the ids of all records before any file is read or anything is written; may raise.

    Raises:
        SourceError: no image file at all, or the folder cannot be listed.
    """
    listing = list_sources(sources, choice)
    listed(listing.files.record_ids)
    refuse_empty(sources, listing)
    known = Knowledge.of(store, name, sources.uri, listing, decoding_version(rules), anew=read == "anew")
    progress.start(_STEP, len(listing.files))
    records = _Records()
    unread = array("q")
    for start in range(0, len(listing.files), AT_ONCE):
        files = listing.files[start : start + AT_ONCE]
        known.turn_to(files)
        for place, file in enumerate(files, start):
            row, is_settled = _without_reading(file, known, read)
            if is_settled:
                records.add(row)
                progress.advance(_STEP)
            else:
                unread.append(place)
    for file, row in _read_all(sources, listing.files.at(unread), rules):
        if row["sha256"] is not None:
            known.learn(file, row, read=True)
        records.add(row)
        progress.advance(_STEP)
    progress.finish(_STEP)
    known.save()
    _account(store, name, sources, listing)
    left_out = listing.left_out
    del known, listing  # of many files as large as the table that is made now
    return write_dataset(store, name, _with_duplicates(records.table()), left_out)


def refuse_empty(sources: Source, listing: Listing) -> None:
    """Refuse a source without pictures, and log what is left out.

    Raises:
        SourceError: says what is there instead.
    """
    found = described(listing.left_out)
    if not listing.files:
        kinds = ", ".join(sorted(SUFFIXES))
        raise SourceError(f"no images at {sources.uri} (left out: {found or 'nothing'}); allowed are {kinds}")
    logger.info("%d images at %s", len(listing.files), sources.uri)
    if listing.one_time:
        logger.info("all files at %s have the same times, which say nothing: every file is read", sources.uri)
    if found:
        logger.warning("left out at %s: %s", sources.uri, found)


def _without_reading(file: SourceFile, known: Knowledge, read: str) -> tuple[RecordRow, bool]:
    """A file's record by what is known of it, and whether that is all that is wanted."""
    row = _listed(file)
    if row["status"] == Status.QUARANTINED:
        return row, True
    found = known.trusted(file)
    if found is not None and (read == "listing" or known.complete(file)):
        return {**row, **found}, True
    if read == "listing" and (found is not None or not known.doubtful(file)):
        known.learn(file, row, read=False)
        return row, True
    return row, False


def _listed(file: SourceFile) -> RecordRow:
    """A record of which nothing but the listing is known."""
    key = key_of(file.key)
    row: RecordRow = {
        "record_id": record_id(key),
        "key": key,
        "sha256": None,
        "bytes": file.size,
        "etag": file.etag,
        "status": Status.OK.value,
    }
    if key != file.key:
        return _quarantined(row, "name_not_utf8", ERROR_CODES["name_not_utf8"])
    if file.size > MAX_BYTES:
        return _quarantined(row, "too_many_bytes", ERROR_CODES["too_many_bytes"])
    return row


def _read_all(sources: Source, unread: Iterable[SourceFile], rules: int) -> Iterator[tuple[SourceFile, RecordRow]]:
    """The same files with what reading them found out, in order. They are read and decoded ahead."""
    with (
        read_ahead(unread, lambda file: sources.read(file.key), size=lambda file: file.size) as answers,
        read_ahead(answers, lambda answer: _decoded(*answer, rules), requests=DECODERS) as rows,
    ):
        for (file, _), row in rows:
            yield file, row()


def _decoded(file: SourceFile, answer: Callable[[], bytes], rules: int) -> RecordRow:
    row = _listed(file)
    try:
        data = answer()
    except StoreError as error:
        if not error.of_object:
            raise
        logger.warning("%s cannot be read, which is left to its shard: %s", visible(file.key), redact(str(error)))
        return row
    row = row | {"sha256": sha256(data), "bytes": len(data)}
    try:
        info = shared_decoder().inspect(data, rules)
    except ImageError as error:
        return _quarantined(row, error.code, error.message)
    except DecodingError as error:
        logger.warning("%s cannot be decoded, which is left to its shard: %s", visible(file.key), error)
        return row
    return {
        **row,
        "format": info.format,
        "mode": info.mode,
        "width": info.width,
        "height": info.height,
        "orientation": info.orientation,
    }


def _quarantined(row: RecordRow, code: str, detail: str) -> RecordRow:
    return row | {"status": Status.QUARANTINED.value, "error_code": code, "error_detail": redact(detail, row["key"])}


class _Records:
    """Records as they are found, of which few at a time are Python objects."""

    def __init__(self) -> None:
        self._tables = [RECORDS.empty()]
        self._rows: list[RecordRow] = []

    def add(self, row: RecordRow) -> None:
        self._rows.append(row)
        if len(self._rows) == AT_ONCE:
            self._tables.append(RECORDS.table(self._rows))
            self._rows = []

    def table(self) -> pa.Table:
        """All of them in record-id order."""
        tables = [*self._tables, RECORDS.table(self._rows)]
        self._tables, self._rows = [], []
        return pa.concat_tables(tables).sort_by("record_id")


def _with_duplicates(table: pa.Table) -> pa.Table:
    """Records in record-id order, each usable one naming the first, by id, that has the same bytes."""
    usable = pc.and_(pc.equal(table["status"], Status.OK.value), pc.is_valid(table["sha256"]))
    digests = pc.if_else(usable, table["sha256"], pa.scalar(None, pa.string()))
    first = table["record_id"].take(places(digests, digests))
    first = pc.if_else(pc.and_(usable, pc.not_equal(first, table["record_id"])), first, None)
    place = RECORDS.arrow.get_field_index("duplicate_of")
    return table.set_column(place, RECORDS.arrow.field(place), first)


def _account(store: Store, name: str, sources: Source, listing: Listing) -> None:
    """Keep what was left out beside the data set."""
    key = layout.left_out_file(name, sources.uri)
    document = canonical_json({"schema": "lsb.left-out/1", "source": sources.uri, "left_out": listing.left_out})
    if not store.exists(key) or store.read(key) != document:
        store.write(key, document)
