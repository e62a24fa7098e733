"""The server that a run brings along: there while needed, gone afterwards, however the run ends."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from lsb.cli import local_server
from lsb.errors import ResourceError
from tasks.guarded import connection

PROGRAM = """
import sys, time
from lsb.cli.environment import prepare
prepare()
import httpx
from prefect import flow, task
from prefect.settings import PREFECT_API_URL
from lsb.cli.local_server import prefect_server
from lsb.errors import LsbError

@task
def one(number: int) -> int:
    return number

@flow(log_prints=True)
def many() -> int:
    print("a line for the log")
    return sum(one.map(range(30)).result())

try:
    with prefect_server():
        assert many() == 435
        address = PREFECT_API_URL.value()
        print(httpx.get(f"{address}/flow_runs/count", trust_env=False).status_code, flush=True)
        if "wait" in sys.argv:
            print("ready", flush=True)
            time.sleep(600)
except LsbError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.fixture(autouse=True)
def no_server_is_lost() -> Iterator[None]:
    """For the tests after these."""
    yield
    connection.connect()


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return {**kept, "PREFECT_HOME": str(home)}


def servers(home: Path) -> list[int]:
    """Processes of ours whose Prefect lives in `home`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"lsb.cli.local_server" in arguments and f"PREFECT_HOME={home}".encode() in variables:
            found.append(int(folder.name))
    return found


def run(home: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, sys.executable, "-c", PROGRAM],
        env={**environment(home), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


PROXIES = {"HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "socks5://127.0.0.1:9", "no_proxy": "example.org"}


@pytest.mark.parametrize("proxies", [{}, pytest.param(PROXIES, marks=pytest.mark.long)], ids=["direct", "proxies"])
def test_it_leaves_nothing_behind_and_keeps_every_task_run(
    request: pytest.FixtureRequest, tmp_path: Path, proxies: dict[str, str]
) -> None:
    """With proxies in a home that no server has been in yet, which takes longer."""
    home = tmp_path if proxies else request.getfixturevalue("prefect_home")
    done = run(home, **proxies)
    assert (done.returncode, done.stdout, done.stderr) == (0, "401\n", "")  # the answer to one without the secret
    assert servers(home) == []
    with sqlite3.connect(home / "prefect.db") as database:
        ((count,),) = database.execute("select count(*) from task_run where state_type = 'COMPLETED'")
        lines = database.execute("select message from log").fetchall()
    database.close()
    assert count == 30
    assert ("a line for the log",) in lines
    assert (home / "lsb-server.log").read_text() == ""


def test_its_secret_is_in_no_arguments(prefect_home: Path) -> None:
    process, _ = local_server._start(prefect_home, "lsb:known-to-the-test")
    try:
        (server,) = servers(prefect_home)
        assert b"known-to-the-test" not in Path(f"/proc/{server}/cmdline").read_bytes()
        assert b"known-to-the-test" in Path(f"/proc/{server}/environ").read_bytes()  # which only its owner may read
    finally:
        local_server._stop(process)
    assert b"known-to-the-test" not in b"".join(path.read_bytes() for path in prefect_home.rglob("*") if path.is_file())


def test_a_database_of_another_version_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "prefect.db"
    with sqlite3.connect(path) as database:
        database.execute("create table alembic_version (version_num varchar(32))")
        database.execute("insert into alembic_version values ('deadbeef0000')")
    database.close()
    with pytest.raises(ResourceError, match="another version of Prefect") as caught:
        local_server._start(tmp_path, "lsb:known-to-the-test")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert servers(tmp_path) == []
    assert "deadbeef0000" in (tmp_path / "lsb-server.log").read_text()
    with sqlite3.connect(path) as database:
        assert database.execute("select * from alembic_version").fetchall() == [("deadbeef0000",)]
    database.close()


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    # No file grows beyond 64 KiB, and Python ignores the signal that says so.
    done = run(tmp_path, "bash", "-c", 'ulimit -f 64; exec "$0" "$@"')
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (3, "", 1)
    assert "cannot be used" in done.stdout
    assert "make room" in done.stdout


@pytest.mark.parametrize("where", ["environment", "profile"])
def test_a_named_server_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    url = "http://user:hidden@127.0.0.1:9/api"
    profiles = tmp_path / "profiles.toml"
    if where == "environment":
        monkeypatch.setenv("PREFECT_API_URL", url)
    else:
        monkeypatch.setenv("PREFECT_PROFILES_PATH", str(profiles))
    tried: list[httpx.URL] = []
    ask = httpx.HTTPTransport.handle_request

    def asked(transport: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        tried.append(request.url)
        return ask(transport, request)

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", asked)
    with (
        temporary_settings({PREFECT_API_URL: url}),
        pytest.raises(ResourceError) as caught,
        local_server.prefect_server(),
    ):
        pass
    assert len(tried) == 2  # and not for as long as Prefect would ask again, with a pause before each try
    assert "127.0.0.1:9" in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert ("environment variable PREFECT_API_URL" if where == "environment" else str(profiles)) in str(caught.value)


def test_it_ends_when_its_process_is_killed(prefect_home: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "wait"], env=environment(prefect_home), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "401\n"
        ready = process.stdout.readline()
        running = servers(prefect_home)
        process.send_signal(signal.SIGKILL)
    assert (ready, len(running)) == ("ready\n", 1)
    until = time.monotonic() + 200
    while servers(prefect_home):
        assert time.monotonic() < until
        time.sleep(0.1)


def test_one_that_hangs_is_not_waited_for(our_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_server, "STOP_SECONDS", 3600)
    before = servers(PREFECT_HOME.value())
    started: list[set[int]] = []

    def meanwhile() -> None:
        until = time.monotonic() + 60  # a process that has just begun shows no arguments yet
        while not (found := set(servers(PREFECT_HOME.value())) - set(before)) and time.monotonic() < until:
            time.sleep(0.01)
        started.append(found)

    # Other tests may have a server, and it is named while they have.
    with temporary_settings(restore_defaults={PREFECT_API_URL}), local_server.prefect_server(meanwhile):
        (server,) = set(servers(PREFECT_HOME.value())) - set(before)
        assert started == [{server}]  # there when the command did its part, which it did once
        os.kill(server, signal.SIGSTOP)
        connection.lose(TimeoutError("silence"))
    assert server not in servers(PREFECT_HOME.value())
    connection.connect()
