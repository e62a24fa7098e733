"""What `deployments/` promises, read back from a real Prefect server, and run by a real worker from a real install."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from flows.translate import translate_dataset
from lsb.config.job import JobConfig
from tests.e2e.jobs import PICTURES, Job, log_entries, wait_for_commits
from tests.gate import FLOW, Gate
from tests.prefect_parts import DEPLOYMENT_FILE, POOL, REPOSITORY, PrefectServer, Worker, deployment_file, wait_until

pytestmark = pytest.mark.xdist_group("deployments")  # one server for all


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with lsb as the Dockerfile installs it: from the files that it copies, and no others."""
    tree, target = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("installed")
    for source in copied_by_the_dockerfile():
        place = REPOSITORY / source
        if place.is_dir():
            shutil.copytree(place, tree / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(place, tree)
    command = ["-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation", "-t", target, tree]
    subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True)
    return target


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, installed: Path, prefect_database: Path
) -> Iterator[PrefectServer]:
    """With the work pool of the documentation. Its clients and workers see the install, not this checkout, of which
    they have no more than the gate."""
    beside = tmp_path_factory.mktemp("beside")
    (beside / "tests").mkdir()
    for name in ("gate.py", "gated_flow.py"):
        shutil.copy(REPOSITORY / "tests" / name, beside / "tests")
    places = os.pathsep.join(map(str, (installed, beside)))
    with PrefectServer(tmp_path_factory.mktemp("prefect"), prefect_database, PYTHONPATH=places) as running:
        made = running.command("work-pool", "create", POOL, "--type", "process")
        assert made.returncode == 0, made.stderr
        yield running


def copied_by_the_dockerfile() -> list[str]:
    lines = (REPOSITORY / "deployments" / "Dockerfile").read_text().splitlines()
    return [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]


def settings(job: Job) -> dict[str, Any]:
    """The job as a deployment's parameter."""
    read: dict[str, Any] = yaml.safe_load(job.config.read_text())
    return read


@contextmanager
def deployed(server: PrefectServer, job: Job, cron: str | None, entrypoint: str | None = None) -> Iterator[str]:
    """The id of a deployment of the job, which takes its schedule along when it goes."""
    name = job.config.parent.name  # of its own: one of the same name would be changed, and keep its runs
    file = deployment_file(job.config.with_name("prefect.yaml"), settings(job), cron, name, entrypoint)
    made = str(server.deploy(file, name)["id"])
    try:
        yield made
    finally:
        server.delete(f"deployments/{made}")


