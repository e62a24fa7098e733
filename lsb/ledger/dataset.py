"""A version of a data set: the table of its records, under a digest over what they are.

The same files give the same version again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from lsb.errors import AlreadyExistsError, NotFoundError
from lsb.ledger import layout
from lsb.ledger.log.commit_log import checked_data
from lsb.ledger.schemas import RECORDS, read_table, write_table
from lsb.records import Status, sha256, version_of_sorted
from lsb.store.store import Store

_AT_ONCE = 10_000  # rows that are turned into Python objects
_VERDICT = ["record_id", "status", "error_code"]


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
    left_out: dict[str, int] = field(default_factory=dict)  # entries of the folder that are no records, by kind


def write_dataset(store: Store, name: str, table: pa.Table, left_out: dict[str, int]) -> Dataset:
    """Write the version of `name` that has these records, if it is not there already.

    Args:
        table: of RECORDS, in record-id order.
        left_out: entries of the source that are no records, by kind.
    """
    version = version_of(table)
    key = layout.dataset_records(name, version)
    data = write_table(table, RECORDS)
    # A file that is there already describes the same bytes, and somebody may rely on its own. It is taken unless
    # today's decoding says something else of them.
    there = _created(store, key, data)
    if not read_table(there, RECORDS, columns=_VERDICT).equals(table.select(_VERDICT)):
        key = layout.dataset_records_again(name, version, sha256(data))
        there = _created(store, key, data)
    table = read_table(there, RECORDS, columns=["status", "duplicate_of"])
    return Dataset(
        name=name,
        version=version,
        records=table.num_rows,
        quarantined=pc.sum(pc.equal(table["status"], Status.QUARANTINED.value)).as_py() or 0,
        duplicates=table.num_rows - table["duplicate_of"].null_count,
        key=key,
        sha256=sha256(there),
        left_out=left_out,
    )


def read_records(store: Store, dataset: Dataset, *, columns: list[str] | None = None) -> pa.Table:
    """The data set's records, or only their `columns`; TamperedError if the file is missing or differs."""
    with checked_data(store, dataset.key, dataset.sha256) as data:
        return read_table(data, RECORDS, columns=columns)


def version_of(table: pa.Table) -> str:
    """The version of a data set with these records, given by their `record_id`, `sha256`, `bytes` and `etag`."""
    # Bytes that were not read are told apart by what the listing says about them.
    listed = pc.binary_join_element_wise(pc.cast(table["bytes"], pa.string()), table["etag"], ":")
    digests = pc.if_else(pc.equal(pc.fill_null(table["sha256"], ""), ""), listed, table["sha256"])
    pairs = pa.table({"record": table["record_id"], "digest": digests})
    pairs = pairs.sort_by([("record", "ascending"), ("digest", "ascending")])
    return version_of_sorted(
        list(zip(batch["record"].to_pylist(), batch["digest"].to_pylist(), strict=True))
        for batch in pairs.to_batches(max_chunksize=_AT_ONCE)
    )


def _created(store: Store, key: str, data: bytes) -> bytes:
    """What is there under a key: `data`, unless somebody was first."""
    try:
        return store.read(key)
    except NotFoundError:
        pass
    try:
        store.create(key, data)
    except AlreadyExistsError:
        return store.read(key)
    return data
