"""A run that is killed or stopped, started again."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.e2e.jobs import PICTURES, Job, log_entries, lsb, start_lsb, wait_for_commits
from tests.gate import Gate


@pytest.mark.long
@pytest.mark.usefixtures("server")
def test_what_is_committed_survives_and_is_not_done_again(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hit, gate = job.one_by_one("hit"), Gate(tmp_path / "gate")

    gate.admit(1)
    killed = start_lsb(gate, "run", hit.config)
    wait_for_commits(killed, hit.store)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    after_kill = log_entries(hit.store)
    assert len(after_kill) == 1

    gate.admit(1)
    stopped = start_lsb(gate, "run", hit.config)
    wait_for_commits(stopped, hit.store, 2)
    stopped.send_signal(signal.SIGTERM)
    gate.open()  # the batch under way ends, and no other begins
    _, complaints = stopped.communicate()
    assert stopped.returncode == 5, complaints
    assert "Traceback" not in complaints
    assert "run again" in complaints.splitlines()[-1]
    after_stop = log_entries(hit.store)
    assert len(after_stop) == 3
    assert after_kill.items() <= after_stop.items()

    (run,) = (hit.store / "runs").iterdir()
    left = lsb(capsys, "status", run, "--json").json["records"]["pending"]
    answer = lsb(capsys, "run", hit.config, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["counts"]["ok"] == PICTURES - 1
    assert left - 1 <= answer.json["translated"] <= left  # the copy is not translated by itself
    assert after_stop.items() <= log_entries(hit.store).items()
    assert lsb(capsys, "verify", run).code == 0