def lsb(server: PrefectServer, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command of the same install."""
    command = [sys.executable, "-P", "-m", "lsb.cli.main", *map(str, arguments)]
    return subprocess.run(
        command, env=server.environment, cwd=server.folder, capture_output=True, text=True, check=False
    )


def as_written(found: dict[str, Any], schedule_keys: set[str]) -> dict[str, Any]:
    """A deployment that a server has, under the names that a deployment file uses."""
    limit = found["global_concurrency_limit"]
    schedules = [{**one, **one["schedule"]} for one in found["schedules"]]
    return {
        **{name: found[name] for name in ("name", "description", "tags", "version", "entrypoint", "parameters")},
        "enforce_parameter_schema": found["enforce_parameter_schema"],
        "concurrency_limit": limit
        and {"limit": limit["limit"], "collision_strategy": found["concurrency_options"]["collision_strategy"]},
        "schedules": [{name: one[name] for name in schedule_keys} for one in schedules],
        "work_pool": {
            "name": found["work_pool_name"],
            "work_queue_name": found["work_queue_name"],
            "job_variables": found["job_variables"],
        },
    }


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    """The one deployment of the file as it is."""
    content = yaml.safe_load(DEPLOYMENT_FILE.read_text())
    assert content["pull"] == []
    (deployment,) = content["deployments"]
    return dict(deployment)


@pytest.fixture(scope="module")
def found(server: PrefectServer, written: dict[str, Any]) -> dict[str, Any]:
    """What a server has of it."""
    return server.deploy(DEPLOYMENT_FILE, written["name"])


class TestTheFileAsItIs:
    def test_every_key_arrived(self, written: dict[str, Any], found: dict[str, Any]) -> None:
        """Prefect ignores a key that it does not know: a misspelt one is not among what comes back."""
        keys = {key for schedule in written["schedules"] for key in schedule}
        back = as_written(found, keys)
        assert {key: back[key] for key in written} == written

    def test_nothing_holds_a_place_for_a_run_that_died(self, found: dict[str, Any]) -> None:
        assert found["global_concurrency_limit"] is None

    def test_nothing_of_the_folder_that_it_was_deployed_from_is_kept(
        self, server: PrefectServer, found: dict[str, Any]
    ) -> None:
        assert (found["path"], found["pull_steps"]) == (None, [])
        for folder in (server.folder, REPOSITORY, Path.cwd()):
            assert str(folder) not in json.dumps(found)

    @pytest.mark.parametrize(
        "change",
        [
            {"execution": {"batch": 0}},
            {"execution": {"shard_sise": 10}},
            {"execution": {"dtype": "float8"}},
            {"budget": {"max_failed_fraction": 2}},
            {"name": "Not A Name"},
            {"bridge": {"tau": "wide"}},
            {"bridge": {"tau": 0}},
            {"learning": {"validation_fraction": 1}},
            {"store": None},
        ],
        ids=json.dumps,
    )
    def test_a_run_with_wrong_parameters_is_refused_when_it_is_submitted(
        self, server: PrefectServer, found: dict[str, Any], change: dict[str, Any]
    ) -> None:
        config = {**found["parameters"]["config"], **change}
        with pytest.raises(httpx.HTTPStatusError) as refused:
            server.trigger(found["id"], parameters={"config": config})
        assert refused.value.response.status_code in (409, 422)
        assert next(iter(change)) in refused.value.response.text

    def test_options_of_a_run_are_checked_too(self, server: PrefectServer, found: dict[str, Any]) -> None:
        asked = {"reread": True, "accept_vanished": True}
        run = server.trigger(found["id"], parameters={**found["parameters"], "options": asked})
        assert server.get(f"flow_runs/{run}")["parameters"]["options"] == asked
        with pytest.raises(httpx.HTTPStatusError, match=r"409|422"):
            server.trigger(found["id"], parameters={**found["parameters"], "options": {"rereed": True}})

    def test_paths_are_absolute(self, written: dict[str, Any]) -> None:
        config = written["parameters"]["config"]
        prompts = [config["prompts"][side]["images"] for side in ("source", "target")]
        for path in (config["store"], config["model"], config["source"]["path"], *prompts):
            assert path.startswith("/") or "://" in path


@pytest.mark.long
def test_a_cron_of_every_minute_is_scheduled(server: PrefectServer, job: Job) -> None:
    with deployed(server, job, "* * * * *") as deployment:
        runs = wait_until(
            "scheduled runs",
            lambda: server.runs(deployment, state={"name": {"any_": ["Scheduled"]}}),
        )
    assert all(run["auto_scheduled"] for run in runs)
    minutes = [datetime.fromisoformat(run["expected_start_time"]) for run in runs]
    assert {after - before for before, after in pairwise(minutes)} == {timedelta(minutes=1)}


@pytest.mark.long
def test_a_scheduled_run_is_run_by_a_worker_and_publishes(server: PrefectServer, job: Job) -> None:
    with deployed(server, job, "* * * * *") as deployment, Worker(server) as worker:

        def ended() -> Any:
            return next((run for run in server.runs(deployment) if run["state_name"] == "Completed"), None)

        run = wait_until("a scheduled run that ended", ended)
        assert run["auto_scheduled"]
        wait_until("the run is said to have ended", lambda: "Finished in state Completed" in worker.log)
    (folder,) = (job.store / "runs").iterdir()
    verdict = lsb(server, "verify", folder, "--json")
    assert verdict.returncode == 0, verdict.stderr
    assert json.loads(verdict.stdout)["checked"]["outputs"] == PICTURES - 2  # one is a copy, one has none
    assert lsb(server, "report", folder).returncode == 0


@pytest.mark.long
def test_a_killed_worker_holds_nothing_up(server: PrefectServer, job: Job, tmp_path: Path) -> None:
    """It and its run die by SIGKILL; the next worker starts the next run at once, which goes on from what is there."""
    job, gate = job.one_by_one("hit"), Gate(tmp_path / "gate")
    gate.admit(2)
    with deployed(server, job, None, FLOW) as deployment:
        dead = server.trigger(deployment)
        worker = Worker(server, "first", **gate.environment)
        wait_for_commits(worker.process, job.store, 2)
        worker.kill()
        before = log_entries(job.store)
        gate.admit(1)
        with Worker(server, "second", **gate.environment) as second:
            alive = server.trigger(deployment)
            wait_for_commits(second.process, job.store, 3)
            assert server.state(dead) == "Running"  # nobody has told the server
            gate.open()
            wait_until("the next run's end", lambda: server.state(alive) == "Completed")
        # As documented, the entry of the dead run goes.
        assert server.command("flow-run", "delete", dead).returncode == 0
        assert {run["id"] for run in server.runs(deployment)} == {alive}
    assert before.items() <= log_entries(job.store).items()
    (folder,) = (job.store / "runs").iterdir()
    assert lsb(server, "verify", folder).returncode == 0


def test_a_path_that_a_worker_would_look_for_in_its_own_folder_is_refused(job: Job) -> None:
    """A worker's working folder is a new one for each run, and goes with it."""
    config = JobConfig.model_validate({**settings(job), "store": "store"})
    state = translate_dataset.fn(config)  # as a worker calls it
    assert state.is_failed()
    assert "ConfigError: store: store is relative" in state.message
    assert not Path("store").exists()


def test_the_install_brings_its_data_files(installed: Path) -> None:
    """Modules, and what they read beside themselves."""
    wanted = {
        str(path.relative_to(REPOSITORY))
        for folder in ("lsb", "tasks", "flows")
        for path in (REPOSITORY / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    there = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    assert wanted <= there
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    find = "import lsb; from importlib.util import find_spec; print(lsb.__file__, find_spec('flows.translate').origin)"
    said = subprocess.run(
        [sys.executable, "-P", "-c", find],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.split() == [f"{installed}/lsb/__init__.py", f"{installed}/flows/translate.py"]
