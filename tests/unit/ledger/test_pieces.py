from __future__ import annotations

import errno
import os
import tempfile
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pytest

from lsb.errors import TemporaryFileError
from lsb.ledger import pieces
from lsb.ledger.pieces import Boxes, Pieces
from lsb.ledger.schemas import MANIFEST, read_table, tables_of, write_table, written_tables
from lsb.records import sha256
from lsb.store.store import contents

SCHEMA = pa.schema([("record_id", pa.string()), ("number", pa.int64()), ("kinds", pa.list_(pa.string()))])


def rows(numbers: range) -> pa.Table:
    made = [{"record_id": sha256(b"%d" % n)[:32], "number": n, "kinds": ["x"] * (n % 3)} for n in numbers]
    return pa.Table.from_pylist(made, schema=SCHEMA)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_ROWS", 50)
    monkeypatch.setattr(pieces, "LEAST_ROWS", 5)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("step", [1000, 70, 7])
def test_rows_come_in_order_whatever_order_they_went_in(step: int) -> None:
    found = Pieces(1000, SCHEMA.empty_table())
    for start in range(0, 1000, step):
        found.add(rows(range(start, min(start + step, 1000))))
    whole = rows(range(1000)).sort_by("record_id")
    assert found.num_rows == 1000
    for _ in range(2):  # as often as wanted
        assert found.table().equals(whole)
        assert max(piece.num_rows for piece in found) < 150


@pytest.mark.usefixtures("small")
def test_no_more_is_held_than_said() -> None:
    found = Pieces(5000, SCHEMA.empty_table())
    for start in range(0, 5000, 10):
        found.add(rows(range(start, start + 10)))
        assert sum(table.num_rows for held in found._held.values() for table in held) <= 50
    assert found.table().num_rows == 5000


@pytest.mark.usefixtures("small")
def test_boxes_that_hold_nothing_are_not_looked_at() -> None:
    """There may be 100,000, which every writing would go through."""
    found = Boxes(1000, SCHEMA.empty_table())
    for number in range(900):
        found.put(rows(range(number, number + 1)), np.array([number]))
        assert len(found._held) <= 50
    assert [table.num_rows for table in found] == [1] * 900
    assert found.box(950).num_rows == 0


def test_few_rows_need_no_file() -> None:
    found = Pieces(100, SCHEMA.empty_table())
    found.add(rows(range(100)))
    assert found._file < 0
    assert [piece.num_rows for piece in found] == [100]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("expected", [0, 1000])
def test_of_nothing_there_is_an_empty_table(expected: int) -> None:
    found = Pieces(expected, SCHEMA.empty_table())
    assert list(found) == []
    assert found.table().equals(SCHEMA.empty_table())


@pytest.mark.usefixtures("small")
def test_ids_that_are_no_hashes_are_sorted_as_well() -> None:
    table = pa.table({"record_id": ["zz", "", "ffffffff", "é", "0"], "number": [1, 2, 3, 4, 5]})
    found = Pieces(1000, table.slice(0, 0))
    found.add(table)
    assert found.table().equals(table.sort_by("record_id"))


def manifest(count: int) -> pa.Table:
    strings = {field.name: "x" for field in MANIFEST.arrow if pa.types.is_string(field.type)}
    numbers = {"tries": 1, "retryable": False, "nfe": 4, "tau": 1.0, "t0": 0.0, "guidance": 1.0}
    made = [{**strings, **numbers, "record_id": f"{n:032x}", "scores": [("a", n / 7)]} for n in range(count)]
    return MANIFEST.table(made)


def written(tables: list[pa.Table]) -> bytes:
    with written_tables(tables, MANIFEST) as file:
        return contents(file)


def test_a_table_in_pieces_is_read_as_one_and_a_single_piece_has_the_same_bytes() -> None:
    table = manifest(30)
    assert written([table]) == write_table(table, MANIFEST)
    data = written([table.slice(0, 12), table.slice(12)])
    assert read_table(data, MANIFEST).equals(table)
    assert pa.concat_tables(tables_of(data, MANIFEST)).equals(table)
    columns = ["status", "record_id"]
    assert pa.concat_tables(tables_of(data, MANIFEST, columns=columns)).equals(
        read_table(data, MANIFEST, columns=columns)
    )
    assert read_table(written([]), MANIFEST).equals(MANIFEST.empty())


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("missing", ["room", "folder"])
def test_without_room_for_a_file_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if missing == "room":
        monkeypatch.setattr(os, "pwrite", refuse)
    else:
        monkeypatch.setattr(tempfile, "gettempdir", refuse)
    found = Pieces(1000, SCHEMA.empty_table())
    with pytest.raises(TemporaryFileError, match=r"No space left on device; .*TMPDIR") as raised:
        found.add(rows(range(1000)))
    assert raised.value.exit_code == 3
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(TemporaryFileError, match="TMPDIR"):
        written([manifest(1)])
