"""Tables a piece at a time: what is too much for the memory waits in a file until it is its turn.

    pieces = Pieces(expected, empty)
    pieces.add(table)          # in any order
    for table in pieces: ...   # in record-id order, each behind the one before; as often as wanted

Record ids are hashes, so that ranges of them of one width hold about as many rows each. Whoever knows better what
belongs together puts it into boxes.
"""

from __future__ import annotations

import os
import weakref
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import ipc

from lsb.errors import TamperedError
from lsb.isolation import nameless_file, temporary_files

if TYPE_CHECKING:
    import numpy.typing as npt

PIECE_ROWS = 10_000  # about, of a piece; as many rows are held before some are written
LEAST_ROWS = 1_000  # that are written at a time, unless too many such few are held
_ID = "record_id"
_OPTIONS = ipc.IpcWriteOptions(compression="zstd")


class Boxes:
    """Tables of one schema, whose rows are put into numbered boxes."""

    def __init__(self, count: int, empty: pa.Table) -> None:
        """So many boxes, for rows with the columns of `empty`."""
        self._count, self._empty = count, empty
        self._held: dict[int, list[pa.Table]] = {}
        self._spans: dict[int, list[tuple[int, int]]] = {}  # in the file
        self._file, self._end = -1, 0
        self._waiting = 0
        self.num_rows = 0

    def put(self, table: pa.Table, boxes: npt.NDArray[Any]) -> None:
        """More rows, each into the box of its number; TemporaryFileError if there is no room for what has to wait."""
        self.num_rows += table.num_rows
        if self._count == 1:
            self._held.setdefault(0, []).append(table)
            return
        self._waiting += table.num_rows
        for box in np.unique(boxes).tolist():
            self._held.setdefault(box, []).append(table.filter(pa.array(boxes == box)))
        for least in (LEAST_ROWS, 0):
            if self._waiting > PIECE_ROWS:
                self._write(least)

    def __iter__(self) -> Iterator[pa.Table]:
        """What is in each box, unless that is nothing."""
        for number in sorted(self._held.keys() | self._spans.keys()):
            yield self.box(number)

    def box(self, number: int) -> pa.Table:
        """What is in one box, in the order in which it came."""
        spans = self._spans.get(number, [])
        tables = [ipc.open_stream(os.pread(self._file, length, start)).read_all() for start, length in spans]
        return pa.concat_tables([self._empty, *tables, *self._held.get(number, [])])

    def _write(self, least: int) -> None:
        for number in [number for number, held in self._held.items() if _rows(held) > least]:
            held = self._held.pop(number)
            sink = pa.BufferOutputStream()
            with ipc.new_stream(sink, self._empty.schema, options=_OPTIONS) as stream:
                stream.write_table(pa.concat_tables(held).combine_chunks())
            self._spans.setdefault(number, []).append((self._end, self._append(sink.getvalue())))
            self._waiting -= _rows(held)

    def _append(self, data: pa.Buffer) -> int:
        if self._file < 0:
            self._file = nameless_file()
            weakref.finalize(self, os.close, self._file)
        view = memoryview(data)
        with temporary_files():
            while view:
                done = os.pwrite(self._file, view, self._end)
                self._end += done
                view = view[done:]
        return len(data)


class Pieces(Boxes):
    """Tables of one schema, which has a column `record_id`."""

    def __init__(self, expected: int, empty: pa.Table) -> None:
        """Of about `expected` rows with the columns of `empty`."""
        count = max(1, -(-expected // PIECE_ROWS))
        super().__init__(count, empty)
        self._bounds = np.array([f"{(place << 32) // count:08x}" for place in range(1, count)], dtype=str)

    def add(self, table: pa.Table) -> None:
        """More rows; their ids are none that were added before."""
        ids = np.array(table[_ID].to_pylist() if len(self._bounds) else [], dtype=str)
        self.put(table, np.searchsorted(self._bounds, ids, side="right"))

    def __iter__(self) -> Iterator[pa.Table]:
        for table in super().__iter__():
            yield table.sort_by(_ID)

    def table(self) -> pa.Table:
        """All rows."""
        return pa.concat_tables([self._empty, *self])


class Ordered:
    """Tables of one schema that come in record-id order, each behind the one before, taken up to an id.

    TamperedError where they do not.
    """

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        self._coming = iter(tables)
        self._held: list[pa.Table] = []  # of what has come, what was not taken
        self._last: str | None = None  # id of what has come

    def upto(self, last: str) -> pa.Table | None:
        """The rows that were not taken before, up to the one with this id; None if no table has come at all."""
        while not self._held or not self._held[-1].num_rows or self._held[-1][_ID][-1].as_py() <= last:
            table = next(self._coming, None)
            if table is None:
                break
            self._held.append(self._in_order(table))
        if not self._held:
            return None
        whole = pa.concat_tables(self._held)
        ids = whole[_ID]
        taken = bisect_right(range(len(ids)), last, key=lambda place: ids[place].as_py())
        self._held = [whole.slice(taken)]
        return whole.slice(0, taken)

    def _in_order(self, table: pa.Table) -> pa.Table:
        for ids in (chunk for chunk in table[_ID].chunks if len(chunk)):
            before = self._last is not None and ids[0].as_py() < self._last
            if before or pc.any(pc.greater(ids[:-1], ids[1:])).as_py():
                raise TamperedError("a table's rows are not in the order of their records")
            self._last = ids[-1].as_py()
        return table


def _rows(tables: list[pa.Table]) -> int:
    return sum(table.num_rows for table in tables)
