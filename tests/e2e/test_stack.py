"""The processes of deployments/compose.yaml, started directly, each with the environment that the file gives it."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from examples.object_server import ObjectServer
from lsb.audit import verify
from lsb.ledger.log.snapshots import current_run
from lsb.store.store import open_store
from tests.compose import environment, filled_in
from tests.e2e.jobs import Job
from tests.postgres import Postgres
from tests.prefect_parts import REPOSITORY, PrefectServer, deployment_file, end, wait_until

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("stack")]
PROGRAMS = Path(sys.executable).parent


@dataclass(frozen=True)
class Stack:
    """Everything but the worker, and the secrets that are in use."""

    server: PrefectServer
    secrets: Mapping[str, str]
    store: ObjectServer

    def start(self, service: str, *command: str) -> subprocess.Popen[bytes]:
        """A service's own command, or another, with its environment; addresses are those of this machine."""
        asked = command or tuple(filled_in(self.secrets)["services"][service]["entrypoint"])
        with (self.server.folder / f"{service}.log").open("ab") as log:
            return subprocess.Popen(
                asked,
                env=self.environment(service),
                cwd=self.server.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def environment(self, service: str) -> dict[str, str]:
        mine = {
            name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "AWS_", "FSSPEC_"))
        }
        written = environment(service, self.secrets)
        # As in a container of its own: nothing but what the file says, where the parts are, and where it may write.
        here = {"PREFECT_API_URL": self.server.url, "FSSPEC_S3_ENDPOINT_URL": self.store.endpoint}
        assert here.keys() <= written.keys()
        return {
            **mine,
            **written,
            **here,
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "HOME": str(self.server.folder),
            "PREFECT_HOME": str(self.server.folder / "prefect"),
            "HF_HOME": str(self.server.folder / "models"),
            "NO_PROXY": "127.0.0.1",
        }


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, object_server: ObjectServer) -> Iterator[Stack]:
    key = object_server.credentials(object_server.bucket)
    given = {
        "PREFECT_AUTH": f"admin:{secrets.token_hex(8)}",
        "DATABASE_PASSWORD": secrets.token_hex(8),
        "STORE_KEY": key["AWS_ACCESS_KEY_ID"],
        "STORE_SECRET": key["AWS_SECRET_ACCESS_KEY"],
    }
    with Postgres(given["DATABASE_PASSWORD"]) as database:
        written = environment("server", given)
        assert (written.pop("PREFECT_SERVER_DATABASE_HOST"), written.pop("PREFECT_SERVER_DATABASE_PORT")) == (
            "database",
            "5432",
        )
        there = {"PREFECT_SERVER_DATABASE_HOST": "127.0.0.1", "PREFECT_SERVER_DATABASE_PORT": str(database.port)}
        with PrefectServer(tmp_path_factory.mktemp("stack"), **written, **there) as server:
            yield Stack(server, given, object_server)


@pytest.fixture
def remote(job: Job, s3_uri: str) -> Job:
    return job.changed("remote", store=f"{s3_uri}/icons")


def test_a_night_through_all_of_it(stack: Stack, remote: Job) -> None:
    """Set up as the file does it, twice, since whoever changes a deployment does so again."""
    file = deployment_file(remote.config.with_name("prefect.yaml"), yaml.safe_load(remote.config.read_text()), None)
    (script,) = filled_in(stack.secrets)["services"]["setup"]["command"]
    script = script.replace("$$", "$").replace("/setup/prefect.yaml", str(file))
    for _ in range(2):
        set_up = stack.start("setup", "/bin/sh", "-ec", script)
        assert set_up.wait() == 0, (stack.server.folder / "setup.log").read_text()
    (queue,) = stack.server.post("work_queues/filter", {"work_queues": {"name": {"any_": ["icons"]}}})
    assert queue["concurrency_limit"] == 1
    (nightly,) = stack.server.post("deployments/filter", {})
    run = stack.server.trigger(nightly["id"])
    worker = stack.start("worker")
    try:
        state = wait_until("the night's end", lambda: stack.server.ended(run))
    finally:
        end(worker)
    assert state == "Completed", (stack.server.folder / "worker.log").read_text()
    store = open_store(yaml.safe_load(remote.config.read_text())["store"])
    assert verify(store, str(current_run(store, "tiny"))).exit_code == 0
    assert not list(stack.server.folder.rglob("prefect.db"))  # all of it is in PostgreSQL


def test_nobody_gets_an_answer_without_the_password(stack: Stack, remote: Job) -> None:
    for auth in (None, ("admin", "guessed")):
        answer = httpx.post(f"{stack.server.url}/deployments/filter", json={}, auth=auth, trust_env=False)
        assert answer.status_code == httpx.codes.UNAUTHORIZED
    variables = {**stack.environment("worker"), "PREFECT_API_AUTH_STRING": "admin:guessed"}
    command = [sys.executable, "-P", "-m", "lsb.cli.main", "run", str(remote.config)]
    refused = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert refused.returncode == 3, refused.stderr
    (line,) = refused.stderr.splitlines()
    assert line.startswith("lsb: error: ")
    assert "guessed" not in line
