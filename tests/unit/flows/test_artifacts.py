from __future__ import annotations

import re

import pytest

from flows import artifacts
from flows.artifacts import artifact_key


@pytest.mark.parametrize("parts", [("flat-to-3d", "translate"), ("Ünï", "shard 00001"), ("a", "optimise <3d>")])
def test_keys_are_what_prefect_allows(parts: tuple[str, ...]) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", artifact_key(*parts))


def test_the_report_says_what_was_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(artifacts, "create_markdown_artifact", lambda text, key: made.append(text))
    artifacts.show_report("job-0123456789ab", "page.html", {"ok": 2}, {"hidden": 1, ".heic": 3})
    artifacts.show_report("job-0123456789ab", "page.html", {"ok": 2}, {})
    assert "- ok: 2\n- left out: 3 .heic, 1 hidden\n" in made[0]
    assert "left out" not in made[1]
