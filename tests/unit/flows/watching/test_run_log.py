from __future__ import annotations

import logging

import pytest

from flows.watching import run_log
from flows.watching.run_log import LogProgress, say


def test_a_flows_log_says_now_and_then_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr(run_log, "get_run_logger", lambda: logging.getLogger("prefect.of-a-flow-run"))
    progress = LogProgress(lambda: now)
    with caplog.at_level(logging.INFO):
        progress.start("translate", 42)
        for now in (30.0, 59.0, 60.0, 61.0):  # noqa: B007 the clock reads it
            progress.advance("translate", 3)
        progress.finish("translate")
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        ("prefect.of-a-flow-run", line)
        for line in (
            "translate: 0 of 42",
            "translate: 9 of 42, 0.1/s, 220 s left",
            "translate: 12 of 42, left after 61.0 s",
        )
    ]


def test_outside_of_a_flow_run_it_goes_to_the_log_of_lsb(caplog: pytest.LogCaptureFixture) -> None:
    say("100 % of it", logging.WARNING)
    assert [(record.name, record.levelno, record.getMessage()) for record in caplog.records] == [
        ("lsb.run", logging.WARNING, "100 % of it")
    ]
