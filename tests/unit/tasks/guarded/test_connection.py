"""Who is in need of Prefect's server asks it whatever is known of it; of the runs themselves see test_outcome.py."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tasks.guarded import connection
from tasks.guarded.connection import ServerLostError, insisting, lose, lost


@pytest.fixture(autouse=True)
def fresh() -> Iterator[list[str]]:
    warnings: list[str] = []
    connection.connect(warnings.append)
    yield warnings
    connection.connect()


def client(*answers: int | None) -> httpx.Client:
    """Of a server that answers so; None: it does not."""
    given = iter(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        status = next(given)
        if status is None:
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(status)

    return httpx.Client(transport=connection._Transport(httpx.MockTransport(answer)), base_url="http://127.0.0.1")


def test_a_server_that_does_not_answer_who_insists_is_not_given_up(fresh: list[str]) -> None:
    with client(None, None, 200) as asked, insisting():
        for _ in range(2):
            with pytest.raises(ServerLostError, match="refused"):
                asked.get("/")
        assert asked.get("/").status_code == 200
    assert not lost()
    assert fresh == []


def test_who_insists_asks_a_server_that_was_given_up() -> None:
    lose(httpx.ConnectError("refused"))
    with client(200) as asked:
        with pytest.raises(ServerLostError):
            asked.get("/")
        with insisting():
            assert asked.get("/").status_code == 200
    assert lost()
