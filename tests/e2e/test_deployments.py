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
from uuid import UUID

import httpx
import pytest
import yaml
from PIL import Image

from flows.translate import translate_dataset
from lsb.config.job import JobConfig
from tests.e2e.jobs import PICTURES, Job, log_entries, wait_for_commits
from tests.gate import FLOW, Gate
from tests.prefect_parts import (
    AUTOMATIONS_FILE,
    DEPLOYMENT_FILE,
    POOL,
    QUEUE,
    REPOSITORY,
    PrefectServer,
    Worker,
    deployment_file,
    wait_until,
)
from tests.webhook import Told

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
        for made in (
            running.command("work-pool", "create", POOL, "--type", "process"),
            running.command("work-queue", "create", QUEUE, "--pool", POOL, "--limit", "1"),
        ):
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


@pytest.fixture
def told() -> Iterator[Told]:
    with Told() as made:
        yield made


@contextmanager
def automations(server: PrefectServer, told: Told, *names: str, within: int | None = None) -> Iterator[None]:
    """Some of the file's automations, as its first lines say, told to a web hook of the test, which go with it.

    Args:
        within: seconds in place of the file's.
    """
    kind = server.get("block_types/slug/custom-webhook")["id"]
    (schema, *_) = server.post("block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [kind]}}})
    data = {"name": "test", "url": told.url, "json_data": {"subject": "{{subject}}", "body": "{{body}}"}}
    made = {"name": f"told-{told.url.rsplit(':')[2][:-1]}-{len(names)}", "data": data, "block_schema_id": schema["id"]}
    block = server.post("block_documents/", {**made, "block_type_id": kind})["id"]
    content = yaml.safe_load(AUTOMATIONS_FILE.read_text().replace(str(UUID(int=0)), block))
    chosen = [one for one in content["automations"] if one["name"] in names]
    assert len(chosen) == len(names)
    for one in chosen:
        if within and "within" in one["trigger"]:
            one["trigger"]["within"] = within
    file = server.folder / "mine.yaml"
    file.write_text(yaml.safe_dump({"automations": chosen}))
    done = server.command("automation", "create", "--from-file", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    try:
        yield
    finally:
        for one in server.post("automations/filter", {}):
            server.delete(f"automations/{one['id']}")
        server.delete(f"block_documents/{block}")


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


WRITTEN = yaml.safe_load(DEPLOYMENT_FILE.read_text())
DEPLOYMENTS = {one["name"]: one for one in WRITTEN["deployments"]}


@pytest.fixture(scope="module")
def found(server: PrefectServer) -> dict[str, dict[str, Any]]:
    """What a server has of the file's deployments, by name."""
    done = server.command("deploy", "--prefect-file", str(DEPLOYMENT_FILE), "--all")
    assert done.returncode == 0, done.stdout + done.stderr
    return {one["name"]: one for one in server.post("deployments/filter", {})}


@pytest.mark.long
class TestTheFileAsItIs:
    """What does not need a server for it: tests/unit/flows/test_schedules.py."""

    def test_every_key_arrived(self, found: dict[str, dict[str, Any]]) -> None:
        """Prefect ignores a key that it does not know: a misspelt one is not among what comes back."""
        for name, written in DEPLOYMENTS.items():
            keys = {key for schedule in written["schedules"] for key in schedule}
            back = as_written(found[name], keys)
            assert {key: back[key] for key in written} == written

    def test_nothing_holds_a_place_for_a_run_that_died(self, found: dict[str, dict[str, Any]]) -> None:
        assert {found[name]["global_concurrency_limit"] for name in DEPLOYMENTS} == {None}

    def test_nothing_of_the_folder_that_it_was_deployed_from_is_kept(
        self, server: PrefectServer, found: dict[str, dict[str, Any]]
    ) -> None:
        for name in DEPLOYMENTS:
            assert (found[name]["path"], found[name]["pull_steps"]) == (None, [])
            for folder in (server.folder, REPOSITORY, Path.cwd()):
                assert str(folder) not in json.dumps(found[name])

    def test_a_run_with_wrong_parameters_is_refused_when_it_is_submitted(
        self, server: PrefectServer, found: dict[str, dict[str, Any]]
    ) -> None:
        nightly = found["nightly"]
        for change in ({"config": {**nightly["parameters"]["config"], "store": None}}, {"options": {"rereed": True}}):
            with pytest.raises(httpx.HTTPStatusError) as refused:
                server.trigger(nightly["id"], parameters={**nightly["parameters"], **change})
            assert refused.value.response.status_code in (409, 422)
            assert next(iter(change)) in refused.value.response.text
        asked = {"reread": True, "accept_vanished": True}
        run = server.trigger(nightly["id"], parameters={**nightly["parameters"], "options": asked})
        assert server.get(f"flow_runs/{run}")["parameters"]["options"] == asked
        server.delete(f"flow_runs/{run}")


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
def test_a_second_run_waits_and_a_killed_worker_holds_it_up_for_three_minutes_at_most(
    server: PrefectServer, job: Job, told: Told, tmp_path: Path
) -> None:
    """The first and its worker die by SIGKILL. It counts as crashed as soon as its heartbeat is missed; then the second
    one, which has waited for the queue's only place, goes on from what is there."""
    job, gate = job.one_by_one("hit"), Gate(tmp_path / "gate")
    gate.admit(2)
    with automations(server, told, "lsb zombie", "lsb failed", within=45), deployed(server, job, None, FLOW) as nightly:
        dead = server.trigger(nightly)
        worker = Worker(server, "first", limit=2, **gate.environment)
        wait_for_commits(worker.process, job.store, 2)
        alive = server.trigger(nightly)
        wait_until("the second run is late", lambda: server.state(alive) == "Late")
        worker.kill()
        before = log_entries(job.store)
        gate.admit(1)
        with Worker(server, "second", limit=2, **gate.environment) as second:
            assert server.state(dead) == "Running"
            wait_until("the dead run counts as crashed", lambda: server.state(dead) == "Crashed")
            wait_for_commits(second.process, job.store, 3)
            assert server.state(alive) == "Running"
            gate.open()
            wait_until("the next run's end", lambda: server.state(alive) == "Completed")
        wait_until("somebody is told", lambda: told.about("Crashed"))
    assert before.items() <= log_entries(job.store).items()
    (folder,) = (job.store / "runs").iterdir()
    assert lsb(server, "verify", folder).returncode == 0


@pytest.mark.long
def test_each_automation_acts_once(server: PrefectServer, job: Job, told: Told) -> None:
    """With runs that really end so. One is late as long as nobody works, one was taken by somebody who is gone."""
    Image.new("RGB", (16_400, 8)).save(job.source / "long.png")  # longer than a WebP may be
    some = job.changed("some", output={"format": "webp"}, budget={"max_failed_fraction": 0.5}, evaluate={"sample": 1})
    many = some.changed("many", budget__max_quarantined_fraction=0)
    lost = job.changed("lost", source__path=str(job.source / "nowhere"))
    names = ("lsb late", "lsb never began", "lsb failed")
    with automations(server, told, *names, within=10), deployed(server, job, None) as nightly:
        late, taken = server.trigger(nightly), server.trigger(nightly)
        server.post(f"flow_runs/{taken}/set_state", {"state": {"type": "PENDING"}})
        wait_until("the one that never began counts as crashed", lambda: server.state(taken) == "Crashed")
        wait_until("somebody is told of both", lambda: told.about("Late") and told.about("Crashed"))
        assert server.state(late) == "Late"
        assert (len(told.about("Late")), len(told.about("Crashed"))) == (1, 1)
    told.said.clear()
    names = ("lsb failed", "lsb beyond the budget", "lsb completed with failures")
    with automations(server, told, *names), deployed(server, some, None) as nightly, Worker(server):
        ends = {}
        for one in (some, many, lost):
            run = server.trigger(nightly, parameters={"config": settings(one)})
            ends[one.config.stem] = wait_until("its end", lambda run=run: server.ended(run))
        assert ends == {"some": "CompletedWithFailures", "many": "BeyondBudget", "lost": "Failed"}
        wait_until("somebody is told of each", lambda: len(told.said) >= 3)
    assert {state: len(told.about(state)) for state in ends.values()} == dict.fromkeys(ends.values(), 1)
    assert "BudgetExceededError: 1 of " in told.about("BeyondBudget")[0]


def test_a_path_that_a_worker_would_look_for_in_its_own_folder_is_refused(job: Job) -> None:
    """A worker's working folder is a new one for each run, and goes with it."""
    config = JobConfig.model_validate({**settings(job), "store": "store"})
    state = translate_dataset.fn(config)  # as a worker calls it
    assert state.is_failed()
    assert "ConfigError: store: store is relative" in state.message
    assert not Path("store").exists()


@pytest.mark.long
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
