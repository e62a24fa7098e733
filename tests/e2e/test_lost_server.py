"""Prefect's server only looks on: killed or hung in the middle of a run it neither delays nor fails the work."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from prefect.settings import PREFECT_HOME

from lsb.cli import local_server
from tests.e2e.jobs import PICTURES, Job, lsb, start_lsb, wait_for_commits
from tests.gate import FLOW, Gate
from tests.prefect_parts import POOL, PrefectServer, Worker, deployment_file, wait_until
from tests.unit.cli.test_local_server import servers

SECRET = "lsb:known-to-this-test"
BLOWS = {"killed": signal.SIGKILL, "hung": signal.SIGSTOP}


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """One batch passes."""
    made = Gate(tmp_path / "gate")
    made.admit(1)
    return made


def run_to_the_first_commit(job: Job, gate: Gate, home: Path, **variables: str) -> subprocess.Popen[str]:
    """A run in the middle of its work, and held there."""
    process = start_lsb(gate, "run", job.config, PREFECT_HOME=str(home), **variables)
    wait_for_commits(process, job.store)
    return process


def pickles(home: Path) -> set[Path]:
    """What Prefect has stored of results and errors."""
    return {path for path in home.rglob("*") if "storage" in path.parts and path.is_file()}


def check(process: subprocess.Popen[str], job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "snapshots/00000000/report" in out
    odd = [line for line in err.splitlines() if not line.startswith(("ingest:", "translate:", "evaluate:"))]
    assert len(odd) == 1, err
    assert odd[0].startswith("lsb: warning: Prefect's server at http://127.0.0.1:")
    assert "is lost" in odd[0]
    check_published(job, capsys)


def check_published(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    """Every picture, and nothing of it with Prefect."""
    assert not pickles(job.config.parent / "prefect")
    (run,) = (job.store / "runs").iterdir()
    records = lsb(capsys, "status", run, "--json").json["records"]
    assert records["ok"] == PICTURES - 1
    assert lsb(capsys, "verify", run).code == 0


@pytest.mark.long
@pytest.mark.parametrize("blow", BLOWS)
def test_our_own(job: Job, gate: Gate, prefect_home: Path, capsys: pytest.CaptureFixture[str], blow: str) -> None:
    hit = job.one_by_one("hit", execution__workers=2)
    process = run_to_the_first_commit(hit, gate, prefect_home)
    (server,) = servers(prefect_home)
    os.kill(server, BLOWS[blow])
    gate.open()
    check(process, hit, capsys)
    assert servers(prefect_home) == []


@pytest.fixture
def named(tmp_path: Path, prefect_database: Path) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, str]]]:
    """A server that the user has started, and the variables that name it."""
    (tmp_path / "theirs").mkdir()
    shutil.copy(prefect_database, tmp_path / "theirs")
    process, address = local_server._start(tmp_path / "theirs", SECRET)
    try:
        yield process, {"PREFECT_API_URL": address, "PREFECT_API_AUTH_STRING": SECRET}
    finally:
        process.kill()
        local_server._stop(process)


@pytest.mark.long
@pytest.mark.parametrize("blow", BLOWS)
def test_one_that_the_user_named(
    job: Job,
    gate: Gate,
    prefect_home: Path,
    capsys: pytest.CaptureFixture[str],
    named: tuple[subprocess.Popen[bytes], dict[str, str]],
    blow: str,
) -> None:
    server, variables = named
    hit = job.one_by_one("hit")
    process = run_to_the_first_commit(hit, gate, prefect_home, **variables)
    server.send_signal(BLOWS[blow])
    gate.open()
    check(process, hit, capsys)


@pytest.mark.long
def test_ctrl_c_ends_a_run_without_its_server(job: Job, gate: Gate, prefect_home: Path) -> None:
    process = run_to_the_first_commit(job.one_by_one("hit"), gate, prefect_home)
    (server,) = servers(prefect_home)
    os.kill(server, signal.SIGKILL)
    process.send_signal(signal.SIGINT)
    gate.open()
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert "run again to go on" in err.splitlines()[-1]


@pytest.mark.long
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_does_not_wait_long_for_a_server_that_hangs(
    job: Job, gate: Gate, prefect_home: Path, times: int
) -> None:
    """Once it ends with the batches under way, twice it does not wait even for them."""
    process = run_to_the_first_commit(job.one_by_one("hit", execution__workers=2), gate, prefect_home)
    (server,) = servers(prefect_home)
    os.kill(server, signal.SIGSTOP)
    for heard in range(1, times + 1):
        process.send_signal(signal.SIGINT)
        wait_until("the signal is heard", lambda heard=heard: gate.signals == heard)
    if times == 1:
        gate.open()
    _, err = process.communicate()
    # 10 s for what was asked before the signal, 3 s for what is asked after it, and nothing more after either in vain.
    assert 0 < sum(gate.waited) < 30, gate.waited
    assert process.returncode == 130, err
    assert "run again to go on" in err.splitlines()[-1]
    assert servers(prefect_home) == []


def test_no_error_is_pickled_or_shown_to_prefect_as_it_is(
    job: Job, server: None, capsys: pytest.CaptureFixture[str]
) -> None:
    home = PREFECT_HOME.value()
    before = pickles(home)
    broken = job.changed("broken", model=str(job.config.parent / "nowhere-at-all"))
    answer = lsb(capsys, "run", broken.config)
    assert answer.code == 3
    assert "nowhere-at-all" in answer.complaint
    assert pickles(home) == before


@pytest.mark.long
def test_of_a_run_of_a_deployment(
    job: Job, gate: Gate, prefect_database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hit = job.one_by_one("hit")
    with PrefectServer(tmp_path / "prefect", prefect_database, **gate.environment) as server:
        assert server.command("work-pool", "create", POOL, "--type", "process").returncode == 0
        settings = yaml.safe_load(hit.config.read_text())
        file = deployment_file(tmp_path / "prefect.yaml", settings, None, entrypoint=FLOW)
        deployment = server.deploy(file, "nightly")["id"]
        with Worker(server) as worker:
            server.trigger(deployment)
            wait_for_commits(worker.process, hit.store)
            (engine,) = psutil.Process(worker.process.pid).children()
            server.kill()
            gate.open()
            wait_until("the run ends", lambda: not engine.is_running())
            assert worker.log.count("the work goes on") == 1
            assert "Flow run 'tiny' - Finished in state Completed()" in worker.log
            assert "exited with unexpected exception" not in worker.log
        check_published(hit, capsys)
