from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from flows.watching.display import terminal_progress
from lsb.cli.main import run_command
from lsb.cli.terminal import tame_logs
from lsb.errors import UsageError
from lsb.logs import OURS, WANTED, log_as_asked
from lsb.observation import at_work_on
from lsb.store.local import LocalStore
from lsb.translation.shard import run_shard
from tests.ledger import equipment, make_images, start

KEY = "AKIA" + "A" * 16


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """JSON is wanted, and logging is as it was afterwards."""
    monkeypatch.setenv(WANTED, "json")
    handlers, levels = logging.root.handlers, {name: logging.getLogger(name).level for name in OURS}
    shown = warnings.showwarning
    yield
    logging.captureWarnings(False)
    warnings.showwarning = shown
    logging.root.handlers = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.mark.usefixtures("asked")
def test_a_line_is_one_object_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    log_as_asked()
    with at_work_on(run="night-1", shard="00003"):
        try:
            raise ValueError(f"key {KEY}")
        except ValueError:
            logging.getLogger("lsb.x").exception("two\nlines, %s", f"password={KEY}", extra={"record": "r1"})
    logging.getLogger("lsb.x").info("outside")
    logging.getLogger("others").info("of no interest")
    first, second = lines(capsys)
    assert {name: first[name] for name in ("level", "logger", "run", "shard", "record")} == {
        "level": "ERROR",
        "logger": "lsb.x",
        "run": "night-1",
        "shard": "00003",
        "record": "r1",
    }
    assert datetime.fromisoformat(first["timestamp"]).tzinfo is not None
    assert first["message"] == "two\nlines, password=<secret>"
    assert "ValueError" in first["exception"]
    assert KEY not in json.dumps(first)
    assert (second["message"], "shard" in second) == ("outside", False)


@pytest.mark.usefixtures("asked")
def test_a_shard_says_what_it_commits_and_what_has_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = make_images(tmp_path / "images", 3)
    store = LocalStore(tmp_path / "store")
    run, sources = start(store, images)
    (images / "odd" / "0001.png").unlink()
    tame_logs()
    run_shard(store, run, "00000", equipment(sources))
    failed, committed = lines(capsys)
    assert (failed["code"], failed["run"], failed["shard"]) == ("source_missing", run.id, "00000")
    assert len(failed["record"]) == 32
    assert failed["attempt"] == committed["attempt"]
    assert committed["message"] == "3 rows committed"


@pytest.mark.usefixtures("asked")
def test_errors_progress_and_warnings_are_lines_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["status", str(tmp_path / "runs" / "none")]) == 2
    (error,) = lines(capsys)
    assert (error["level"], error["exit_code"]) == ("ERROR", 2)
    progress = terminal_progress()
    progress.start("translate", 2)
    progress.advance("translate", 2)
    progress.finish("translate")
    warnings.showwarning("old", UserWarning, "x.py", 1)  # type: ignore[arg-type]
    said = lines(capsys)
    assert [line["message"][:17] for line in said[:2]] == ["translate: 0 of 2", "translate: 2 of 2"]
    assert said[-1]["logger"] == "py.warnings"


def test_what_is_no_form_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="LSB_LOG is 'xml'; set it to text or json"):
        log_as_asked({WANTED: "xml"})
    monkeypatch.setenv(WANTED, "xml")
    assert run_command(["status", "x"]) == 2
    assert "LSB_LOG" in capsys.readouterr().err
    handlers = logging.root.handlers
    log_as_asked({})
    assert logging.root.handlers is handlers
