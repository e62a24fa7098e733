"""A task's and a flow's outcome, with and without Prefect's server."""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from prefect.exceptions import ParameterTypeError
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, PREFECT_HOME, temporary_settings

from lsb.cli import local_server
from lsb.cli.local_server import prefect_server
from lsb.errors import BudgetExceededError, ReportedError, StoreBusyError, StoreError, UnfinishedError
from tasks.guarded import connection
from tasks.guarded.flow import BEYOND_BUDGET, _failed, observed
from tasks.guarded.step import step


@pytest.fixture(scope="module")
def server(our_home: Path) -> Iterator[None]:
    with prefect_server():
        yield


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What is said of a server that is lost; as good as new afterwards."""
    said: list[str] = []
    connection.connect(said.append)
    yield said
    connection.connect()


@pytest.fixture(params=["there", "gone"])
def anywhere(request: pytest.FixtureRequest, server: None, warnings: list[str]) -> Iterator[str]:
    """With a server, and with an address at which there is none any more."""
    if request.param == "there":
        yield "there"
        assert warnings == []
    else:
        with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
            yield "gone"
        assert len(warnings) == 1
        assert warnings[0].startswith("Prefect's server at http://127.0.0.1:9/api is lost")


@contextmanager
def failing(change: int, answer: bytes) -> Iterator[None]:
    """The server behind a connection that from a flow's n-th change of state on gives this answer, or is cut."""
    real = httpx.URL(PREFECT_API_URL.value())
    changes: list[bytes] = []

    def relay(source: socket.socket, target: socket.socket, *, faulty: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                is_request = faulty and b" HTTP/1.1\r\n" in data
                changes.extend([data] * (is_request and b"/set_state " in data))
                if not is_request or len(changes) < change:
                    target.sendall(data)
                elif answer:
                    source.sendall(answer)
                else:
                    break
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((real.host, real.port))
                ends.extend((client, server))
                threading.Thread(target=relay, args=(client, server), kwargs={"faulty": True}, daemon=True).start()
                threading.Thread(target=relay, args=(server, client), kwargs={"faulty": False}, daemon=True).start()

    ends: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        with temporary_settings({PREFECT_API_URL: url}):
            yield
        listener.shutdown(socket.SHUT_RDWR)
    for end in ends:
        end.close()


def stored() -> list[Path]:
    """What Prefect keeps of results and errors."""
    return [path for path in Path(PREFECT_HOME.value()).rglob("storage/*") if path.is_file()]


def flow_of(work: Callable[[], object]) -> Callable[[], object]:
    task = step(name="work")(work)
    return observed(name="all")(lambda: task())


def test_a_result_is_the_works_own(anywhere: str) -> None:
    result = object()
    assert flow_of(lambda: result)() is result


def test_an_error_is_the_works_own_and_prefect_keeps_none_of_it(anywhere: str) -> None:
    error = StoreError("no access to /secret/place", key="a/b")

    def fail() -> None:
        raise error

    with pytest.raises(StoreError) as caught:
        flow_of(fail)()
    assert caught.value is error
    assert not stored()


def test_what_is_transient_is_tried_again(anywhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsb.jobs.retries.FIRST_DELAY_SECONDS", 0.01)
    tries: list[int] = []

    def busy() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise StoreBusyError("busy")
        return len(tries)

    assert flow_of(busy)() == 3


def test_a_spent_budget_has_a_state_of_its_own() -> None:
    states = [_failed(ReportedError("n", kind=kind)) for kind in (BudgetExceededError, UnfinishedError)]
    assert [(state.type.value, state.name) for state in states] == [("FAILED", BEYOND_BUDGET), ("FAILED", "Failed")]


def test_ctrl_c_stays_ctrl_c(anywhere: str) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flow_of(interrupted)()


def test_prefect_sees_errors_without_paths_and_keys(
    server: None, warnings: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ValueError("cannot open /home/somebody/file with api_key=abcdef")

    with caplog.at_level(logging.INFO), pytest.raises(ValueError, match="somebody"):
        flow_of(fail)()
    assert "ValueError: cannot open <path> with api_key=<secret>" in caplog.text
    assert "somebody" not in caplog.text
    assert "abcdef" not in caplog.text


def test_an_error_of_prefect_itself_before_the_work_began_is_not_hidden(server: None, warnings: list[str]) -> None:
    flow = observed(name="one")(lambda number: number)
    with pytest.raises(TypeError):
        flow()
    assert warnings == []


def test_silence_is_waited_for_once_and_a_broken_connection_tried_anew(warnings: list[str]) -> None:
    asked: list[type[Exception]] = []

    def answer(error: type[Exception]) -> httpx.Client:
        def handle(request: httpx.Request) -> httpx.Response:
            asked.append(error)
            if error is httpx.ReadError and len(asked) > 1:
                return httpx.Response(200)
            raise error("no answer")

        return httpx.Client(transport=connection._Transport(httpx.MockTransport(handle)))

    assert answer(httpx.ReadError).get("http://127.0.0.1:9/").status_code == 200
    assert not connection.lost()
    asked.clear()
    silent = answer(httpx.ReadTimeout)
    for _ in range(3):
        with pytest.raises(connection.ServerLostError):
            silent.get("http://127.0.0.1:9/")
    assert (len(asked), len(warnings)) == (1, 1)
    assert silent.post("http://127.0.0.1:9/logs/").status_code == 201


ANSWERS = {
    "fails": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
    "has deleted the run": b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    "cuts the connection": b"",
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("ending", [None, StoreError("gone"), KeyboardInterrupt()], ids=["done", "failed", "crashed"])
def test_a_server_that_fails_at_the_end_changes_nothing_and_nothing_is_pickled(
    server: None, warnings: list[str], answer: str, ending: BaseException | None
) -> None:
    def work() -> int:
        if ending is not None:
            raise ending
        return 7

    with failing(2, ANSWERS[answer]):
        if ending is None:
            assert flow_of(work)() == 7
        else:
            with pytest.raises(type(ending)) as caught:
                flow_of(work)()
            assert caught.value is ending
    assert stored() == []


def test_who_wants_to_end_waits_shortly_for_an_answer(warnings: list[str]) -> None:
    waited: list[float] = []

    def handle(request: httpx.Request) -> httpx.Response:
        waited.append(request.extensions["timeout"]["read"])
        return httpx.Response(200)

    client = httpx.Client(transport=connection._Transport(httpx.MockTransport(handle)), timeout=60)
    client.get("http://127.0.0.1:9/")
    connection.hurry()
    client.get("http://127.0.0.1:9/")
    assert waited == [60, connection.HURRIED_SECONDS]


def test_parameters_that_are_wrong_are_not_pickled(server: None, warnings: list[str]) -> None:
    def one(number: int) -> int:
        return number

    with pytest.raises(ParameterTypeError):
        observed(name="one")(one)("a word")
    assert stored() == []


def test_what_is_transient_is_tried_again_where_the_server_goes_meanwhile(
    prefect_home: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lsb.jobs.retries.FIRST_DELAY_SECONDS", 0.01)
    process, address = local_server._start(prefect_home, "lsb:known-to-this-test")
    tries: list[int] = []

    def busy() -> int:
        tries.append(1)
        if len(tries) == 1:
            process.kill()
            local_server._stop(process)
            time.sleep(0.5)  # the next request is the one that finds out
            raise StoreBusyError("busy")
        return len(tries)

    with temporary_settings({PREFECT_API_URL: address, PREFECT_API_AUTH_STRING: "lsb:known-to-this-test"}):
        assert flow_of(busy)() == 2
    assert len(warnings) == 1


PROGRAM = """
from lsb.cli.environment import prepare
prepare()
from tasks.guarded.flow import BEYOND_BUDGET, _failed, observed
from tasks.guarded.step import step
print(observed(name="all")(step(name="one")(lambda: 7))())
"""


@pytest.mark.long
def test_a_script_that_names_no_server_keeps_the_one_that_prefect_starts(prefect_home: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={
            **environment,
            "PREFECT_HOME": str(prefect_home),
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "600",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "7\n", "")
    with sqlite3.connect(prefect_home / "prefect.db") as database:
        rows = database.execute("select state_type from task_run").fetchall()
    database.close()
    assert rows == [("COMPLETED",)]
