"""What can be wrong with the rows of one commit, looked for in whole columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from lsb.audit.verdict import TAMPERED, UNVERIFIABLE, Inspection
from lsb.ledger.log.commit_log import LogEntry
from lsb.ledger.run import Run
from lsb.ledger.schemas import TABLE_ROWS, places
from lsb.records import Status, record_id


def row_problems(run: Run, entry: LogEntry, rows: pa.Table, planned: pa.Table | None) -> Iterator[str]:
    """Every way in which `rows` contradict their log entry, the run or the plan, with the first record that does.

    Args:
        planned: the shard's part of the plan; None if the plan cannot be read.
    """
    if {item["values"]: item["counts"] for item in pc.value_counts(rows["status"]).to_pylist()} != entry.counts:
        yield "its rows are not as many by status as its log entry counts"
    started = pc.min(rows["started"]).as_py()
    if None not in (started, entry.started) and started != entry.started:
        yield "the first of its rows was begun at another time than its log entry says"
    records = rows["record_id"]
    if len(repeated := _repeated(records)):
        yield f"record {repeated[0]} has two rows"
    expected = {"shard": entry.link.document["shard"], "attempt": entry.attempt, "transform_id": run.transform_id}
    wrong = [_differ(rows[name], pa.scalar(value, pa.string())) for name, value in expected.items()]
    if record := _first(records, pc.or_(pc.or_(wrong[0], wrong[1]), wrong[2])):
        yield f"record {record} names another shard, attempt or transform"
    made = pc.equal(rows["status"], Status.OK.value)
    if planned is not None:
        yield from _unplanned(rows, planned, made)
    digests = entry.digests()
    keys = pa.chunked_array([pa.array(digests.keys(), pa.string())])
    listed = pa.array(digests.values(), pa.string()).take(places(rows["output_key"], keys))
    if record := _first(records, pc.and_(made, _differ(rows["output_sha256"], listed))):
        yield f"record {record} names an output that its log entry does not"


def inspect_identities(seen: Inspection, place: str, records: pa.ChunkedArray, keys: pa.ChunkedArray) -> None:
    """Find what in a table does not stand for one source file each: every id must be its key's, and be there once."""
    table = pa.table({"record": records, "key": keys})
    pairs = (
        pair
        for batch in table.to_batches(max_chunksize=TABLE_ROWS)
        for pair in zip(batch["record"].to_pylist(), batch["key"].to_pylist(), strict=True)
    )
    if wrong := next(((record, key) for record, key in pairs if record != record_id(key)), None):
        seen.find(TAMPERED, place, f"{place} gives {wrong[1]!r} the record id {wrong[0]}, which is not the name's")
    if repeated := _repeated(records):
        text = f"{place} has record {repeated[0]} twice: which picture a row is about cannot be told"
        seen.find(UNVERIFIABLE, place, text)


def same(one: Iterable[pa.Table], other: Iterable[pa.Table]) -> bool:
    """Whether two tables, either of which comes a piece at a time, are equal."""
    ones, others = ((table for table in tables if table.num_rows) for tables in (one, other))
    mine, its = next(ones, None), next(others, None)
    while mine is not None and its is not None:
        count = min(mine.num_rows, its.num_rows)
        if not mine.slice(0, count).equals(its.slice(0, count)):
            return False
        mine = mine.slice(count) if count < mine.num_rows else next(ones, None)
        its = its.slice(count) if count < its.num_rows else next(others, None)
    return mine is None and its is None


def _unplanned(rows: pa.Table, planned: pa.Table, made: pa.ChunkedArray) -> Iterator[str]:
    records = rows["record_id"]
    place = places(records, planned["record_id"])
    there = pc.is_valid(place)
    if record := _first(records, pc.invert(there)):
        yield f"record {record} is not planned in this shard"
    key, digest = planned["key"].take(place), planned["sha256"].take(place)
    if record := _first(records, pc.and_(there, _differ(rows["source_key"], key))):
        yield f"record {record} names another source than the plan"
    # A plan made from a listing leaves the digest to the shard.
    known = pc.and_(made, pc.is_valid(digest))
    if record := _first(records, pc.and_(known, _differ(rows["source_sha256"], digest))):
        yield f"record {record} was made from other bytes than planned"


def _differ(column: pa.ChunkedArray, expected: pa.ChunkedArray | pa.Array | pa.Scalar) -> pa.ChunkedArray:
    """Where a value is another one, or is not there."""
    return pc.invert(pc.fill_null(pc.equal(column, expected), False))


def _first(records: pa.ChunkedArray, mask: pa.ChunkedArray) -> str | None:
    index = pc.index(mask, True).as_py()
    return records[index].as_py() if index >= 0 else None


def _repeated(records: pa.ChunkedArray) -> list[str]:
    if len(pc.unique(records)) == len(records):
        return []
    return [item["values"] for item in pc.value_counts(records).to_pylist() if item["counts"] > 1]
