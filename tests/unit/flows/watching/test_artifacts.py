from __future__ import annotations

import re
from itertools import count
from threading import Event
from uuid import UUID, uuid4

import httpx
import pytest

from flows.watching import artifacts
from flows.watching.artifacts import ArtifactProgress, artifact_key, show_table
from tasks.guarded import connection

REQUEST = httpx.Request("POST", "http://127.0.0.1:9/api/artifacts/")


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


def test_the_report_is_no_link_since_a_browser_cannot_follow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(artifacts, "create_markdown_artifact", lambda text, key: made.append(text))
    artifacts.show_report("job-0123456789ab", "s3://bucket/runs/](x)/index.html", {"ok": 2}, {})
    assert made[0].splitlines()[:3] == ["# job-0123456789ab", "", "    s3://bucket/runs/](x)/index.html"]


def test_work_does_not_wait_for_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    answered, told = Event(), list[float]()

    def update(artifact: UUID, percent: float) -> None:
        told.append(percent)
        assert answered.wait(200)

    monkeypatch.setattr(artifacts, "create_progress_artifact", lambda *_, **__: uuid4())
    monkeypatch.setattr(artifacts, "update_progress_artifact", update)
    seconds = count(step=10)
    progress = ArtifactProgress("job", clock=lambda: next(seconds))
    progress.start("translate", 4)
    for _ in range(4):
        progress.advance("translate")  # as many as there are, though the first is not answered
    answered.set()
    progress.finish("translate")
    assert told == [25.0, 100.0]


@pytest.mark.parametrize(
    ("error", "gone"),
    [
        (httpx.HTTPStatusError("500", request=REQUEST, response=httpx.Response(500, request=REQUEST)), False),
        (httpx.ConnectError("refused"), True),
        (httpx.ReadTimeout("hangs"), True),
    ],
    ids=["answers 500", "refuses", "hangs"],
)
def test_a_server_is_lost_by_silence_and_not_by_an_answer(
    monkeypatch: pytest.MonkeyPatch, error: Exception, gone: bool
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    connection.connect(lambda said: None)
    monkeypatch.setattr(artifacts, "create_table_artifact", fail)
    show_table("left-alone", [{"run": "a", "reason": "b"}])
    assert connection.lost() == gone
    connection.connect()
