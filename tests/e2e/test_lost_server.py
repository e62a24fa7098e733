"""Prefect's server only looks on: killed or hung in the middle of a run it neither delays nor fails the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from prefect.settings import PREFECT_HOME

from lsb.cli import local_server
from tests.e2e.jobs import PICTURES, Job, log_entries, lsb
from tests.prefect_parts import POOL, PrefectServer, Worker, deployment_file, wait_until
from tests.unit.cli.test_local_server import servers

pytestmark = pytest.mark.timeout(600)

SECRET = "lsb:known-to-this-test"
BLOWS = {"killed": signal.SIGKILL, "hung": signal.SIGSTOP}


def start(job: Job, home: Path, **variables: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return subprocess.Popen(
        [sys.executable, "-c", "from lsb.cli.main import main; main()", "run", str(job.config)],
        env={**kept, "PREFECT_HOME": str(home), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_a_commit(process: subprocess.Popen[str] | subprocess.Popen[bytes], job: Job) -> None:
    until = time.monotonic() + 200
    while not log_entries(job.store):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def slow(job: Job, **changes: object) -> Job:
    """One picture a batch and a commit for each, so that it can be hit in the middle."""
    return job.changed(
        "slow", bridge__nfe=12, execution__batch=1, execution__commit_seconds=0.001, evaluate={"sample": 1}, **changes
    )


def pickles(home: Path) -> set[Path]:
    """What Prefect has stored of results and errors."""
    return {path for path in home.rglob("*") if "storage" in path.parts and path.is_file()}


def check(process: subprocess.Popen[str], job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = process.communicate(timeout=250)  # one artifact alone used to wait for 67 s, and the run failed
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
def test_our_own(job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str], blow: str) -> None:
    hit = slow(job, execution__workers=2)
    process = start(hit, tmp_path / "prefect")
    wait_for_a_commit(process, hit)
    (server,) = servers(tmp_path / "prefect")
    os.kill(server, BLOWS[blow])
    check(process, hit, capsys)
    assert servers(tmp_path / "prefect") == []


@pytest.fixture
def named(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, str]]]:
    """A server that the user has started, and the variables that name it."""
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
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    named: tuple[subprocess.Popen[bytes], dict[str, str]],
    blow: str,
) -> None:
    server, variables = named
    hit = slow(job)
    process = start(hit, tmp_path / "prefect", **variables)
    wait_for_a_commit(process, hit)
    server.send_signal(BLOWS[blow])
    check(process, hit, capsys)


@pytest.mark.long
def test_ctrl_c_ends_a_run_without_its_server(job: Job, tmp_path: Path) -> None:
    hit = slow(job)
    process = start(hit, tmp_path / "prefect")
    wait_for_a_commit(process, hit)
    (server,) = servers(tmp_path / "prefect")
    os.kill(server, signal.SIGKILL)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 130, err
    assert "run again to go on" in err.splitlines()[-1]


@pytest.mark.long
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_does_not_wait_long_for_a_server_that_hangs(job: Job, tmp_path: Path, times: int) -> None:
    hit = slow(job, execution__workers=2)
    process = start(hit, tmp_path / "prefect")
    wait_for_a_commit(process, hit)
    (server,) = servers(tmp_path / "prefect")
    os.kill(server, signal.SIGSTOP)
    for _ in range(times):
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    _, err = process.communicate(timeout=200)
    assert time.monotonic() - begun < 30  # it was 70
    assert process.returncode == 130, err
    assert "run again to go on" in err.splitlines()[-1]
    assert servers(tmp_path / "prefect") == []


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
def test_of_a_run_of_a_deployment(job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hit = slow(job)
    with PrefectServer(tmp_path / "prefect") as server:
        assert server.command("work-pool", "create", POOL, "--type", "process").returncode == 0
        file = deployment_file(tmp_path / "prefect.yaml", yaml.safe_load(hit.config.read_text()), None)
        deployment = server.deploy(file, "nightly")["id"]
        with Worker(server) as worker:
            server.trigger(deployment)
            wait_for_a_commit(worker.process, hit)
            (engine,) = psutil.Process(worker.process.pid).children()
            server.kill()
            wait_until("the run ends", lambda: not engine.is_running(), 250)
            assert worker.log.count("the work goes on") == 1
            assert "Flow run 'tiny' - Finished in state Completed()" in worker.log
            assert "exited with unexpected exception" not in worker.log
        check_published(hit, capsys)
