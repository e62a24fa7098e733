from __future__ import annotations

import re

import pytest

from flows.artifacts import artifact_key


@pytest.mark.parametrize("parts", [("flat-to-3d", "translate"), ("Ünï", "shard 00001"), ("a", "optimise <3d>")])
def test_keys_are_what_prefect_allows(parts: tuple[str, ...]) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", artifact_key(*parts))
