"""Bad input gets one line that says what to do, and its exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.jobs import Job, lsb

COMMANDS = (["run"], ["run", "--dry-run"], ["ingest"], ["optimise"], ["plan"])


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"source__path": "/nowhere/at/all"}, 3, ["/nowhere/at/all"]),
        ({"source__path": "empty"}, 3, ["no images"]),
        ({"model": "/no/such/model"}, 3, ["/no/such/model"]),
        ({"store": "/proc/lsb"}, 3, ["/proc/lsb"]),
        ({"bridge__tau": -1}, 2, ["bridge", "tau", "above 0"]),
        ({"bridge__tau": 1000}, 2, ["bridge.tau", "largest"]),
        ({"prompts__source": {"text": "icon " * 100}}, 2, ["prompts.source.text", "100 tokens"]),
        ({"bridge__taux": 1}, 2, ["bridge.taux"]),
        ({"source": None}, 2, ["source"]),
        ({"prompts__source": {"text": "a", "file": "b"}}, 2, ["prompts.source", "exactly one"]),
        ({"prompts__source": {"file": "no.safetensors"}}, 3, ["no.safetensors"]),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else None,
)
@pytest.mark.usefixtures("server")
def test_a_bad_setting(
    job: Job, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], code: int, words: list[str]
) -> None:
    (job.config.parent / "empty").mkdir()
    answer = lsb(capsys, "run", job.changed("bad", **changes).config)
    assert answer.code == code, answer.err
    for word in words:
        assert word in answer.complaint
    assert not (job.store / "runs").exists()


@pytest.mark.parametrize(
    ("command", "changes", "words"),
    [
        *((command, {"store": "images/flat/out"}, ["store", "lies in source.path"]) for command in COMMANDS),
        (["run"], {"store": "images/flat/group-0/.."}, ["store", "is source.path", "too"]),
        (["run"], {"store": "link/out"}, ["store", "lies in source.path"]),
        (["run"], {"store": "."}, ["source.path", "lies in store"]),
        (["run"], {"store": "out", "evaluate__truth": "out/truth"}, ["evaluate.truth", "lies in store"]),
        (["run"], {"store": "out", "prompts__target": {"images": "out/3d"}}, ["prompts.target.images", "out/3d"]),
    ],
)
@pytest.mark.usefixtures("server")
def test_a_store_among_the_pictures(
    job: Job, capsys: pytest.CaptureFixture[str], command: list[str], changes: dict[str, Any], words: list[str]
) -> None:
    (job.config.parent / "link").symlink_to(job.source)
    bad = job.changed("bad", **changes)
    before = sorted(job.config.parent.rglob("*"))
    answer = lsb(capsys, *command, bad.config)
    assert answer.code == 2, answer.err
    for word in words:
        assert word in answer.complaint
    assert sorted(job.config.parent.rglob("*")) == before


def test_a_configuration_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    answer = lsb(capsys, "run", "/no/such/job.yaml")
    assert (answer.code, "/no/such/job.yaml" in answer.complaint) == (2, True)


@pytest.mark.parametrize("command", ["status", "verify", "report"])
def test_a_run_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    answer = lsb(capsys, command, tmp_path / "runs" / "tiny-0123456789ab")
    assert answer.code in (2, 3, 11)
    assert "tiny-0123456789ab" in answer.err + answer.out or "no folder" in answer.err


@pytest.mark.parametrize("command", ["status", "verify", "report"])
def test_something_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    answer = lsb(capsys, command, tmp_path)
    assert (answer.code, "is not a run" in answer.complaint) == (2, True)
