"""Commands that take part in a run that somebody has planned: `lsb work`, as often as there are devices."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks.workers import measure, plan
from lsb.config.job import load_config
from lsb.ledger.leases import newest
from lsb.ledger.publish import manifest_table
from lsb.ledger.run import open_run, pending
from lsb.store.store import open_store
from tests.e2e.jobs import PICTURES, Job, log_entries, lsb, make_job, start_lsb, wait_for_commits
from tests.gate import Gate


def planned(job: Job) -> Path:
    """The run of a job, planned and no more."""
    return job.store / "runs" / plan(load_config(job.config))


def leases(run: Path) -> list[str]:
    return [path.name for path in sorted((run / "leases").glob("*"))]


@pytest.mark.usefixtures("server")
def test_whoever_works_and_whoever_publishes_need_the_runs_uri_alone(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    run = planned(job.changed("plain", evaluate={"measure": False}))
    answer = lsb(capsys, "work", run, "--batch", 2, "--device", "cpu", "--json")
    assert answer.code == 0, answer.err
    assert answer.json == {"run": str(run), "shards": 3, "translated": PICTURES - 2}
    assert len([name for name in leases(run) if name.endswith("-back.json")]) == 3
    assert {row["batch"] for row in rows(run)} == {2}

    before = log_entries(job.store)
    again = lsb(capsys, "work", run, "--json")
    assert (again.code, again.json["translated"]) == (0, 0)
    first, second = (lsb(capsys, "publish", run, "--json") for _ in range(2))
    assert (first.code, first.json) == (second.code, second.json)
    assert first.json["counts"] == {"ok": PICTURES - 1, "quarantined": 1}
    assert log_entries(job.store) == before
    assert lsb(capsys, "verify", run).code == 0
    assert len(list(job.store.glob("jobs/*/log/*.json"))) == 1


def rows(run: Path) -> list[dict[str, Any]]:
    store = open_store(str(run.parents[1]))
    return [row for row in manifest_table(store, open_run(store, run.name)).to_pylist() if row["shard"] is not None]


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory, model: Path) -> tuple[Job, Path]:
    """A job whose run is planned. Nobody writes there."""
    job = make_job(tmp_path_factory.mktemp("waiting"), model)
    (job.config.parent / "empty").mkdir()
    return job, planned(job)


@pytest.mark.parametrize(
    ("changes", "options", "code", "words"),
    [
        ({"model": "/no/such/model"}, [], 3, ["/no/such/model"]),
        ({"source__path": "/nowhere/at/all"}, [], 3, ["/nowhere/at/all"]),
        ({"source__path": "empty"}, [], 3, ["empty holds none of 12 pictures", "mounted", "--config"]),
        ({"evaluate__truth": "/no/truth"}, [], 3, ["/no/truth"]),
        ({"bridge__tau": 0.7}, [], 2, ["frozen", "tau"]),
        ({}, ["--device", "cuda:99"], 2, ["execution.device", "cuda:99"]),
    ],
    ids=str,
)
def test_who_does_not_see_what_the_run_needs_says_so_and_takes_nothing(
    waiting: tuple[Job, Path],
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    options: list[str],
    code: int,
    words: list[str],
) -> None:
    job, run = waiting
    config = job.changed("-".join([*changes, "blind"]), **changes).config
    answer = lsb(capsys, "work", run, "--config", config, *options)
    assert answer.code == code, answer.err
    for word in words:
        assert word in answer.complaint
    assert leases(run) == []
    assert log_entries(job.store) == {}


def test_who_names_no_run_is_told_what_to_name(waiting: tuple[Job, Path], capsys: pytest.CaptureFixture[str]) -> None:
    job, run = waiting
    for arguments, word in (
        (["work", job.config], "is not a run"),
        (["work", run.with_name("tiny-0123456789ab")], "no run tiny-0123456789ab"),
        (["publish", "job"], "no file and no run"),
        (["publish", run.with_name("tiny-0123456789ab")], "no run tiny-0123456789ab"),
        (["publish", run, "--resume", run], "--resume"),
    ):
        answer = lsb(capsys, *arguments)
        assert (answer.code, word in answer.complaint) == (2, True), answer.err


@pytest.mark.usefixtures("server")
def test_publishing_what_is_published_writes_nothing(
    done: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    shutil.copytree(done.store, store)
    (run,) = (store / "runs").iterdir()
    job = Job(done.config, store, done.source)
    before = job.files()
    first, second = (lsb(capsys, "publish", run, "--json") for _ in range(2))
    assert first.code == second.code == 0, first.err
    assert first.json == second.json
    assert job.files() == before


@pytest.mark.usefixtures("server")
def test_what_is_not_done_yet_is_not_published(waiting: tuple[Job, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = waiting[1]
    answer = lsb(capsys, "publish", run)
    assert answer.code == 11, answer.err
    assert "12 planned records" in answer.complaint
    assert not (run / "snapshots").exists()


@pytest.fixture
def held(job: Job, tmp_path: Path) -> Iterator[tuple[Job, Path, Gate]]:
    """A run whose pictures are translated and committed one by one, and only when they may."""
    slow, gate = job.one_by_one("held"), Gate(tmp_path / "gate")
    yield slow, planned(slow), gate
    gate.open()


@pytest.mark.long  # in one process: tests/unit/jobs/work/test_loop.py
def test_one_that_is_killed_costs_what_it_had_not_committed_and_nobody_waits_for_it(
    held: tuple[Job, Path, Gate], capsys: pytest.CaptureFixture[str]
) -> None:
    job, run, gate = held
    gate.admit(1)
    killed = start_lsb(gate, "work", run)
    wait_for_commits(killed, job.store)
    killed.kill()
    killed.communicate()
    # A worker that has read all of its shard takes the next one as well, of which nothing is committed yet.
    taken, begun = {name.split("-")[0] for name in leases(run)}, {entry.parts[-3] for entry in log_entries(job.store)}
    assert len(begun) == 1
    assert begun <= taken
    assert len(taken) == len(leases(run)) <= 2
    gate.open()
    answer = lsb(capsys, "work", run, "--json")
    assert (answer.code, answer.json["shards"]) == (0, 3), answer.err
    assert PICTURES - 4 <= answer.json["translated"] <= PICTURES - 3
    assert sorted(newest(open_store(str(job.store)).list(f"runs/{run.name}/leases"))) == ["00000", "00001", "00002"]


@pytest.mark.long
def test_sigterm_finishes_the_batch_and_gives_the_shard_back(held: tuple[Job, Path, Gate]) -> None:
    job, run, gate = held
    gate.admit(1)
    stopped = start_lsb(gate, "work", run)
    wait_for_commits(stopped, job.store)
    stopped.send_signal(signal.SIGTERM)
    gate.open()
    _, complaints = stopped.communicate()
    assert stopped.returncode == 5, complaints
    assert "run again" in complaints.splitlines()[-1]
    assert len(log_entries(job.store)) == 2
    assert leases(run)[0].endswith("-back.json")


@pytest.mark.long  # in one process: tests/unit/jobs/work/test_loop.py
def test_two_lsb_run_of_one_job_share_it(job: Job, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    job = job.one_by_one("both")
    both = [start_lsb(gate, "run", job.config, "--json") for _ in range(2)]
    gate.open()
    with ThreadPoolExecutor(2) as pool:
        answers = [*pool.map(lambda process: process.communicate(), both)]
    assert [process.returncode for process in both] == [0, 0], answers
    found = [json.loads(out) for out, _ in answers]
    assert sum(one["translated"] for one in found) == PICTURES - 2
    assert found[0]["snapshot_sha256"] == found[1]["snapshot_sha256"]
    store = open_store(str(job.store))
    (run,) = (job.store / "runs").iterdir()
    assert pending(store, open_run(store, run.name)) == {}


@pytest.mark.long
def test_a_fleet_of_which_some_are_killed_makes_the_same_pixels_once(tmp_path: Path) -> None:
    """With the embedded model; benchmarks/workers.py has the whole of it, with one that is stopped as well."""
    found = measure(tmp_path, records=60, shard_size=6, workers=4, killed=2, stopped=0)
    assert found.same_pixels_as_lsb_run
    assert (found.rows, found.verified) == (60, 0)
    assert found.exit_codes == {"0": 2, str(-signal.SIGKILL): 2}
    assert found.twice == found.twice_with_a_killed <= 2 * 6
