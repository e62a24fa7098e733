from __future__ import annotations

import re

from lsb.ledger.schemas import MANIFEST
from lsb.translation.execution import describe, packages_digest


def test_the_facts_are_columns_of_the_manifest() -> None:
    facts = describe("cpu", "float32", 8)
    assert facts.keys() <= set(MANIFEST.arrow.names)
    assert facts["device"].startswith("cpu: ")
    assert (facts["dtype"], facts["batch"]) == ("float32", 8)
    assert facts["instruction_set"]
    assert re.fullmatch(r"[0-9a-f]{64}", facts["packages_sha256"])


def test_the_packages_digest_is_stable() -> None:
    first = packages_digest()
    packages_digest.cache_clear()
    assert packages_digest() == first


def test_a_checkout_names_its_commit() -> None:
    commit = describe("cpu", "float32", 8)["code_commit"]
    assert commit is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", commit)
