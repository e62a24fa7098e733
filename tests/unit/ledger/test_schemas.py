from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lsb.errors import UnverifiableError
from lsb.ledger.schemas import (
    FEATURES,
    KNOWN,
    MANIFEST,
    PLAN,
    RECORDS,
    KnownRow,
    ManifestRow,
    PlanRow,
    RecordRow,
    TableSchema,
    read_table,
    write_table,
)

FIXTURES = Path(__file__).parents[2] / "fixtures"
ROW = {"record_id": "0" * 32, "features": [1.0, 2.5]}


def test_a_table_survives_the_way_through_bytes() -> None:
    table = FEATURES.table([ROW])
    data = write_table(table, FEATURES)
    assert read_table(data, FEATURES).equals(table)
    assert read_table(data, FEATURES, columns=["record_id"]).column_names == ["record_id"]
    assert data == write_table(FEATURES.table([ROW]), FEATURES)


def test_scores_and_times_survive() -> None:
    blank = {
        field.name: {pa.string(): "x", pa.int32(): 1, pa.float64(): 0.5, pa.bool_(): False}[field.type]
        for field in MANIFEST.arrow
        if not field.nullable
    }
    moment = datetime(2024, 2, 29, 12, 30, 0, 5, tzinfo=UTC)
    row = {**blank, "scores": [("psnr", 20.5)], "flags": ["a"], "started": moment}
    (back,) = read_table(write_table(MANIFEST.table([row]), MANIFEST), MANIFEST).to_pylist()
    assert (dict(back["scores"]), back["flags"], back["started"]) == ({"psnr": 20.5}, ["a"], moment)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"not a table at all, but long enough for a footer"])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(UnverifiableError, match=r"lsb\.plan/1"):
        read_table(data, PLAN)


def test_another_schema_is_refused() -> None:
    with pytest.raises(UnverifiableError, match=r"'lsb\.features/1', expected 'lsb\.plan/1'"):
        read_table(write_table(FEATURES.table([ROW]), FEATURES), PLAN)


NEW = {
    *("source_frames", "source_transparent", "source_metadata", "working_width", "working_height"),
    *("tiles", "batch_padding", "output_metadata", "output_scale", "output_limited"),
    *("joint", "channels_last", "output_change", "source_distance"),
    *("device_seconds", "bytes_read", "bytes_written", "requests", "threads"),
}
SINCE_SEVEN = {"threads"}
SINCE_SIX = {"device_seconds", "bytes_read", "bytes_written", "requests", *SINCE_SEVEN}
SINCE_FIVE = {"output_change", "source_distance", *SINCE_SIX}
SINCE_FOUR = {"joint", "channels_last", *SINCE_FIVE}


def row_before() -> dict[str, object]:
    """A row that has nothing of what came later."""
    blank = {
        field.name: {pa.string(): "x", pa.int32(): 1, pa.float64(): 0.5, pa.bool_(): False}[field.type]
        for field in MANIFEST.arrow
        if not field.nullable
    }
    return {**blank, "output_width": 7, "shard": "00000"}


def table_before(name: str = "lsb.manifest/1", new: Collection[str] = frozenset(NEW)) -> bytes:
    before = TableSchema(name, pa.schema([field for field in MANIFEST.arrow if field.name not in new]))
    return write_table(before.table([row_before()]), before)


@pytest.mark.parametrize(
    ("name", "new"),
    [
        ("lsb.manifest/1", NEW),
        ("lsb.manifest/2", {"tiles", *SINCE_FOUR}),
        ("lsb.manifest/3", SINCE_FOUR),
        ("lsb.manifest/4", SINCE_FOUR),
        ("lsb.manifest/5", SINCE_FIVE),
        ("lsb.manifest/6", SINCE_SIX),
        ("lsb.manifest/7", SINCE_SEVEN),
    ],
)
def test_a_manifest_of_a_version_before_reads_as_one_of_today_s(name: str, new: set[str]) -> None:
    before = table_before(name, new)
    table = read_table(before, MANIFEST)
    assert table.schema.equals(MANIFEST.arrow)
    assert table.equals(MANIFEST.table([row_before()]))
    columns = ["output_scale", "record_id", "tiles", "output_width"]
    old, new_table = (
        read_table(data, MANIFEST, columns=columns)
        for data in (before, write_table(MANIFEST.table([row_before()]), MANIFEST))
    )
    assert old.equals(new_table)
    assert old.to_pylist() == [{"record_id": "x", "output_width": 7, "tiles": None, "output_scale": None}]


def test_rows_of_the_time_when_every_method_had_a_tau_stand_beside_those_without() -> None:
    """The file's column cannot be null, today's can."""
    data = (FIXTURES / "manifest_2.parquet").read_bytes()
    assert not pq.read_schema(pa.BufferReader(data)).field("tau").nullable
    for columns in (None, ["tau", "t0", "guidance", "record_id"]):
        old = read_table(data, MANIFEST, columns=columns)
        new = read_table(write_table(MANIFEST.table([row_before()]), MANIFEST), MANIFEST, columns=columns)
        assert old.schema.equals(new.schema)
        assert None not in old["tau"].to_pylist()
        assert pa.concat_tables([old, new])["tau"].to_pylist()[-1] is None


def test_the_rows_of_a_run_of_the_version_before_tiles_are_read() -> None:
    """The file was written by the code of that version."""
    rows = read_table((FIXTURES / "manifest_2.parquet").read_bytes(), MANIFEST).to_pylist()
    assert {(row["status"], row["tiles"], row["output_scale"]) for row in rows} == {("ok", None, 1.2)}


def test_a_table_that_claims_another_version_than_its_columns_is_refused() -> None:
    later = TableSchema("lsb.manifest/1", MANIFEST.arrow)
    with pytest.raises(UnverifiableError, match=r"claims schema lsb\.manifest/1 but its columns differ"):
        read_table(write_table(later.table([row_before()]), later), MANIFEST)
    first = TableSchema("lsb.manifest/2", read_first_schema())
    with pytest.raises(UnverifiableError, match=r"claims schema lsb\.manifest/2 but its columns differ"):
        read_table(write_table(first.table([row_before()]), first), MANIFEST)


def read_first_schema() -> pa.Schema:
    return pa.schema([field for field in MANIFEST.arrow if field.name not in NEW])


def test_a_table_with_other_columns_is_not_written() -> None:
    with pytest.raises(UnverifiableError):
        write_table(pa.table({"record_id": ["x"]}), RECORDS)


def test_an_unknown_column_is_an_error() -> None:
    with pytest.raises(KeyError, match="colour"):
        FEATURES.table([{**ROW, "colour": 1}])


@pytest.mark.parametrize(
    ("row", "schema"),
    [(RecordRow, RECORDS), (KnownRow, KNOWN), (PlanRow, PLAN), (ManifestRow, MANIFEST)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_type_of_a_row_has_the_columns_of_its_table(row: type, schema: TableSchema) -> None:
    assert get_type_hints(row).keys() == set(schema.arrow.names)
