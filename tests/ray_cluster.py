"""A Ray cluster of one node as operators start it, on 127.0.0.1, with Ray's own token, no dashboard and no reports.

with RayCluster(folder, cpus=2) as cluster:
    cluster.address, cluster.environment
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from tests.prefect_parts import REPOSITORY, kill, wait_until

RAY = [sys.executable, "-P", "-c", "from ray.scripts.scripts import main; main()"]


class RayCluster:
    """`environment`: of its clients."""

    def __init__(self, folder: Path, cpus: int = 2, **variables: str) -> None:
        self.folder = folder
        self._cpus = cpus
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.address = f"127.0.0.1:{self._port}"
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray otherwise listens on every address of the machine, whatever node address it is given.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }
        self._variables = variables
        # Its sockets' paths must be short.
        self._temporary = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RayCluster:
        places = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH", ""))))
        options = ["--head", "--block", "--node-ip-address", "127.0.0.1", "--port", str(self._port)]
        options += ["--num-cpus", str(self._cpus), "--num-gpus", "0", "--object-store-memory", "80000000"]
        options += ["--include-dashboard", "false", "--disable-usage-stats", "--temp-dir", self._temporary.name]
        with (self.folder / "ray.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*RAY, "start", *options],
                env={**os.environ, **self.environment, "PYTHONPATH": places, **self._variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        wait_until("the Ray cluster starts", self._started)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        kill(self._process)
        self._temporary.cleanup()

    def at_work(self) -> list[psutil.Process]:
        """The workers that have a task of ours."""
        assert self._process is not None
        family = psutil.Process(self._process.pid).children(recursive=True)
        return [one for one in family if one.is_running() and one.cmdline()[:1] == ["ray::work"]]

    def _started(self) -> bool:
        assert self._process is not None
        log = (self.folder / "ray.log").read_text(errors="replace")
        if self._process.poll() is not None:
            raise RuntimeError(log)
        return "Ray runtime started" in log
