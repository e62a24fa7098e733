from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsb.errors import TamperedError, UnverifiableError
from lsb.ledger.log.seal import seal, unseal, well_formed
from lsb.records import canonical_json

DOCUMENT = {"schema": "lsb.test/1", "counts": {"ok": 12}, "parent": None, "name": "ä"}


def test_a_sealed_document_is_read_back() -> None:
    assert unseal(seal(DOCUMENT), key="k", schema="lsb.test/1") == DOCUMENT


def test_every_changed_byte_is_noticed() -> None:
    data = seal(DOCUMENT)
    for place in range(len(data)):
        for flip in (1, 32, 128):
            changed = data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :]
            with pytest.raises(TamperedError, match=r"^the/key "):
                unseal(changed, key="the/key", schema="lsb.test/1")


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"null", b"\xff", b"[" * 100_000])
def test_other_bytes_are_tampered(data: bytes) -> None:
    with pytest.raises(TamperedError):
        unseal(data, key="k", schema="lsb.test/1")


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from(["a", "seal", "t", 'x"seal']), st.text(max_size=3) | st.floats(0, 1)))
def test_a_seal_is_found_wherever_it_stands(more: dict[str, object]) -> None:
    more.pop("seal", None)
    document = {**more, "schema": "s"}
    data = seal(document)
    assert unseal(data, key="k", schema="s") == document
    digest = json.loads(data)["seal"]
    for twice in ({"seal": digest}, f'"seal":"{digest}"', [digest]):  # the text of the seal, elsewhere
        other = {**json.loads(data), "b": twice}
        with pytest.raises(TamperedError):
            unseal(canonical_json(other), key="k", schema="s")
        inner = {**document, "b": {"seal": json.loads(seal(document))["seal"]}}
        assert unseal(seal(inner), key="k", schema="s") == inner


def test_spacing_counts() -> None:
    loose = json.dumps(json.loads(seal(DOCUMENT)), indent=1).encode()
    with pytest.raises(TamperedError):
        unseal(loose, key="k", schema="lsb.test/1")


def test_an_intact_document_of_another_schema_is_unverifiable() -> None:
    with pytest.raises(UnverifiableError, match=r"lsb\.test/2"):
        unseal(seal({**DOCUMENT, "schema": "lsb.test/2"}), key="k", schema="lsb.test/1")


@pytest.mark.parametrize("read", [lambda: DOCUMENT["a"], lambda: DOCUMENT.a, lambda: int("x"), lambda: 1 + "x"])
def test_a_forged_document_without_its_fields_is_tampered(read: Callable[[], object]) -> None:
    with (
        pytest.raises(TamperedError, match=r"^log does not hold what its schema demands"),
        well_formed("log"),
    ):
        read()
