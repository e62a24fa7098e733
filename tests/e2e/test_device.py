"""A job whose device this machine does not have: refused by the commands that would use it, before they do anything."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.e2e.jobs import Job, lsb

pytestmark = pytest.mark.usefixtures("server")
NOWHERE = "cuda:99"


def on_no_device(job: Job) -> Job:
    return job.changed("elsewhere", execution__device=NOWHERE)


@pytest.mark.parametrize(
    "command", [["run"], ["run", "--dry-run"], ["optimise"], ["translate"], ["evaluate"]], ids=" ".join
)
@pytest.mark.parametrize("device", ["gpu", NOWHERE, ""])
def test_refused_before_anything_is_read_or_written(
    job: Job, capsys: pytest.CaptureFixture[str], command: list[str], device: str
) -> None:
    elsewhere = job.changed("elsewhere", execution__device=device)
    shutil.rmtree(job.source)  # whatever reads it would say so
    answer = lsb(capsys, command[0], elsewhere.config, *command[1:])
    assert answer.code == 2, answer.err
    assert f"execution.device is {device!r}" in answer.complaint
    assert not job.store.exists()


@pytest.mark.long
@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_rerun_is_refused_with_the_device_that_was_asked_for(
    finished: Job, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    (run,) = (finished.store / "runs").iterdir()
    before = finished.files()
    answer = lsb(capsys, "rerun", run, "--device", NOWHERE, *options)
    assert answer.code == 2, answer.err
    assert f"execution.device is '{NOWHERE}'" in answer.complaint
    assert finished.files() == before


def test_what_uses_no_device_asks_for_none(finished: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Taking in, planning, and publishing what is published already: on a machine of another kind."""
    elsewhere = on_no_device(finished)
    copied = elsewhere.changed("copied", store=str(tmp_path / "store"))
    shutil.copytree(finished.store, copied.store)
    for command in ("ingest", "plan", "publish"):
        answer = lsb(capsys, command, copied.config)
        assert answer.code == 0, (command, answer.err)
    (run,) = (copied.store / "runs").iterdir()
    assert lsb(capsys, "status", run).code == 0
