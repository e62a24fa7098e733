"""A job that others translate: copies on this machine, in a work pool of Prefect's, on a Ray cluster."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from benchmarks.workers import measure_runner
from flows.runners import local
from lsb.cli.main import run_command
from lsb.ledger.publish import manifest_table
from lsb.ledger.run import open_run
from lsb.store.store import open_store
from tests.e2e.jobs import PICTURES, Job, log_entries, start_lsb, wait_for_commits
from tests.gate import Gate
from tests.prefect_parts import DEPLOYMENT_FILE, POOL, PrefectServer, Worker, wait_until
from tests.ray_cluster import RayCluster


def run_of(job: Job) -> Path:
    (run,) = (job.store / "runs").iterdir()
    return run


def rows(job: Job) -> list[dict[str, Any]]:
    run = run_of(job)
    store = open_store(str(job.store))
    return manifest_table(store, open_run(store, run.name)).to_pylist()


def pixels(job: Job) -> dict[str, str]:
    return {row["source_key"]: row["pixels_sha256"] for row in rows(job)}


def copies_of(pid: int) -> list[psutil.Process]:
    """The processes that a command has started to be copies."""
    children = psutil.Process(pid).children()
    return [child for child in children if any("copy" in part or "runners.local" in part for part in child.cmdline())]


@pytest.mark.long  # with threads for copies: tests/unit/flows/runners/test_fleet.py
def test_of_two_processes_one_is_killed_and_started_again(job: Job, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    two = job.one_by_one("two", execution__parallel=2)
    gate.admit(1)
    process = start_lsb(gate, "run", two.config, "--json")
    wait_for_commits(process, two.store)
    copies = copies_of(process.pid)
    assert len(copies) == 2
    copies[0].kill()
    gate.open()
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert json.loads(out)["translated"] == PICTURES - 1  # that are there now, the copy of one included
    assert len({row["record_id"] for row in rows(two)}) == PICTURES
    assert run_command(["verify", str(run_of(two))]) == 0


@pytest.mark.long
def test_copies_make_the_pixels_of_one_command(tmp_path: Path) -> None:
    """With the embedded model and one killed; benchmarks/workers.py has the whole of it, with every runner."""
    found = measure_runner(tmp_path, "local", records=24, shard_size=6)
    assert found.same_pixels_as_lsb_run
    assert (found.rows, found.verified, found.exit_codes) == (24, 0, {"0": 1})
    assert found.twice == found.twice_with_a_killed <= 6


@pytest.mark.long
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 5), (signal.SIGINT, 130)])
def test_a_signal_ends_the_copies_in_order(job: Job, tmp_path: Path, number: int, code: int) -> None:
    gate = Gate(tmp_path / "gate")
    two = job.one_by_one("two", execution__parallel=2)
    gate.admit(1)
    process = start_lsb(gate, "run", two.config)
    wait_for_commits(process, two.store)
    copies = copies_of(process.pid)
    before = len(log_entries(two.store))
    process.send_signal(number)
    wait_until("the copies have heard of it", lambda: gate.signals >= 2)
    gate.open()
    _, err = process.communicate()
    assert process.returncode == code, err
    assert "run again" in err.splitlines()[-1]
    assert not any(copy.is_running() for copy in copies)
    assert before < len(log_entries(two.store)) <= before + 2
    held = {path.name[:7] for path in (run_of(two) / "leases").iterdir() if "-back" not in path.name}
    assert held == {path.name[:7] for path in (run_of(two) / "leases").iterdir() if "-back" in path.name}


@pytest.mark.long  # with threads for copies: tests/unit/flows/runners/test_fleet.py
@pytest.mark.usefixtures("server")
def test_a_copy_that_sees_no_model_says_so(
    job: Job, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its word is the user's line."""
    blind = "import lsb.models.load as load, lsb.jobs.work.sight as sight\n"
    blind += "from lsb.errors import ModelError\n"
    blind += "def identify(*a, **o): raise ModelError('no model at /elsewhere; mount it')\n"
    blind += "sight.identify = identify\n"
    blind += "from flows.runners.local import main; main()"
    monkeypatch.setattr(local, "COMMAND", [*local.COMMAND[:2], "-c", blind])
    two = job.changed("two", execution__parallel=2)
    code = run_command(["run", str(two.config)])
    err = capsys.readouterr().err
    assert code == 3, err
    assert err.splitlines()[-1] == "lsb: error: no model at /elsewhere; mount it"
    assert not (run_of(two) / "leases").exists()


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, prefect_database: Path) -> Iterator[PrefectServer]:
    """A server with a work pool in which the deployment of the loop lies; its flow runs are held at a gate."""
    folder = tmp_path_factory.mktemp("pool")
    with PrefectServer(folder, prefect_database) as server:
        made = server.command("work-pool", "create", POOL, "--type", "process")
        assert made.returncode == 0, made.stderr
        content = yaml.safe_load(DEPLOYMENT_FILE.read_text())
        content["deployments"] = [one for one in content["deployments"] if one["name"] == "work"]
        content["deployments"][0] |= {"entrypoint": "tests.gated_flow.work", "parameters": {}}
        file = folder / "prefect.yaml"
        file.write_text(yaml.safe_dump(content))
        server.deploy(file, "work")
        yield server


