"""Laws of plans, names and texts, for whatever a folder may hold."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsb.ledger import parts, pieces, plan
from lsb.ledger.log import commit_log
from lsb.ledger.plan import PlanSettings, planned, sample_of, written_plan
from lsb.ledger.schemas import PLAN, RECORDS, read_table, write_table
from lsb.pictures.ingest import _with_duplicates
from lsb.records import record_id, sha256
from lsb.redaction import LIMIT, redact
from lsb.store.scratch import ScratchStore
from lsb.views.export import target_names

keys = st.lists(st.text("abAB.", min_size=1, max_size=4), unique=True, max_size=12)


@st.composite
def records(draw: st.DrawFn) -> pa.Table:
    """A data set with copies, unusable files and files that were only listed."""
    rows = []
    for index in range(draw(st.integers(0, 40))):
        kind = draw(st.sampled_from(["ok", "ok", "ok", "listed", "quarantined"]))
        digest = None if kind == "listed" else str(draw(st.integers(0, 15)))
        status = "quarantined" if kind == "quarantined" else "ok"
        rows.append(
            {
                "record_id": record_id(str(index)),
                "key": str(index),
                "sha256": digest,
                "bytes": 1,
                "etag": "x",
                "status": status,
            }
        )
    rows.sort(key=lambda row: row["record_id"])
    return _with_duplicates(RECORDS.table(rows))


@settings(derandomize=True, max_examples=150)
@given(records(), st.integers(1, 9))
def test_a_plan_covers_every_record_once_and_keeps_copies_together(table: pa.Table, shard_size: int) -> None:
    asked: PlanSettings = {"schema": PLAN.name, "shard_size": shard_size}
    rows = pa.concat_tables(
        [PLAN.empty(), *planned(ScratchStore(None), write_table(table, RECORDS), asked, None)[1]]
    ).to_pylist()
    assert [row["record_id"] for row in rows] == table["record_id"].to_pylist()
    shard_of_digest: dict[str, str] = {}
    translations: dict[str, int] = {}
    for row, record in zip(rows, table.to_pylist(), strict=True):
        assert (row["shard"] is not None) == (record["status"] == "ok") == (row["action"] == "translate")
        if row["shard"] is None:
            continue
        if row["sha256"] is not None:
            assert shard_of_digest.setdefault(row["sha256"], row["shard"]) == row["shard"]
        if row["duplicate_of"] is None:
            translations[row["shard"]] = translations.get(row["shard"], 0) + 1
    counts = [translations[shard] for shard in sorted(translations)]
    assert sorted(translations) == [f"{index:05d}" for index in range(len(counts))]
    assert all(count == shard_size for count in counts[:-1])
    assert all(0 < count <= shard_size for count in counts[-1:])


def made_whole(records: pa.Table, shard_size: int, carried: pa.Array | None) -> pa.Table:
    """The plan as it was made when all of it was held."""
    usable = pc.equal(records["status"], "ok")
    carry = pc.and_(usable, False if carried is None else carried)
    translate = pc.and_not(usable, carry)
    image = pc.coalesce(records["duplicate_of"], records["record_id"])
    images = pc.unique(image.filter(translate))
    numbers = pc.cast(pc.divide(pc.index_in(image, images), shard_size), pa.string())
    shard = pc.if_else(translate, pc.utf8_lpad(numbers, 5, "0"), pa.scalar(None, pa.string()))
    action = pc.if_else(carry, "carry", pc.if_else(translate, "translate", "quarantine"))
    columns = {name: records[name] for name in records.column_names} | {"shard": shard, "action": action}
    return pa.table([columns[name] for name in PLAN.arrow.names], schema=PLAN.arrow)


def written_whole(table: pa.Table, part_rows: int) -> tuple[bytes, Any]:
    """Its bytes then."""
    if table.num_rows <= part_rows:
        return write_table(table, PLAN), None
    order = pc.sort_indices(table, sort_keys=[("shard", "ascending"), ("record_id", "ascending")])
    runs = pc.run_end_encode(table["shard"].combine_chunks().take(order))
    spans, first = [], 0
    for name, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        step = part_rows if name is None else end - first
        spans += [(name, start, min(start + step, end)) for start in range(first, end, step)]
        first = end
    return parts.join(((name, table.take(order[start:end])) for name, start, end in spans), PLAN)


@settings(derandomize=True, max_examples=25, deadline=None)
@given(records(), st.integers(1, 9), st.integers(0, 12), st.integers(1, 12), st.data())
def test_a_plan_made_a_piece_at_a_time_is_the_one_made_whole(
    table: pa.Table, shard_size: int, part_rows: int, some: int, data: st.DataObject
) -> None:
    some_of_all = st.lists(st.booleans(), min_size=table.num_rows, max_size=table.num_rows)
    mask = st.none() | some_of_all.map(lambda found: pa.array(found, pa.bool_()))
    carried, chosen = data.draw(mask), data.draw(mask)
    chosen = chosen if chosen is not None and pc.any(chosen).as_py() else None
    everything = pa.array([True] * table.num_rows, pa.bool_())
    there = everything if chosen is None else chosen
    wanted = made_whole(table.filter(there), shard_size, None if carried is None else carried.filter(there))
    store, content = ScratchStore(None), write_table(table, RECORDS)
    store.write("records", content)
    asked: Any = {"schema": PLAN.name, "shard_size": shard_size}
    if chosen is not None:
        asked["only"] = {"run": "r", "selection": {}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commit_log, "HELD_BYTES", data.draw(st.sampled_from([0, 1 << 20])))
        patch.setattr(plan, "PART_ROWS", max(1, part_rows))
        for module, name in ((plan, "BOX_ROWS"), (pieces, "PIECE_ROWS"), (pieces, "LEAST_ROWS")):
            patch.setattr(module, name, some)
        patch.setattr(plan, "tables_of", lambda *args, **more: iter_slices(read_table(*args, **more), some))
        patch.setattr(plan, "carried_by", lambda *args: carried)
        patch.setattr(plan, "read_manifest", lambda *args, **options: table.filter(there))
        parent: Any = None if carried is None else {}
        made = written_plan(store, "records", sha256(content), asked, parent)
    assert (made.data, made.parts) == written_whole(wanted, max(1, part_rows))
    assert made.decisions.num_rows == wanted.num_rows
    assert made.decisions["action"].to_pylist() == wanted["action"].to_pylist()
    assert sample_of(made.decisions, 3) == sample_of(wanted, 3)


def iter_slices(table: pa.Table, size: int) -> list[pa.Table]:
    return [table.slice(start, size) for start in range(0, table.num_rows, size)]


@settings(derandomize=True, max_examples=200)
@given(keys)
def test_exported_names_never_meet(found: list[str]) -> None:
    usable = [key for key in found if key.strip(".")]
    names = target_names(dict.fromkeys(usable, ".png"))
    assert len(set(names.values())) == len(usable)
    assert all(name.endswith(".png") for name in names.values())


@settings(derandomize=True, max_examples=200)
@given(st.text(max_size=400), st.text("abc/", min_size=1, max_size=20))
def test_redacted_texts_are_short_lines_without_the_home_folder(text: str, path: str) -> None:
    line = redact(f"{text} '/home/ann/{path}'")
    assert len(line) <= LIMIT
    assert len(line.splitlines()) <= 1
    assert "/home/ann" not in line
