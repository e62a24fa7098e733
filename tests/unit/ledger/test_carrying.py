from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsb.errors import TamperedError
from lsb.ledger import carrying, pieces
from lsb.ledger.carrying import compared, listed_pieces, unchanged
from lsb.ledger.parts import join
from lsb.ledger.schemas import MANIFEST, PLAN, RECORDS, write_table
from lsb.records import sha256
from lsb.store.scratch import ScratchStore

A, B = "a" * 64, "b" * 64


def record(digest: str | None = A, etag: str = "1") -> dict[str, Any]:
    return {"record_id": "r", "key": "k", "bytes": 1, "etag": etag, "sha256": digest, "status": "ok"}


def row(status: str = "ok", digest: str = A) -> dict[str, Any]:
    known: dict[str, Any] = dict.fromkeys(("transform_id", "model_digest", "source_prompt", "target_prompt"), "0")
    known |= {"seed": "0", "method": "lsb", "nfe": 2, "tau": 1.0, "t0": 0.2, "guidance": 1.0, "retryable": False}
    return known | {"record_id": "r", "source_key": "k", "tries": 1, "status": status, "source_sha256": digest}


def carries(today: dict[str, Any], before: dict[str, Any] | None, same_decoding: bool | None) -> bool:
    listed = {**record(), "sha256": None}
    listed.pop("status")
    records, plan = RECORDS.table([today]), PLAN.table([{**listed, "action": "translate"}])
    rows = MANIFEST.table([before] if before else [])
    return bool(unchanged(rows, plan, records, same_decoding)[0].as_py())


@pytest.mark.parametrize("same_decoding", [None, True, False])
def test_a_row_is_carried_for_the_same_bytes_alone(same_decoding: bool | None) -> None:
    assert carries(record(), row(), same_decoding)
    assert carries(record(), row("erased"), same_decoding)
    assert carries(record(None), row(), same_decoding)  # a listing: same size and etag
    assert not carries(record(B), row(), same_decoding)
    assert not carries(record(None, "2"), row(), same_decoding)
    assert not carries(record(), row("failed"), same_decoding)
    assert not carries(record(), None, same_decoding)


@pytest.mark.parametrize(
    ("digest", "same_decoding", "carried"),
    [
        (A, True, False),  # ingest takes the picture today
        (A, False, False),
        (None, True, True),  # nobody has looked, and whoever looked would see the same
        (None, False, False),
        (A, None, True),  # what runs of versions before were planned by
        (None, None, True),
    ],
)
def test_a_quarantined_row_is_carried_where_todays_decoding_still_refuses_the_picture(
    digest: str | None, same_decoding: bool | None, carried: bool
) -> None:
    assert carries(record(digest), row("quarantined"), same_decoding) == carried


def pieces_of(table: pa.Table, sizes: st.SearchStrategy[int], data: st.DataObject) -> list[pa.Table]:
    found, start = [], 0
    while start < table.num_rows:
        size = data.draw(sizes)
        found.append(table.slice(start, size))
        start += size
    return found


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.data())
def test_what_is_compared_a_piece_at_a_time_is_what_is_compared_as_a_whole(data: st.DataObject) -> None:
    ids = st.lists(st.integers(0, 30), unique=True).map(sorted)
    digests, states = st.sampled_from([A, B]), st.sampled_from(["ok", "failed", "quarantined", "erased"])
    etags = st.sampled_from(["1", "2"])

    def named(number: int, made: dict[str, Any]) -> dict[str, Any]:
        return {**made, "record_id": f"{number:032x}"}

    records = RECORDS.table(
        [named(n, record(data.draw(st.none() | digests), data.draw(etags))) for n in data.draw(ids)]
    )
    rows = MANIFEST.table([named(n, row(data.draw(states), data.draw(digests))) for n in data.draw(ids)])
    listed = RECORDS.table([named(n, record(None, data.draw(etags))) for n in data.draw(ids)])
    listed = listed.select(carrying.LISTED)
    same_decoding = data.draw(st.sampled_from([None, True, False]))
    sizes = st.integers(0, 4)
    found = list(compared(*(pieces_of(table, sizes, data) for table in (records, rows, listed)), same_decoding))
    whole = unchanged(rows, listed, records, same_decoding)
    assert [value for *_, same in found for value in same.to_pylist()] == whole.to_pylist()
    carried = set(records["record_id"].combine_chunks().filter(whole).to_pylist())
    assert carried <= {name for _, there, _ in found for name in there["record_id"].to_pylist()}


@pytest.mark.parametrize("of_parts", [False, True])
def test_a_plan_is_listed_in_the_order_of_its_records(of_parts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_ROWS", 7)
    rows = [{**record(), "record_id": f"{n:032x}", "etag": str(n), "action": "translate"} for n in range(40)]
    for place, one in enumerate(rows):
        one["shard"] = f"{place % 3:05d}"
        del one["status"]
    table = PLAN.table(rows)
    parts = [(shard, table.filter(pc.equal(table["shard"], shard))) for shard in ("00000", "00001", "00002")]
    data = join(parts, PLAN)[0] if of_parts else write_table(table, PLAN)
    store = ScratchStore(None)
    store.write("plan", data)
    assert pa.concat_tables(listed_pieces(store, "plan", sha256(data))).equals(table.select(carrying.LISTED))
    with pytest.raises(TamperedError, match="differs from what was written"):
        list(listed_pieces(store, "plan", sha256(b"other")))


def test_rows_out_of_order_are_no_manifest() -> None:
    rows = MANIFEST.table([{**row(), "record_id": name} for name in ("a", "c", "b")])
    for tables in ([rows], [rows.slice(0, 2), rows.slice(2)]):
        found = pieces.Ordered(tables)
        with pytest.raises(TamperedError, match="not in the order"):
            found.upto("d")
