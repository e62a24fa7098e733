"""What a run takes over from the one before it: rows of unchanged records, neither read nor translated again.

A run with a parent names one snapshot of it. Which records are carried follows from that snapshot and the data set, so
that anybody can work it out again; the rows stand in the parent's manifest and are not copied before a snapshot does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NotRequired, TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from lsb.errors import TamperedError
from lsb.ledger.log.commit_log import checked_data
from lsb.ledger.log.snapshots import MANIFEST_NAME, Snapshot
from lsb.ledger.parts import is_of_parts, parts_of, rows_in
from lsb.ledger.pieces import Ordered, Pieces
from lsb.ledger.schemas import MANIFEST, PLAN, places, read_table, tables_of
from lsb.records import Action, Status
from lsb.store.store import Store

FINAL = (Status.OK.value, Status.QUARANTINED.value, Status.ERASED.value)  # what is erased stays erased
COMPARED = ["sha256", "bytes", "etag"]  # of a record, with the same of the parent's
LISTED = ["record_id", "bytes", "etag"]  # of the parent's plan


class SnapshotReference(TypedDict):
    """How `run.json` names a snapshot of another run."""

    run: str
    snapshot: int
    snapshot_sha256: str
    manifest: str
    manifest_sha256: str


class Restriction(SnapshotReference):
    """How `run.json` names the records of another run that a run redoes."""

    selection: dict[str, Any]  # what `lsb.ledger.selection.Selection` dumps


class ParentReference(SnapshotReference):
    """How `run.json` names what a run goes on from."""

    plan: str
    plan_sha256: str
    same_decoding: NotRequired[bool]  # missing in runs of versions that carried quarantined rows in any case


def reference(snapshot: Snapshot) -> SnapshotReference:
    """How `run.json` names a snapshot of another run."""
    return {
        "run": snapshot.run_id,
        "snapshot": snapshot.number,
        "snapshot_sha256": snapshot.sha256,
        "manifest": snapshot.manifest_key,
        "manifest_sha256": snapshot.files[MANIFEST_NAME],
    }


def parent_reference(snapshot: Snapshot, plan: Mapping[str, Any], *, same_decoding: bool) -> ParentReference:
    """How `run.json` names its parent, whose own plan says how each source looked in the listing.

    Args:
        same_decoding: whether pictures are decoded as they were when the parent was planned.
    """
    return {
        **reference(snapshot),
        "plan": plan["key"],
        "plan_sha256": plan["sha256"],
        "same_decoding": same_decoding,
    }


def read_manifest(store: Store, named: SnapshotReference, *, columns: list[str] | None = None) -> pa.Table:
    """The manifest of a snapshot that `reference` names; TamperedError if it is missing or differs."""
    with checked_data(store, named["manifest"], named["manifest_sha256"]) as data:
        return read_table(data, MANIFEST, columns=columns)


def manifest_pieces(store: Store, named: SnapshotReference, *, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The same a piece at a time."""
    with checked_data(store, named["manifest"], named["manifest_sha256"]) as data:
        yield from tables_of(data, MANIFEST, columns=columns)


def listed_pieces(store: Store, key: str, digest: str) -> Iterator[pa.Table]:
    """The columns LISTED of a plan a piece at a time, in record-id order.

    Raises:
        TamperedError: it is missing or not what was written.
    """
    with checked_data(store, key, digest) as data:
        if not is_of_parts(data):
            yield from tables_of(data, PLAN, columns=LISTED)
            return
        pieces = Pieces(rows_in(data, key, PLAN), PLAN.empty().select(LISTED))
        for _, table in parts_of(data, key, PLAN, columns=LISTED):
            pieces.add(table)
    yield from pieces


def carried_by(store: Store, parent: ParentReference, records: Iterable[pa.Table]) -> pa.Array:
    """For each record whether a run with this parent carries it.

    Args:
        parent: what `parent_reference` gives.
        records: a piece at a time, see `compared`.
    """
    rows = manifest_pieces(store, parent, columns=["record_id", "status", "source_sha256"])
    listed = listed_pieces(store, parent["plan"], parent["plan_sha256"])
    same = [same for *_, same in compared(records, rows, listed, parent.get("same_decoding"))]
    return pa.concat_arrays([pa.array([], pa.bool_()), *same])


