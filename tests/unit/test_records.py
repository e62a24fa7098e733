from __future__ import annotations

import os
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lsb.records import canonical_json, dataset_version, digest_of, key_of, record_id, sha256


def test_ids_are_the_beginning_of_the_keys_digest() -> None:
    assert record_id("a/b.png") == sha256(b"a/b.png")[:32]
    assert record_id("käse.png") == sha256("käse.png".encode())[:32]


def test_a_utf8_name_is_its_own_key() -> None:
    for name in ("a/b.png", "käse.png", "bad\\xff.png", "back\\slash.png", "a/xff.png", "\U0001f600.png"):
        assert key_of(name) == name


def test_no_two_names_get_one_key() -> None:
    parts = [b"\xff", b"\\xff", b"xff", b"x", b"ff", b"a", b"\xfe", b"\xc3\xa9", b"\xc3"]
    names = [*parts, *(one + other for one in parts for other in parts)]
    names = list(set(names) | {one + b"/" + other for one in names for other in names})
    keys = {key_of(os.fsdecode(name)) for name in names}
    assert len(keys) == len(names) > 8000
    for key in keys:
        record_id(key)


def test_canonical_json_does_not_depend_on_order_or_type_of_number() -> None:
    assert canonical_json({"b": 1.0, "a": [None, "ä"]}) == '{"a":[null,"ä"],"b":1}'.encode()
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=50)
@given(JSON)
@example({"\U0001f600": 1, "\uffff": 2, "a": '\x00\x1f\x7f\\"/\u2028\ud7ff'})
@example(["\ud800", 1])
@example([1e21, 1e-7, -0.0, 2**53 - 1, 1 - 2**53, True, [0, {"b": None, "B": ()}]])
def test_canonical_json_is_that_of_the_rfc_whichever_way_it_is_made(value: Any) -> None:
    try:
        expected = rfc8785.dumps(value)
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011
            canonical_json(value)
    else:
        assert canonical_json(value) == expected


def test_large_whole_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"9007199254740993|domain|integer"):
        canonical_json({"seed": 2**53 + 1})


def test_a_version_depends_on_ids_and_digests_but_not_on_order() -> None:
    records = [("a", "1"), ("b", "2")]
    assert dataset_version(records) == dataset_version(reversed(records))
    assert dataset_version(records) != dataset_version([("a", "2"), ("b", "1")])
    assert dataset_version(records) != dataset_version([("a", "1")])
    odd = [("a", 'quoted "\\" \x00\x1f\x7f\u2028 ä'), ("b", None)]
    assert dataset_version(odd) == digest_of([["a", odd[0][1]], ["b", ""]])
