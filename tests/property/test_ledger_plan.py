"""Laws of plans, names and texts, for whatever a folder may hold."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from lsb.ledger.plan import make_plan
from lsb.ledger.schemas import RECORDS
from lsb.pictures.ingest import _with_duplicates
from lsb.records import record_id
from lsb.redaction import LIMIT, redact
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
    plan = make_plan(table, shard_size).to_pylist()
    assert [row["record_id"] for row in plan] == table["record_id"].to_pylist()
    shard_of_digest: dict[str, str] = {}
    translations: dict[str, int] = {}
    for row, record in zip(plan, table.to_pylist(), strict=True):
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
