"""A Prefect server and a process worker as operators start them, in a folder of their own, on a free port.

with PrefectServer(folder) as server:
    server.command("work-pool", "create", "lsb", "--type", "process")
    server.deploy(file, "nightly")
    with Worker(server):
        ...
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
DEPLOYMENT_FILE = REPOSITORY / "deployments" / "prefect.yaml"
AUTOMATIONS_FILE = REPOSITORY / "deployments" / "automations.yaml"
PREFECT = [sys.executable, "-P", "-m", "prefect"]
POOL = "lsb"
QUEUE = "icons"
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
PATIENCE_SECONDS = 600.0  # for what must come: nothing is said of how fast, whatever else the machine does


def wait_until(what: str, found: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    """The first true answer of `found`; TimeoutError that names `what` if there is none in time."""
    until = time.monotonic() + seconds
    while not (answer := found()):
        if time.monotonic() > until:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.1)
    return answer


def end(process: subprocess.Popen[bytes], seconds: float = 10) -> None:
    """SIGTERM, and SIGKILL for what is left then of it and of all that it has started."""
    family = _family(process)
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    _kill(family)
    process.wait()


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for a process and all that it has started, as if the machine had lost power."""
    _kill(_family(process))
    process.wait()


def _family(process: subprocess.Popen[bytes]) -> list[int]:
    with suppress(psutil.NoSuchProcess):
        return [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    return [process.pid]


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class PrefectServer:
    """`prefect server start`. What it keeps, its log, and the environment of its clients lie in `folder`."""

    def __init__(self, folder: Path, database: Path | None = None, **settings: str) -> None:
        """Nothing is started yet.

        Args:
            database: one that a server of this version has made, to begin with; None lets it make its own.
            settings: for the environment.
        """
        self.folder = folder
        if database is not None:
            (folder / "prefect").mkdir(parents=True)
            shutil.copy(database, folder / "prefect")
        # Kept, so that nobody else gets the port, also while the server is down; who reuses addresses can listen there.
        self._reserved = socket.socket()
        self._reserved.bind(("127.0.0.1", 0))
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port = self._reserved.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}/api"
        mine = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self.environment = {
            **mine,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH", "")))),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "NO_PROXY": "127.0.0.1",
            "NO_COLOR": "1",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None
        auth = settings.get("PREFECT_SERVER_API_AUTH_STRING")
        if auth is not None:
            self.environment["PREFECT_API_AUTH_STRING"] = auth
        user, _, word = (auth or "").partition(":")
        self._http = httpx.Client(
            base_url=self.url, timeout=60, trust_env=False, auth=(user, word) if auth is not None else None
        )

    def __enter__(self) -> PrefectServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._http.close()
        self._reserved.close()

    @property
    def log(self) -> str:
        """All that it has said."""
        return (self.folder / "server.log").read_text(errors="replace")

    def start(self) -> None:
        """Start it on its port and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(self._port), "--no-ui"]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self.environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until("the Prefect server answers", self._answers)

    def stop(self) -> None:
        """End it by its pid."""
        if self._process is not None:
            end(self._process)
            self._process = None

    def kill(self) -> None:
        """SIGKILL for it and its children."""
        assert self._process is not None
        kill(self._process)
        self._process = None

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A `prefect` command as a user of this server gives it, away from the repository."""
        return subprocess.run(
            [*PREFECT, "--no-prompt", *arguments],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def deploy(self, file: Path, name: str) -> dict[str, Any]:
        """`prefect deploy`; the deployment as the server then has it."""
        done = self.command("deploy", "--prefect-file", str(file), "--name", name)
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
        (found,) = self.post("deployments/filter", {"deployments": {"name": {"any_": [name]}}})
        return dict(found)

    def get(self, path: str) -> Any:
        """What the API answers to a GET."""
        return self._ask("GET", path).json()

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """What the API answers to a POST."""
        return self._ask("POST", path, body).json()

    def delete(self, path: str) -> None:
        """A DELETE."""
        self._ask("DELETE", path)

    def runs(self, deployment: str, **filters: Any) -> list[dict[str, Any]]:
        """The flow runs of a deployment, those that are to start first at the head."""
        body = {
            "deployments": {"id": {"any_": [deployment]}},
            "flow_runs": filters,
            "sort": "EXPECTED_START_TIME_ASC",
        }
        return list(self.post("flow_runs/filter", body))

    def state(self, run: str) -> str:
        """The name of a flow run's state."""
        return str(self.get(f"flow_runs/{run}")["state_name"])

    def ended(self, run: str) -> str | None:
        """The name of a flow run's state if it is a final one."""
        found = self.get(f"flow_runs/{run}")
        return str(found["state_name"]) if found["state_type"] in ENDED else None

    def trigger(self, deployment: str, **body: Any) -> str:
        """A flow run beside the schedule; its id."""
        return str(
            self.post(f"deployments/{deployment}/create_flow_run", {"state": {"type": "SCHEDULED"}, **body})["id"]
        )

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            answer = self._http.request(method, f"/{path}", json=body)
            # Its database takes one writer at a time, and on a busy machine it gives up waiting.
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > until:
                answer.raise_for_status()
                return answer
            time.sleep(1)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(self.log)
        with suppress(httpx.HTTPError):
            return self._http.get("/health").is_success
        return False


class Worker:
    """`prefect worker start`, with the limit that docs/operations.md names. `variables` are for the runs, too."""

    def __init__(self, server: PrefectServer, name: str = "worker", limit: int = 1, **variables: str) -> None:
        environment = {**server.environment, **variables}
        command = [*PREFECT, "worker", "start", "--pool", POOL, "--name", name, "--limit", str(limit)]
        self._log = server.folder / f"{name}.log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, cwd=server.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def log(self) -> str:
        """All that it and its flow runs have said."""
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        """End it and what it has started."""
        end(self.process)

    def kill(self) -> None:
        """SIGKILL for it and all that it has started."""
        kill(self.process)


def deployment_file(
    target: Path,
    config: Mapping[str, Any],
    cron: str | None = "* * * * *",
    name: str = "nightly",
    entrypoint: str | None = None,
) -> Path:
    """The project's nightly deployment alone, with another job, time and name; without a schedule where `cron` is None.

    Args:
        entrypoint: another flow in place of the file's.
    """
    content = yaml.safe_load(DEPLOYMENT_FILE.read_text())
    deployment = next(one for one in content["deployments"] if one["name"] == "nightly")
    content["deployments"] = [deployment]
    deployment |= {"name": name, "parameters": {"config": dict(config)}}
    deployment["entrypoint"] = entrypoint or deployment["entrypoint"]
    if cron is None:
        deployment["schedules"] = []
    else:
        deployment["schedules"][0]["cron"] = cron
    target.write_text(yaml.safe_dump(content, sort_keys=False))
    return target
