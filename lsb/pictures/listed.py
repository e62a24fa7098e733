"""The files of a listing: as many as a source has, each an object of Python only while somebody looks at it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import overload

import pyarrow as pa
import pyarrow.compute as pc

from lsb.records import key_of, record_id
from lsb.store.store import Entry

AT_ONCE = 10_000  # rows that are Python objects
# Keys as bytes, since names of files may hold what is no text.
_SCHEMA = pa.schema(
    [
        ("key", pa.binary()),
        ("size", pa.int64()),
        ("etag", pa.string()),
        ("modified", pa.float64()),
        ("stamp", pa.string()),
        ("changed", pa.float64()),
    ]
)
_ANY = "surrogatepass"


@dataclass(frozen=True, order=True, slots=True)
class SourceFile(Entry):
    """A file of a listing.

    Attributes:
        stamp: another one whenever the source can tell that the bytes may be others.
        changed: when the file changed last by its own times, in seconds; minus infinity where the stamp is made of the
            bytes, so that no time is needed.
    """

    stamp: str
    changed: float


class Files(Sequence[SourceFile]):
    """Files in key order."""

    def __init__(self, files: Iterable[SourceFile]) -> None:
        tables = [_SCHEMA.empty_table()]
        coming = iter(files)
        while some := list(islice(coming, AT_ONCE)):
            columns = zip(*((one.key.encode(errors=_ANY), *_rest(one)) for one in some), strict=True)
            arrays = [pa.array(column, kind) for column, kind in zip(columns, _SCHEMA.types, strict=True)]
            tables.append(pa.table(arrays, schema=_SCHEMA))
        self._table = pa.concat_tables(tables).sort_by("key")

    @property
    def twice(self) -> str | None:
        """A key that two of them have."""
        keys = self._table["key"]
        place = pc.index(pc.equal(keys.slice(1), keys.slice(0, max(0, len(keys) - 1))), True).as_py()
        return None if place < 0 else keys[place].as_py().decode(errors=_ANY)

    @property
    def one_time(self) -> bool:
        """Whether they are several and all have the same times."""
        if len(self) < 2:
            return False
        spans = (pc.min_max(self._table[name]).as_py() for name in ("modified", "changed"))
        return all(span["min"] == span["max"] for span in spans)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __iter__(self) -> Iterator[SourceFile]:
        for start in range(0, len(self), AT_ONCE):
            yield from _files(self._table.slice(start, AT_ONCE))

    @overload
    def __getitem__(self, index: int) -> SourceFile: ...

    @overload
    def __getitem__(self, index: slice) -> list[SourceFile]: ...

    def __getitem__(self, index: int | slice) -> SourceFile | list[SourceFile]:
        places = range(len(self))[index]
        return [*self.at(places)] if isinstance(places, range) else next(self.at([places]))

    def at(self, places: Sequence[int]) -> Iterator[SourceFile]:
        """Those that stand at these places."""
        for start in range(0, len(places), AT_ONCE):
            yield from _files(self._table.take(pa.array(places[start : start + AT_ONCE], pa.int64())))

    @property
    def record_ids(self) -> pa.ChunkedArray:
        """Of each the id of its record."""
        some = (self[start : start + AT_ONCE] for start in range(0, len(self), AT_ONCE))
        ids = [pa.array([record_id(key_of(file.key)) for file in files], pa.string()) for files in some]
        return pa.chunked_array(ids, pa.string())


def _rest(file: SourceFile) -> tuple[int, str, float, str, float]:
    return file.size, file.etag, file.modified, file.stamp, file.changed


def _files(table: pa.Table) -> list[SourceFile]:
    keys = (key.decode(errors=_ANY) for key in table["key"].to_pylist())
    others = (column.to_pylist() for column in table.columns[1:])
    return [SourceFile(*values) for values in zip(keys, *others, strict=True)]
