"""A run that is killed or stopped, started again."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.jobs import PICTURES, Job, log_entries, lsb, start_lsb


def wait_for_commits(process: subprocess.Popen[str], store: Path, number: int) -> None:
    until = time.monotonic() + 120
    while len(log_entries(store)) < number:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.long
@pytest.mark.usefixtures("server")
def test_what_is_committed_survives_and_is_not_done_again(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    # One picture a batch and a commit for each, slow enough to be hit in the middle.
    slow = job.changed(
        "slow", bridge__nfe=40, execution__batch=1, execution__commit_seconds=0.001, evaluate={"sample": 1}
    )

    killed = start_lsb("run", slow.config)
    wait_for_commits(killed, slow.store, 1)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    after_kill = log_entries(slow.store)
    assert after_kill

    stopped = start_lsb("run", slow.config)
    wait_for_commits(stopped, slow.store, len(after_kill) + 1)
    stopped.send_signal(signal.SIGTERM)
    _, complaints = stopped.communicate(timeout=120)
    assert stopped.returncode == 5, complaints
    assert "Traceback" not in complaints
    assert "run again" in complaints.splitlines()[-1]
    after_stop = log_entries(slow.store)
    assert len(after_stop) > len(after_kill)
    assert after_kill.items() <= after_stop.items()

    (run,) = (slow.store / "runs").iterdir()
    left = lsb(capsys, "status", run, "--json").json["records"]["pending"]
    answer = lsb(capsys, "run", slow.config, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["counts"]["ok"] == PICTURES - 1
    assert left - 1 <= answer.json["translated"] <= left  # the copy is not translated by itself
    assert after_stop.items() <= log_entries(slow.store).items()
    assert lsb(capsys, "verify", run).code == 0