@pytest.mark.long
@pytest.mark.xdist_group("pool")
class TestPool:
    """Runner `prefect` on a real server, with real workers of a process pool."""

    def test_what_lacks_is_said_before_anything_is_done(self, pool: PrefectServer, job: Job, tmp_path: Path) -> None:
        gate = Gate(tmp_path / "gate")
        for changes, word in (
            ({"pool": "nowhere"}, "no work pool nowhere"),
            ({"pool": POOL, "queue": "nobody"}, "no queue nobody"),
            ({"pool": POOL}, "no worker that is online"),
        ):
            there = {f"execution__{name}": value for name, value in changes.items()}
            asked = job.changed("asked", execution__runner="prefect", **there)
            code, line = refusal(start_lsb(gate, "run", asked.config, PREFECT_API_URL=pool.url))
            assert (code, word in line) == (3, True), line
        assert not job.store.exists()

    def test_of_two_workers_one_is_killed(self, pool: PrefectServer, job: Job, tmp_path: Path) -> None:
        gate = Gate(tmp_path / "gate")
        there = job.one_by_one("there", execution__runner="prefect", execution__pool=POOL, execution__parallel=2)
        with Worker(pool, "first", **gate.environment) as first, Worker(pool, "second", **gate.environment):
            wait_until("workers", lambda: len(online(pool)) == 2)
            gate.admit(1)
            process = start_lsb(gate, "run", there.config, "--json", PREFECT_API_URL=pool.url)
            wait_for_commits(process, there.store)
            first.kill()
            gate.open()
            out, err = process.communicate()
            assert process.returncode == 0, err
        assert json.loads(out)["counts"] == {"ok": PICTURES - 1, "quarantined": 1}
        assert len({row["record_id"] for row in rows(there)}) == PICTURES
        assert run_command(["verify", str(run_of(there))]) == 0
        assert "copies" not in err

    def test_what_a_worker_cannot_see_is_the_users_line(self, pool: PrefectServer, job: Job, tmp_path: Path) -> None:
        gate = Gate(tmp_path / "gate")
        gate.open()
        there = job.changed("there", execution__runner="prefect", execution__pool=POOL)
        blind = {**gate.environment, "LSB_TESTS_BLIND": "1"}
        with Worker(pool, "blind", **blind):
            wait_until("workers", lambda: [one for one in online(pool) if one["name"] == "blind"])
            code, line = refusal(start_lsb(gate, "run", there.config, PREFECT_API_URL=pool.url))
        assert (code, line) == (3, "lsb: error: no model at <path>; mount it")
        assert not (run_of(there) / "leases").exists()


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(tmp_path_factory.mktemp("cluster") / "gate")


@pytest.fixture(scope="module")
def cluster(held: Gate) -> Iterator[RayCluster]:
    """Of one node, whose workers are held at a gate."""
    with RayCluster(held.folder.parent, cpus=2, OMP_NUM_THREADS="1", **held.environment) as running:
        yield running


def on(cluster: RayCluster, job: Job, address: str | None = None) -> Job:
    asked = {"address": address or cluster.address, "num_gpus": 0}
    return job.one_by_one("there", execution__runner="ray", execution__parallel=2, execution__ray=asked)


@pytest.mark.long
@pytest.mark.xdist_group("ray")
class TestCluster:
    """Runner `ray` on a cluster of one node."""

    def test_without_a_cluster_or_its_token_nothing_is_done(
        self, cluster: RayCluster, held: Gate, job: Job, tmp_path: Path
    ) -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            away = on(cluster, job, f"127.0.0.1:{nobody.getsockname()[1]}")
            code, line = refusal(start_lsb(held, "run", away.config, **cluster.environment))
            assert (code, "no Ray cluster answers at 127.0.0.1" in line) == (3, True), line
        (tmp_path / "guessed").write_text("0" * 64)
        guessed = {**cluster.environment, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "guessed")}
        code, line = refusal(start_lsb(held, "run", on(cluster, job).config, **guessed))
        assert (code, "no Ray cluster lets us in" in line) == (3, True), line
        assert not job.store.exists()

    def test_a_signal_ends_the_copies_in_order_and_one_that_is_killed_is_started_again(
        self, cluster: RayCluster, held: Gate, job: Job
    ) -> None:
        there = on(cluster, job)
        held.admit(1)
        process = start_lsb(held, "run", there.config, **cluster.environment)
        wait_for_commits(process, there.store)
        wait_until("both have a task", lambda: len(cluster.at_work()) == 2)
        process.send_signal(signal.SIGTERM)
        wait_until("all have heard of it", lambda: held.signals >= 3)
        held.open()
        _, err = process.communicate()
        assert process.returncode == 5, err
        names = [path.name for path in (run_of(there) / "leases").iterdir()]
        assert {name[:14] for name in names if "-back" not in name} == {name[:14] for name in names if "-back" in name}

        held.shut()
        held.admit(1)
        before = len(log_entries(there.store))
        process = start_lsb(held, "run", there.config, "--json", **cluster.environment)
        wait_for_commits(process, there.store, before + 1)
        cluster.at_work()[0].kill()
        held.open()
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert json.loads(out)["counts"] == {"ok": PICTURES - 1, "quarantined": 1}
        assert len({row["record_id"] for row in rows(there)}) == PICTURES
        assert run_command(["verify", str(run_of(there))]) == 0


def online(server: PrefectServer) -> list[dict[str, Any]]:
    workers = server.post(f"work_pools/{POOL}/workers/filter", {})
    return [one for one in workers if one["status"] == "ONLINE"]


def refusal(process: Any) -> tuple[int, str]:
    """How a command ended, and the last line that it said."""
    _, err = process.communicate()
    assert "Traceback" not in err, err
    return process.returncode, err.splitlines()[-1]
