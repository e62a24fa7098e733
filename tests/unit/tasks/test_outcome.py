"""A task's and a flow's outcome, with and without Prefect's server."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from flows.local_server import prefect_server
from flows.observed import observed
from lsb.errors import StoreBusyError, StoreError
from tasks import connection, retrying
from tasks.retrying import step


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
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
    assert not list(Path(PREFECT_HOME.value()).rglob("storage/*"))


def test_what_is_transient_is_tried_again(anywhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "FIRST_DELAY_SECONDS", 0.01)
    tries: list[int] = []

    def busy() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise StoreBusyError("busy")
        return len(tries)

    assert flow_of(busy)() == 3


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
