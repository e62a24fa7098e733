"""A PostgreSQL of the tests' own, from the system's package: on a free port of this machine, gone with the test.

with Postgres("word") as database:
    database.port
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.prefect_parts import end, wait_until

USER = "prefect"  # of the database, and its name


def programs() -> Path:
    """The folder with `initdb` and `postgres`; RuntimeError if there is none."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not places:
        raise RuntimeError("no PostgreSQL; apt-get install postgresql")
    return places[-1]


class Postgres:
    """Whoever has the password may use its database."""

    def __init__(self, password: str) -> None:
        self._password = password
        # Not below pytest's folders, which only their owner may enter: the server refuses to run as root.
        self._folder = Path(tempfile.mkdtemp(prefix="lsb-postgres-"))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._as_whom: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Postgres:
        data = self._folder / "data"
        word = self._folder / "word"
        word.write_text(self._password)
        if self._as_whom:
            for path in (self._folder, word):
                shutil.chown(path, **self._as_whom)
        common = {"cwd": self._folder, **self._as_whom}
        command = [programs() / "initdb", "-D", data, "-U", USER, "--pwfile", word, "--auth=scram-sha-256", "-N"]
        subprocess.run(list(map(str, command)), check=True, capture_output=True, **common)
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(str(programs() / "postgres"), "-D", str(data), "-p", str(self.port)),
                    *("-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self._folder}"),
                    *("-c", "fsync=off"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **common,
            )
        wait_until("PostgreSQL has a database", self._has_a_database)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        end(self._process)
        shutil.rmtree(self._folder)

    def _has_a_database(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError((self._folder / "log").read_text())
        command = [programs() / "createdb", "-h", "127.0.0.1", "-p", self.port, "-U", USER, USER]
        environment = {**os.environ, "PGPASSWORD": self._password}
        done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, check=False)
        return done.returncode == 0
