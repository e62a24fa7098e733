"""A name means itself; only what is asked for as a pattern is one."""

from __future__ import annotations

import pyarrow as pa
import pytest

from lsb.errors import UsageError
from lsb.ledger.selection import Selection
from lsb.records import record_id

LOOKS_LIKE_AN_ID = "0123456789abcdef" * 2
KEYS = ["img[1].png", "img1.png", "q?.png", "qx.png", "cats/*.png", "cats/ann.png", "cats/old/bo.png", LOOKS_LIKE_AN_ID]


def rows(*keys: str) -> pa.Table:
    return pa.table({"record_id": [record_id(key) for key in keys], "source_key": list(keys)})


def meant(selection: Selection, table: pa.Table = rows(*KEYS)) -> list[str]:
    return selection.settled(table, "record").matching(table)["source_key"].to_pylist()


@pytest.mark.parametrize("key", KEYS)
def test_a_name_means_itself_by_key_and_by_id(key: str) -> None:
    assert meant(Selection(names=(key,))) == [key]
    assert meant(Selection(names=(record_id(key),))) == [key]


def test_a_name_that_is_not_utf8_is_found_as_it_is_written_on_disk() -> None:
    table = rows("bad//xff.png", "bad.png")
    assert meant(Selection(names=("bad\udcff.png",)), table) == ["bad//xff.png"]
    assert meant(Selection(match=("bad\udcff.*",)), table) == ["bad//xff.png"]


@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        ("img[1].png", ["img1.png"]),
        ("img[[]1].png", ["img[1].png"]),
        ("q?.png", ["q?.png", "qx.png"]),
        ("cats/*.png", ["cats/*.png", "cats/ann.png", "cats/old/bo.png"]),
        (LOOKS_LIKE_AN_ID, [LOOKS_LIKE_AN_ID]),
        ("*", KEYS),
    ],
)
def test_a_pattern_is_one_where_it_is_asked_for(pattern: str, keys: list[str]) -> None:
    assert meant(Selection(match=(pattern,))) == keys


def test_names_and_patterns_add_up() -> None:
    selection = Selection(names=("q?.png", record_id("img[1].png")), match=("cats/o*",))
    assert meant(selection) == ["img[1].png", "q?.png", "cats/old/bo.png"]


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        (Selection(names=("img[2].png",)), "'img[2].png'; a pattern is given with --match"),
        (Selection(names=("IMG1.png",)), "'IMG1.png'"),
        (Selection(names=("img1.png", "no", "nobody")), "'no', 'nobody'"),
        (Selection(names=("",)), "''"),
        (Selection(names=("0" * 32,)), "'" + "0" * 32 + "'"),
        (Selection(match=("*.png", "dogs/*", "")), "matches 'dogs/*', ''"),
        (Selection(match=(record_id("img1.png"),)), "matches"),
    ],
)
def test_what_means_nobody_is_refused_and_named(selection: Selection, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        meant(selection)
    assert str(caught.value).startswith("no record has ")
    assert words in str(caught.value)
    assert "'img1.png'" not in str(caught.value)


def test_a_text_that_means_two_records_is_refused() -> None:
    twin = record_id("a.png")
    table = rows("a.png", twin)
    with pytest.raises(UsageError, match=f"{twin} is the id of one record .* whose id is {record_id(twin)}"):
        meant(Selection(names=(twin,)), table)
    assert meant(Selection(names=("a.png",)), table) == ["a.png"]
    assert meant(Selection(names=(record_id(twin),)), table) == [twin]


def test_what_a_run_freezes_means_what_it_always_did() -> None:
    """`run.json` has only `records`: ids and patterns, some of which may mean nobody."""
    frozen = Selection.model_validate({"records": ["img[1].png", "dogs/*", "0" * 32, record_id("q?.png")]})
    assert meant(frozen) == ["img1.png", "q?.png"]
    assert meant(Selection(records=(record_id("a"),)), rows("a", record_id("a"))) == ["a"]


@pytest.mark.parametrize(
    ("selection", "document"),
    [
        (Selection(names=("cats/ann.png",)), {"records": ["cats/ann.png"]}),  # as before there was `match`
        (Selection(names=(record_id("qx.png"),)), {"records": [record_id("qx.png")]}),
        (Selection(match=("cats/*",)), {"records": ["cats/*"]}),
        (Selection(names=("img[1].png",)), {"records": ["img[[]1].png"]}),
        (Selection(names=(LOOKS_LIKE_AN_ID,)), {"records": [record_id(LOOKS_LIKE_AN_ID)]}),
        (Selection(flags=("flat_output",)), {"flags": ["flat_output"]}),
    ],
)
def test_what_is_frozen_is_written_in_the_words_of_the_runs_before(selection: Selection, document: object) -> None:
    settled = selection.settled(rows(*KEYS), "record")
    assert settled.model_dump(mode="json", exclude_defaults=True) == document


def test_names_that_have_not_been_looked_up_choose_nothing() -> None:
    with pytest.raises(ValueError, match="settled"):
        Selection(names=("img1.png",)).matching(rows(*KEYS))
