"""A table that is read by parts: one object of whole Parquet tables, one behind the other, and an index of them.

    part, part, ... , index, length of the index, b"LSBPARTS"

The index is JSON and names each part, where it lies, and its SHA-256. Whoever needs one part is told by a document
where the index lies and what its digest is, and reads two ranges of bytes, both checked. Whoever needs the whole table
reads the object, whose digest that document names as well.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypedDict

import pyarrow as pa

from lsb.errors import StoreError, TamperedError, UnverifiableError
from lsb.ledger.log.commit_log import read_checked
from lsb.ledger.log.seal import well_formed
from lsb.ledger.schemas import TableSchema, read_table, write_table
from lsb.records import canonical_json, sha256
from lsb.store.store import Data, Store, part_of, read_range, size_of

SCHEMA = "lsb.parts/1"
_END = b"LSBPARTS"
_TAIL = struct.Struct("<Q8s")


class IndexReference(TypedDict):
    """How a document names the index of an object of parts."""

    offset: int
    length: int
    sha256: str


class Part(NamedTuple):
    """One part of an object: whose rows it holds, where it lies, how many rows, and the digest of its bytes."""

    name: str | None
    offset: int
    length: int
    rows: int
    sha256: str


def join(tables: Iterable[tuple[str | None, pa.Table]], schema: TableSchema) -> tuple[bytes, IndexReference]:
    """The object of these parts, and how its index is named."""
    whole = io.BytesIO()
    parts: list[Part] = []
    for name, table in tables:
        data = write_table(table, schema)
        parts.append(Part(name, whole.tell(), len(data), table.num_rows, sha256(data)))
        whole.write(data)
    index = canonical_json({"schema": SCHEMA, "table": schema.name, "parts": [list(part) for part in parts]})
    reference: IndexReference = {"offset": whole.tell(), "length": len(index), "sha256": sha256(index)}
    whole.write(index + _TAIL.pack(len(index), _END))
    return whole.getvalue(), reference


def is_of_parts(data: Data) -> bool:
    """Whether an object is one of parts, and not a single table."""
    size = size_of(data)
    return size >= len(_END) and part_of(data, size - len(_END), len(_END)) == _END


def parts_of(
    data: Data,
    key: str,
    schema: TableSchema,
    *,
    columns: list[str] | None = None,
) -> Iterator[tuple[str | None, pa.Table]]:
    """Each part of an object of parts, whose digest was checked, with its name.

    Raises:
        TamperedError: a part is not what the index says of it.
        UnverifiableError: it is of a schema that this version does not know.
    """
    with well_formed(key):
        index = index_of(data)
    for part in _parts(part_of(data, index["offset"], index["length"]), key, schema):
        yield part.name, _table(part_of(data, part.offset, part.length), part, key, schema, columns)


def rows_in(data: Data, key: str, schema: TableSchema) -> int:
    """How many rows all parts have, by the index; errors as for `parts_of`."""
    with well_formed(key):
        index = index_of(data)
    return sum(part.rows for part in _parts(part_of(data, index["offset"], index["length"]), key, schema))


def index_of(data: Data) -> IndexReference:
    """How the index of an object of parts is to be named; ValueError if it has none."""
    size = size_of(data)
    length, end = _TAIL.unpack(part_of(data, max(0, size - _TAIL.size), _TAIL.size).rjust(_TAIL.size))
    offset = size - _TAIL.size - length
    if end != _END or offset < 0:
        raise ValueError("no index of parts")
    return {"offset": offset, "length": length, "sha256": sha256(part_of(data, offset, length))}


def rows_by_name(
    store: Store, key: str, digest: str, index: IndexReference, schema: TableSchema
) -> dict[str | None, int]:
    """How many rows the parts of each name have, by the index alone; arguments and errors as for `read_part`."""
    try:
        found = _parts(_range(store, key, index["offset"], index["length"], index["sha256"]), key, schema)
    except (TamperedError, StoreError):
        _, found = _whole(store, key, digest, index, schema)
    rows: dict[str | None, int] = {}
    for part in found:
        rows[part.name] = rows.get(part.name, 0) + part.rows
    return rows


def read_part(
    store: Store, key: str, digest: str, index: IndexReference, name: str | None, schema: TableSchema
) -> Iterator[pa.Table]:
    """The parts of one name, each by itself; none if there is no part of that name.

    Args:
        digest: of the whole object, which is read where a range is not what was written, to say what is wrong.

    Raises:
        TamperedError: index or part are not what was written.
    """
    whole: bytes | None = None
    try:
        found = _parts(_range(store, key, index["offset"], index["length"], index["sha256"]), key, schema)
    except (TamperedError, StoreError):
        whole, found = _whole(store, key, digest, index, schema)
    for part in (part for part in found if part.name == name):
        data = b""
        if whole is None:
            try:
                data = _range(store, key, part.offset, part.length, part.sha256)
            except (TamperedError, StoreError):
                whole, _ = _whole(store, key, digest, index, schema)
        yield _table(data if whole is None else part_of(whole, part.offset, part.length), part, key, schema)


def _whole(
    store: Store, key: str, digest: str, index: IndexReference, schema: TableSchema
) -> tuple[bytes, Sequence[Part]]:
    """The object and its parts, where a range of it is not what was written: whoever reads it is told what is wrong."""
    data = read_checked(store, key, digest)
    if index != index_of(data):
        raise TamperedError(f"{key} has another index than is named", key=key) from None
    return data, _parts(data[index["offset"] :][: index["length"]], key, schema)


def _range(store: Store, key: str, start: int, length: int, digest: str) -> bytes:
    data = read_range(store, key, start, length)
    if sha256(data) != digest:
        raise TamperedError(f"{key} differs from what was written, from byte {start}", key=key)
    return data


def _parts(index: bytes, key: str, schema: TableSchema) -> Sequence[Part]:
    with well_formed(key):
        document = json.loads(index)
        if document["schema"] != SCHEMA or document["table"] not in (schema.name, *schema.before):
            found = f"{document['schema']} of {document['table']}"
            raise UnverifiableError(f"{key} has schema {found}, expected {SCHEMA} of {schema.name}", key=key)
        return [Part(*part) for part in document["parts"]]
    return []


def _table(data: bytes, part: Part, key: str, schema: TableSchema, columns: list[str] | None = None) -> pa.Table:
    if sha256(data) != part.sha256:
        raise TamperedError(f"{key} differs from what was written, from byte {part.offset}", key=key)
    table = read_table(data, schema, columns=columns)
    if table.num_rows != part.rows:
        raise TamperedError(f"{key} holds {table.num_rows} rows from byte {part.offset}, not {part.rows}", key=key)
    return table
