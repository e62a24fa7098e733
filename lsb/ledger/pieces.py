"""Rows in record-id order, a piece at a time: what is too much for the memory waits in a file until it is its turn.

    pieces = Pieces(expected)
    pieces.add(table)          # in any order
    for table in pieces: ...   # sorted, each behind the one before; as often as wanted

Record ids are hashes, so that ranges of them of one width hold about as many rows each.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pyarrow import ipc

PIECE_ROWS = 10_000  # about, of a piece; as many rows are held before some are written
LEAST_ROWS = 1_000  # that are written at a time, unless too many such few are held
_ID = "record_id"
_OPTIONS = ipc.IpcWriteOptions(compression="zstd")


class Pieces:
    """Tables of one schema, which has a column `record_id`."""

    def __init__(self, expected: int, empty: pa.Table) -> None:
        """Of about `expected` rows with the columns of `empty`."""
        count = max(1, -(-expected // PIECE_ROWS))
        self._bounds = np.array([f"{(place << 32) // count:08x}" for place in range(1, count)], dtype=str)
        self._empty = empty
        self._held: list[list[pa.Table]] = [[] for _ in range(count)]
        self._spans: list[list[tuple[int, int]]] = [[] for _ in range(count)]
        self._file, self._end = -1, 0
        self.num_rows = 0

    def add(self, table: pa.Table) -> None:
        """More rows; their ids are none that were added before."""
        self.num_rows += table.num_rows
        if not len(self._bounds):
            self._held[0].append(table)
            return
        ids = np.array(table[_ID].to_pylist(), dtype=str)
        which = np.searchsorted(self._bounds, ids, side="right")
        for place in np.unique(which):
            self._held[place].append(table.filter(pa.array(which == place)))
        for least in (LEAST_ROWS, 0):
            if sum(map(_rows, self._held)) > PIECE_ROWS:
                self._write(least)

    def __iter__(self) -> Iterator[pa.Table]:
        for held, spans in zip(self._held, self._spans, strict=True):
            tables = [ipc.open_stream(os.pread(self._file, length, start)).read_all() for start, length in spans]
            tables += held
            if tables:
                yield pa.concat_tables(tables).sort_by(_ID)

    def table(self) -> pa.Table:
        """All rows."""
        return pa.concat_tables([self._empty, *self])

    def _write(self, least: int) -> None:
        for held, spans in zip(self._held, self._spans, strict=True):
            if _rows(held) > least:
                sink = pa.BufferOutputStream()
                with ipc.new_stream(sink, self._empty.schema, options=_OPTIONS) as stream:
                    stream.write_table(pa.concat_tables(held).combine_chunks())
                spans.append((self._end, self._append(sink.getvalue())))
                held.clear()

    def _append(self, data: pa.Buffer) -> int:
        if self._file < 0:
            self._file, path = tempfile.mkstemp()
            os.unlink(path)
            weakref.finalize(self, os.close, self._file)
        view = memoryview(data)
        while view:
            done = os.pwrite(self._file, view, self._end)
            self._end += done
            view = view[done:]
        return len(data)


def _rows(tables: list[pa.Table]) -> int:
    return sum(table.num_rows for table in tables)
