"""What is known of a source's files from listings before: a cache, so that a file is read once and not every night.

It is tied to the source that the files lay in, may be deleted at any time, and is not trusted where size and times
could not have shown a change:

    another stamp             the file is another one
    a racy time               it changed less than GRAIN_SECONDS before the listing, or later: another change may bear
                              the same time
    another source            of the same data set's name
    one time for all files    as in images of Docker, Nix and tar: no time of theirs says anything
    a doubt                   a shard found other bytes than were planned
"""

from __future__ import annotations

import logging
import math
import time
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc

from lsb.errors import NotFoundError, UnverifiableError
from lsb.ledger import layout
from lsb.ledger.schemas import KNOWN, KnownFacts, KnownRow, RecordRow, read_table, write_table
from lsb.pictures.listed import AT_ONCE, SourceFile
from lsb.pictures.sources import Listing
from lsb.records import key_of, record_id
from lsb.store.store import Store

logger = logging.getLogger(__name__)

GRAIN_SECONDS = 2.0  # the coarsest clock of a file system in use
SAVE_SECONDS = 120.0

_OF_THE_FILE = ("key", "size", "stamp", "listed", "decoding")


@dataclass
class Knowledge:
    """What was known of a source before a listing, and what is found out now."""

    store: Store
    name: str  # of the data set
    source: str  # URI
    listing: Listing
    decoding: str  # today's version
    before: pa.Table = field(default_factory=KNOWN.empty)
    kept: array[int] = field(default_factory=partial(array, "q"))  # where in `before` those rows are that still hold
    now: list[pa.Table] = field(default_factory=list)  # what holds instead; of several rows of one key the last
    new: list[KnownRow] = field(default_factory=list)  # that are in no table yet
    at_hand: dict[str, KnownRow] = field(default_factory=dict)  # what was known of the files that are looked at
    places: dict[str, int] = field(default_factory=dict)  # where in `before` that stands
    doubts: frozenset[str] = frozenset()
    others: bool = False  # whether another source of the data set's name was ever listed
    saved: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, store: Store, name: str, source: str, listing: Listing, decoding: str, *, anew: bool) -> Knowledge:
        """What is in the store; with `anew` none of it."""
        known = cls(store, name, source, listing, decoding)
        found = store.list(layout.doubts_folder(name, source))
        known.doubts = frozenset(entry.key.rpartition("/")[2] for entry in found)
        if not anew:
            known.before = _read(store, layout.known_file(name, source))
        known.others = _listed_elsewhere(store, name, source)
        return known

    def turn_to(self, files: Iterable[SourceFile]) -> None:
        """Have at hand what was known of some files: of these alone can be asked."""
        keys = [file.key for file in files if key_of(file.key) == file.key]
        places = pc.indices_nonzero(pc.is_in(self.before["key"], pa.array(keys, pa.string())))
        rows = self.before.take(places).to_pylist()
        self.at_hand = {row["key"]: row for row in rows}
        self.places = {row["key"]: place for row, place in zip(rows, places.to_pylist(), strict=True)}

    def trusted(self, file: SourceFile) -> KnownFacts | None:
        """What is known of a file as it is now, by the record's column names; None if nothing is that can be trusted.

        Where another version of the decoding found it out, only the bytes' digest and number are.
        """
        row = self.at_hand.get(file.key)
        if row is None or row["stamp"] != file.stamp or row["size"] != file.size:
            return None
        if not self._shows_changes(file, row["listed"]):
            return None
        self.kept.append(self.places[file.key])
        found = cast(KnownFacts, {name: value for name, value in row.items() if name not in _OF_THE_FILE})
        if row["decoding"] not in (None, self.decoding):
            return {"sha256": found["sha256"], "bytes": found["bytes"]}
        return found

    def complete(self, file: SourceFile) -> bool:
        """Whether all that reading would find out is known of a file that is trusted."""
        row = self.at_hand[file.key]
        return row["sha256"] is not None and row["decoding"] == self.decoding

    def doubtful(self, file: SourceFile) -> bool:
        """Whether the bytes of a file that is not trusted may be others without size and time of change showing it."""
        row = self.at_hand.get(file.key)
        if not self._shows_changes(file, self.listing.since):
            return True
        if file.changed == -math.inf:  # the etag is of the bytes
            return False
        # Size and time are the same although the stamp is not, or may be those of a file of the other source.
        return self.others if row is None else bool(row["etag"] == file.etag)

    def learn(self, file: SourceFile, row: RecordRow, *, read: bool) -> None:
        """Note what is said of a file, and whether its bytes were read for it."""
        names = [name for name in KNOWN.arrow.names if name not in _OF_THE_FILE]
        self._note(
            {
                "key": file.key,
                "size": file.size,
                "stamp": file.stamp,
                "listed": -math.inf if self.listing.one_time else self.listing.since,
                "decoding": self.decoding if read else None,
                **cast(KnownFacts, {name: row.get(name) for name in names}),
            }
        )
        if time.monotonic() - self.saved >= SAVE_SECONDS:
            self._write(self._last([self.before, *self.now]))

    def save(self) -> None:
        """Keep what is known of the files that are listed, and forget the doubts, but of files that cannot be read."""
        now = self._now()
        if not now.equals(self.before):
            self._write(now)
        if self.doubts:
            read = set(now["key"].to_pylist())
            unread = {record_id(key_of(file.key)) for file in self.listing.files if file.key not in read}
            for record in self.doubts - unread:
                self.store.delete(layout.doubt_file(self.name, self.source, record))

    def _shows_changes(self, file: SourceFile, since: float) -> bool:
        if self.listing.one_time or (self.doubts and record_id(file.key) in self.doubts):
            return False
        return file.changed + GRAIN_SECONDS < since

    def _note(self, row: KnownRow) -> None:
        self.new.append(row)
        if len(self.new) >= AT_ONCE:
            self._gather()

    def _gather(self) -> None:
        self.now.append(KNOWN.table(self.new))
        self.new = []

    def _now(self) -> pa.Table:
        if len(self.kept) < self.before.num_rows:
            return self._last([self.before.take(pa.array(self.kept, pa.int64())), *self.now])
        return self._last([self.before, *self.now]) if self.now or self.new else self.before

    def _last(self, tables: Iterable[pa.Table]) -> pa.Table:
        """Of each key the last row in `tables` or what is new, in key order."""
        found = pa.concat_tables([*tables, KNOWN.table(self.new)])
        keys = found["key"]
        if pc.all(pc.less(keys.slice(0, max(0, len(keys) - 1)), keys.slice(1))).as_py():  # as most often
            return found
        place = pa.array(range(found.num_rows), pa.int64())
        last = pa.table({"key": found["key"], "place": place}).group_by("key").aggregate([("place", "max")])
        return found.take(last.sort_by("key")["place_max"])

    def _write(self, table: pa.Table) -> None:
        self.store.write(layout.known_file(self.name, self.source), write_table(table, KNOWN))
        self.saved = time.monotonic()


def doubt(store: Store, name: str, source: str, record: str) -> None:
    """Have the next listing read a record's file whatever is known of it."""
    store.write(layout.doubt_file(name, source, record), b"")


def _listed_elsewhere(store: Store, name: str, source: str) -> bool:
    here = layout.known_file(name, source)
    entries = store.list(here.rsplit("/", 2)[0])
    return any(entry.key.endswith("/known.parquet") and entry.key != here for entry in entries)


def _read(store: Store, key: str) -> pa.Table:
    try:
        return read_table(store.read(key), KNOWN)
    except NotFoundError:
        return KNOWN.empty()
    except UnverifiableError as error:
        logger.warning("%s cannot be used, every file is read anew: %s", key, error)
        return KNOWN.empty()
