"""Named, versioned Arrow schemas of every table on the store, and their Parquet bytes.

A file carries its schema's name and version; a reader that does not know them refuses the file instead of guessing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from io import BufferedRandom
from typing import Any, Required, TypedDict

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lsb.errors import UnverifiableError
from lsb.isolation import temporary_file, temporary_files
from lsb.store.store import Data

_NAME = b"lsb.schema"
TABLE_ROWS = 10_000
_TIME = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class TableSchema:
    """An Arrow schema with a name that ends in its version, such as `lsb.plan/1`.

    Attributes:
        before: earlier versions that are read as well, each with the columns that it lacks; they read as null. A column
            that may be null now may not have been then.
    """

    name: str
    arrow: pa.Schema
    before: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def table(self, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        """Rows as a table of this schema; a missing key is null, an unknown one a KeyError."""
        names = set(self.arrow.names)
        for row in rows:
            if unknown := row.keys() - names:
                raise KeyError(f"{self.name} has no column {sorted(unknown)}")
        return pa.Table.from_pylist(list(rows), schema=self.arrow)

    def empty(self) -> pa.Table:
        return self.arrow.empty_table()


def _schema(
    name: str, fields: list[tuple[str, pa.DataType, bool]], before: Mapping[str, frozenset[str]] | None = None
) -> TableSchema:
    arrow = pa.schema([pa.field(column, kind, nullable=null) for column, kind, null in fields])
    return TableSchema(name, arrow, before or {})


_SOURCE = [
    ("sha256", pa.string(), True),  # null after a listing: whoever works on the shard fills it in
    ("bytes", pa.int64(), False),
    ("etag", pa.string(), False),
    ("format", pa.string(), True),
    ("mode", pa.string(), True),
    ("width", pa.int32(), True),
    ("height", pa.int32(), True),
    ("orientation", pa.int8(), True),
]


class SourceColumns(TypedDict, total=False):
    """What reading a file finds out."""

    sha256: str | None
    bytes: int
    etag: str
    format: str | None
    mode: str | None
    width: int | None
    height: int | None
    orientation: int | None


class Verdict(TypedDict, total=False):
    """What ingest says of a record. A column that is missing is null."""

    status: Required[str]
    error_code: str | None
    error_detail: str | None


# One row per source file of a data set, in record-id order.
RECORDS = _schema(
    "lsb.records/1",
    [
        ("record_id", pa.string(), False),
        ("key", pa.string(), False),
        *_SOURCE,
        ("status", pa.string(), False),  # ok or quarantined
        ("error_code", pa.string(), True),
        ("error_detail", pa.string(), True),
        ("duplicate_of", pa.string(), True),  # the first record id with the same bytes
    ],
)


class RecordRow(SourceColumns, Verdict, total=False):
    """A row of RECORDS."""

    record_id: Required[str]
    key: Required[str]
    duplicate_of: str | None


# What is known of a source's files, one row each: a cache.
KNOWN = _schema(
    "lsb.known/1",
    [
        ("key", pa.string(), False),
        ("size", pa.int64(), False),  # as listed
        ("stamp", pa.string(), False),
        ("listed", pa.float64(), False),  # when the listing began that showed this stamp, in seconds
        ("decoding", pa.string(), True),  # by which the rest was found; null if the bytes were not read
        *_SOURCE,
        ("status", pa.string(), False),
        ("error_code", pa.string(), True),
        ("error_detail", pa.string(), True),
    ],
)


class KnownFacts(SourceColumns, total=False):
    """What is known of a file without reading it: all, or where decoding has changed digest and size of its bytes."""

    status: str
    error_code: str | None
    error_detail: str | None


class KnownRow(KnownFacts):
    """A row of KNOWN."""

    key: str
    size: int
    stamp: str
    listed: float
    decoding: str | None


# One row per planned record, in record-id order.
PLAN = _schema(
    "lsb.plan/1",
    [
        ("record_id", pa.string(), False),
        ("key", pa.string(), False),
        *_SOURCE,
        ("action", pa.string(), False),  # translate or quarantine
        ("shard", pa.string(), True),
        ("duplicate_of", pa.string(), True),
        ("error_code", pa.string(), True),
        ("error_detail", pa.string(), True),
    ],
)


class PlanRow(SourceColumns):
    """A row of PLAN."""

    record_id: str
    key: str
    action: str
    shard: str | None
    duplicate_of: str | None
    error_code: str | None
    error_detail: str | None


_GATES = ("output_change", "source_distance")
_COSTS = ("device_seconds", "bytes_read", "bytes_written", "requests")
_SINCE_FIVE = (*_GATES, *_COSTS, "threads")

# One row per record that was dealt with: what a shard commits and what a snapshot publishes.
MANIFEST = _schema(
    "lsb.manifest/8",
    [
        ("record_id", pa.string(), False),
        ("shard", pa.string(), True),  # null for what ingest quarantined
        ("attempt", pa.string(), True),
        ("tries", pa.int32(), False),
        ("status", pa.string(), False),
        ("retryable", pa.bool_(), False),
        ("error_code", pa.string(), True),
        ("error_detail", pa.string(), True),
        ("carried_from", pa.string(), True),
        ("source_key", pa.string(), False),
        ("source_sha256", pa.string(), True),
        ("source_bytes", pa.int64(), True),
        ("source_format", pa.string(), True),
        ("source_mode", pa.string(), True),
        ("source_width", pa.int32(), True),
        ("source_height", pa.int32(), True),
        ("source_orientation", pa.int8(), True),
        ("source_frames", pa.int32(), True),  # pictures in the file, of which the first was taken
        ("source_transparent", pa.bool_(), True),
        ("source_metadata", pa.list_(pa.string()), True),  # the kinds that it has; null if nobody looked
        ("working_width", pa.int32(), True),  # of what the network was given
        ("working_height", pa.int32(), True),
        ("tiles", pa.int32(), True),  # in which it was translated; null if as a whole
        ("transform_id", pa.string(), False),
        ("model_id", pa.string(), False),
        ("model_revision", pa.string(), True),
        ("model_digest", pa.string(), False),
        ("source_prompt", pa.string(), False),
        ("target_prompt", pa.string(), False),
        ("seed", pa.string(), False),
        ("method", pa.string(), False),
        ("nfe", pa.int32(), False),
        ("tau", pa.float64(), True),  # these three are null where the method has no such setting
        ("t0", pa.float64(), True),
        ("guidance", pa.float64(), True),
        ("device", pa.string(), True),
        ("dtype", pa.string(), True),
        ("batch", pa.int32(), True),
        ("batch_padding", pa.int32(), True),  # rows of its batch that were no picture's
        ("joint", pa.bool_(), True),  # asked under both prompts in one call; these two are null if not
        ("channels_last", pa.bool_(), True),  # the layout of weights and states in memory
        ("instruction_set", pa.string(), True),
        ("threads", pa.int32(), True),  # of the processor, for one operation; null on an accelerator
        ("code_version", pa.string(), True),
        ("code_commit", pa.string(), True),
        ("packages_sha256", pa.string(), True),
        ("output_key", pa.string(), True),  # relative to the root
        ("output_sha256", pa.string(), True),
        ("pixels_sha256", pa.string(), True),
        ("output_bytes", pa.int64(), True),
        ("output_format", pa.string(), True),
        ("output_metadata", pa.list_(pa.string()), True),  # the kinds that were copied; null if that was not asked for
        ("output_width", pa.int32(), True),
        ("output_height", pa.int32(), True),
        ("output_scale", pa.float64(), True),  # by what the network's picture was enlarged
        ("output_limited", pa.bool_(), True),  # smaller than the source for geometry.max_scale
        ("scores", pa.map_(pa.string(), pa.float64()), True),
        # These three are null until published, and the first two where nothing was measured.
        ("output_change", pa.float64(), True),  # 1: no more than the VAE alone; see lsb.metrics.calibration
        ("source_distance", pa.float64(), True),  # from the run's other sources, see there
        ("flags", pa.list_(pa.string()), True),
        ("started", _TIME, True),
        ("finished", _TIME, True),
        # What this record alone has cost; 0 where another one with the same bytes has borne it, null if nobody counted.
        ("device_seconds", pa.float64(), True),  # its share of its batch's with the model; null without a picture
        ("bytes_read", pa.int64(), True),  # of its source, and of its truth if that was read
        ("bytes_written", pa.int64(), True),  # of its output
        ("requests", pa.int64(), True),  # for these bytes
    ],
    before={
        "lsb.manifest/1": frozenset(
            {
                *("source_frames", "source_transparent", "source_metadata", "working_width", "working_height"),
                *("tiles", "batch_padding", "output_metadata", "output_scale", "output_limited"),
                *("joint", "channels_last", *_SINCE_FIVE),
            }
        ),
        "lsb.manifest/2": frozenset({"tiles", "joint", "channels_last", *_SINCE_FIVE}),
        # Of LSB alone, which has tau, t0 and guidance.
        "lsb.manifest/3": frozenset({"joint", "channels_last", *_SINCE_FIVE}),
        "lsb.manifest/4": frozenset({"joint", "channels_last", *_SINCE_FIVE}),
        "lsb.manifest/5": frozenset(_SINCE_FIVE),
        "lsb.manifest/6": frozenset({*_COSTS, "threads"}),
        "lsb.manifest/7": frozenset({"threads"}),
    },
)


class ManifestRow(TypedDict, total=False):
    """A row of MANIFEST, or the part of it that one step knows. A column that is missing is null."""

    record_id: str
    shard: str | None
    attempt: str | None
    tries: int
    status: str
    retryable: bool
    error_code: str | None
    error_detail: str | None
    carried_from: str | None
    source_key: str
    source_sha256: str | None
    source_bytes: int | None
    source_format: str | None
    source_mode: str | None
    source_width: int | None
    source_height: int | None
    source_orientation: int | None
    source_frames: int | None
    source_transparent: bool | None
    source_metadata: list[str] | None
    working_width: int | None
    working_height: int | None
    tiles: int | None
    transform_id: str
    model_id: str
    model_revision: str | None
    model_digest: str
    source_prompt: str
    target_prompt: str
    seed: str
    method: str
    nfe: int
    tau: float | None
    t0: float | None
    guidance: float | None
    device: str | None
    dtype: str | None
    batch: int | None
    batch_padding: int | None
    joint: bool | None
    channels_last: bool | None
    instruction_set: str | None
    threads: int | None
    code_version: str | None
    code_commit: str | None
    packages_sha256: str | None
    output_key: str | None
    output_sha256: str | None
    pixels_sha256: str | None
    output_bytes: int | None
    output_format: str | None
    output_metadata: list[str] | None
    output_width: int | None
    output_height: int | None
    output_scale: float | None
    output_limited: bool | None
    scores: list[tuple[str, float]] | None
    output_change: float | None
    source_distance: float | None
    flags: list[str] | None
    started: datetime | None
    finished: datetime | None
    device_seconds: float | None
    bytes_read: int | None
    bytes_written: int | None
    requests: int | None


# Pooled features of the outputs, one row per record of the metric sample.
FEATURES = _schema(
    "lsb.features/1",
    [("record_id", pa.string(), False), ("features", pa.list_(pa.float32()), False)],
)


def places(values: pa.ChunkedArray, among: pa.ChunkedArray) -> pa.Array:
    """Where each of `values` stands in `among`, null where it does not; for `take`."""
    return pa.chunked_array(pc.index_in(values, among.combine_chunks())).combine_chunks()


def write_table(table: pa.Table, schema: TableSchema) -> bytes:
    """Parquet bytes of `table`, equal for equal tables.

    Raises:
        UnverifiableError: the table's columns are not the schema's.
    """
    if not table.schema.equals(schema.arrow):
        raise UnverifiableError(f"table does not have the columns of {schema.name}")
    sink = pa.BufferOutputStream()
    marked = table.replace_schema_metadata({_NAME: schema.name.encode()})
    pq.write_table(marked, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


@contextmanager
def written_tables(tables: Iterable[pa.Table], schema: TableSchema) -> Iterator[BufferedRandom]:
    """The same of several tables, one behind the other, of which one at a time is held: a temporary file.

    Raises:
        UnverifiableError: as for `write_table`.
        TemporaryFileError: no room for them.
    """
    marked = schema.arrow.with_metadata({_NAME: schema.name.encode()})
    with temporary_file() as file:
        with temporary_files(), pq.ParquetWriter(file, marked, compression="zstd") as writer:
            for table in tables:
                if not table.schema.equals(schema.arrow):
                    raise UnverifiableError(f"table does not have the columns of {schema.name}")
                writer.write_table(table.replace_schema_metadata(marked.metadata))
        with temporary_files():
            file.flush()
        yield file


def read_table(data: Data, schema: TableSchema, *, columns: list[str] | None = None) -> pa.Table:
    """The table in Parquet bytes or a Parquet file, or only its `columns`.

    One of an earlier version has the columns of this one.

    Raises:
        UnverifiableError: no Parquet, or another schema than the one asked for.
    """
    with _readable(schema):
        file, found = _opened(data, schema)
        table = file.read(columns=columns)
    return _completed(table, schema, columns, found)


def tables_of(data: Data, schema: TableSchema, *, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a table a piece at a time, some TABLE_ROWS each; errors as for `read_table`."""
    with _readable(schema):
        file, found = _opened(data, schema)
        for group in range(file.num_row_groups):  # one at a time, since a reader holds what it has read of all
            for batch in file.iter_batches(TABLE_ROWS, row_groups=[group], columns=columns):
                yield _completed(pa.Table.from_batches([batch]), schema, columns, found)