def compared(
    records: Iterable[pa.Table],
    rows: Iterable[pa.Table],
    listed: Iterable[pa.Table],
    same_decoding: bool | None,
) -> Iterator[tuple[pa.Table, pa.Table, pa.Array]]:
    """Each piece of a data set's records with the rows that a run has of them, and what `unchanged` gives.

    All come a piece at a time, in record-id order.

    Args:
        records: of schema RECORDS; the ids and the columns COMPARED are enough.
    """
    found, before = Ordered(rows), Ordered(listed)
    for piece in records:
        if piece.num_rows:
            last = piece["record_id"][-1].as_py()
            there, seen = found.upto(last), before.upto(last)
            there = MANIFEST.empty() if there is None else there
            seen = PLAN.empty() if seen is None else seen
            yield piece, there, unchanged(there, seen, piece, same_decoding)


def unchanged(rows: pa.Table, listed: pa.Table, records: pa.Table, same_decoding: bool | None) -> pa.Array:
    """For each record whether there is a row of it that was made from the same bytes and still holds.

    Bytes are the same if their digests are; where the data set was made from a listing, if size and etag are. A
    quarantined row holds no more if ingest has taken the picture since, as it has each usable record with a digest, or
    if the pictures of a listing are decoded in another way now.

    Args:
        rows: `record_id`, `status`, `source_sha256` of a run's rows.
        listed: `record_id`, `bytes`, `etag` of that run's plan.
        records: of schema RECORDS; the same columns are enough.
        same_decoding: see `parent_reference`; None in runs of versions that carried quarantined rows in any case.
    """
    rows = rows.filter(pc.is_in(rows["status"], pa.array(FINAL)))
    place = places(records["record_id"], rows["record_id"])
    seen = places(records["record_id"], listed["record_id"])
    same_digest = pc.equal(records["sha256"], rows["source_sha256"].take(place))
    same_listing = pc.and_(
        pc.equal(records["bytes"], listed["bytes"].take(seen)), pc.equal(records["etag"], listed["etag"].take(seen))
    )
    same = pc.if_else(pc.is_null(records["sha256"]), same_listing, same_digest)
    if same_decoding is not None:
        refused = pc.equal(rows["status"].take(place), Status.QUARANTINED.value)
        same = pc.and_not(same, pc.and_(refused, pc.is_valid(records["sha256"]) if same_decoding else True))
    return pa.chunked_array(pc.and_(pc.is_valid(place), pc.fill_null(same, False))).combine_chunks()


def carried_rows(
    store: Store, parent: ParentReference | None, plan: pa.Table, *, columns: list[str] | None = None
) -> pa.Table:
    """The parent's rows of the records that `plan` carries, each naming the run that dealt with it.

    Args:
        plan: some of its columns, in record-id order.
        columns: some of the manifest's, `record_id` among them; None for all.

    Raises:
        TamperedError: the parent's manifest is not what was written, or lacks a record that the plan carries.
    """
    none = MANIFEST.empty() if columns is None else MANIFEST.empty().select(columns)
    carried = plan.select(["record_id"]).filter(pc.equal(plan["action"], Action.CARRY.value))
    found = [rows.select(none.column_names) for rows in carried_pieces(store, parent, carried, columns=columns)]
    return pa.concat_tables([none, *found])


def carried_pieces(
    store: Store, parent: ParentReference | None, records: pa.Table, *, columns: list[str] | None = None
) -> Iterator[pa.Table]:
    """The same a piece at a time, given the `record_id` of what is carried; what is missing is noticed at the end."""
    if parent is None or not records.num_rows:
        return
    key, missing = parent["manifest"], records.num_rows
    wanted = Ordered([records])
    for rows in manifest_pieces(store, parent, columns=columns):
        if not rows.num_rows:
            continue
        here = wanted.upto(rows["record_id"][-1].as_py())
        assert here is not None
        carried = rows.filter(pc.is_in(rows["record_id"], here["record_id"].combine_chunks()))
        missing -= carried.num_rows
        if "carried_from" in carried.column_names:
            place = carried.schema.get_field_index("carried_from")
            origin = pc.fill_null(carried["carried_from"], parent["run"])
            carried = carried.set_column(place, MANIFEST.arrow.field("carried_from"), origin)
        yield carried
    if missing:
        raise TamperedError(f"{key} lacks {missing} records that are carried", key=key)