@contextmanager
def _readable(schema: TableSchema) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnverifiableError(f"not a readable {schema.name} table: {reason}") from error


def _opened(data: Data, schema: TableSchema) -> tuple[pq.ParquetFile, str]:
    """The file, and the name of the version of the schema that it has."""
    file = pq.ParquetFile(pa.BufferReader(data) if isinstance(data, bytes) else pa.PythonFile(data, "r"))
    found = (file.schema_arrow.metadata or {}).get(_NAME, b"").decode(errors="replace")
    if found != schema.name and found not in schema.before:
        raise UnverifiableError(f"table has schema {found or 'without a name'!r}, expected {schema.name!r}")
    if schema.before.get(found, frozenset()) & set(file.schema_arrow.names):
        raise UnverifiableError(f"table claims schema {found} but its columns differ")
    return file, found


def _completed(table: pa.Table, schema: TableSchema, columns: list[str] | None, found: str) -> pa.Table:
    """The table with the columns of this version of the schema."""
    lacking = schema.before.get(found, frozenset())
    table = table.replace_schema_metadata(None)
    if found != schema.name:
        table = _nullable_as(table, schema.arrow)
    for column in (column for column in schema.arrow if column.name in lacking):
        if columns is None or column.name in columns:
            table = table.append_column(column, pa.nulls(table.num_rows, column.type))
    if lacking:
        wanted = schema.arrow.names if columns is None else columns
        table = table.select([name for name in wanted if name in table.column_names])
    if columns is None and not table.schema.equals(schema.arrow):
        raise UnverifiableError(f"table claims schema {found} but its columns differ")
    return table


def _nullable_as(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The same with columns that may be null where those of `schema` may."""
    fields = [
        field.with_nullable(field.nullable or (field.name in schema.names and schema.field(field.name).nullable))
        for field in table.schema
    ]
    return pa.Table.from_arrays(table.columns, schema=pa.schema(fields))
