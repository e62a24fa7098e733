"""What is refused of a work pool, and how its flow runs end, without a server. On one: tests/e2e/test_runners.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.objects import WorkerStatus
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Completed, Crashed, Failed, Running

from flows.runners import pool as pools
from flows.runners.part import Part, VanishedError
from flows.runners.pool import PoolRunner
from flows.runners.runner import AwayError
from lsb.config.job import JobConfig
from lsb.errors import BudgetExceededError, ModelError, ResourceError
from lsb.store.local import LocalStore
from tasks.guarded.connection import ServerLostError
from tasks.guarded.flow import BEYOND_BUDGET
from tests.unit.jobs.work.fleet import config_over


def there(**what: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"is_paused": False, "concurrency_limit": None, **what})


class Client:
    """A server with one pool, and the flow runs that it was asked for."""

    def __init__(self) -> None:
        self.pool = there(is_push_pool=False, is_managed_pool=False)
        self.queue = there()
        self.workers = [SimpleNamespace(status=WorkerStatus.ONLINE)]
        self.deployments = [SimpleNamespace(id=uuid4(), work_queue_name="work")]
        self.runs: dict[Any, Any] = {}

    def read_work_pool(self, name: str) -> Any:
        return self._found(self.pool)

    def read_work_queue_by_name(self, name: str, pool: str) -> Any:
        return self._found(self.queue)

    def read_workers_for_work_pool(self, name: str) -> Any:
        return self.workers

    def read_deployments(self, **_: Any) -> Any:
        return self.deployments

    def create_flow_run_from_deployment(self, deployment: Any, **_: Any) -> Any:
        made = SimpleNamespace(id=uuid4(), state=Running())
        self.runs[made.id] = made
        return made

    def read_flow_runs(self, **_: Any) -> Any:
        return [*self.runs.values()]

    def set_flow_run_state(self, run: Any, state: Any) -> None:
        self._found(self.runs.get(run)).state = Cancelled()

    def _found(self, what: Any) -> Any:
        if what is None:
            raise ObjectNotFound(KeyError("404"))
        return what


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client()
    monkeypatch.setattr(pools, "_ask", lambda what: what(made))
    return made


@pytest.fixture
def config(tmp_path: Path) -> JobConfig:
    execution = {"runner": "prefect", "pool": "gpus"}
    return config_over(LocalStore(tmp_path / "store"), tmp_path, execution=execution)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pool": None}, "no work pool gpus"),
        ({"queue": None}, "no queue work"),
        ({"workers": []}, "no worker that is online"),
        ({"workers": [SimpleNamespace(status=WorkerStatus.OFFLINE)]}, "no worker that is online"),
        ({"deployments": []}, "no deployment of the flow work"),
        ({"queue": there(is_paused=True)}, "queue work of work pool gpus is paused"),
        ({"queue": there(concurrency_limit=0)}, "lets 0 run at a time, so nothing runs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_pool_in_which_nobody_would_run_anything_is_refused(
    client: Client, config: JobConfig, changes: dict[str, Any], words: str
) -> None:
    vars(client).update(changes)
    with pytest.raises(ResourceError, match=words), PoolRunner(config):
        pass


@pytest.mark.parametrize(
    ("mine", "limits", "refused"),
    [
        (("gpus", "icons"), {"pool": 1}, True),
        (("gpus", "icons"), {"pool": 2}, False),
        (("gpus", "icons"), {"queue": 1}, False),
        (("gpus", "work"), {"queue": 1}, True),
        (("gpus", "work"), {"queue": 2}, False),
        (("other", "work"), {"pool": 1, "queue": 1}, False),
        ((None, None), {"pool": 1}, False),
    ],
)
def test_a_parent_that_would_hold_the_only_place_is_refused(
    client: Client,
    config: JobConfig,
    monkeypatch: pytest.MonkeyPatch,
    mine: tuple[str | None, str | None],
    limits: dict[str, int],
    refused: bool,
) -> None:
    for name, limit in limits.items():
        getattr(client, name).concurrency_limit = limit
    me = SimpleNamespace(work_pool_name=mine[0], work_queue_name=mine[1])
    monkeypatch.setattr(pools.FlowRunContext, "get", lambda: SimpleNamespace(flow_run=me))
    if refused:
        with pytest.raises(ResourceError, match="lets 1 run at a time, and this run is that one"), PoolRunner(config):
            pass
    else:
        with PoolRunner(config):
            pass


def test_how_flow_runs_end(client: Client, config: JobConfig) -> None:
    states = {
        "done": Completed(),
        "blind": Failed(message="ModelError: no model at <path>; mount it"),
        "spent": Failed(name=BEYOND_BUDGET, message="BudgetExceededError: too much"),
        "lost": Crashed(),
        "cancelled": Cancelled(),
        "bug": Failed(message="ValueError: x"),
        "stopped": Failed(message="UnfinishedError: stopped by SIGTERM"),
        "running": Running(),
        "deleted": None,
    }
    with PoolRunner(config) as runner:
        for mark in states:
            runner.start(0, Part(config, "run", mark=mark))
        for (mark, state), made in zip(states.items(), [*client.runs.values()], strict=True):
            made.state = state
            if mark == "deleted":
                del client.runs[made.id]
        ended = runner.ended()
        assert runner.ended() == {}
        runner.stop(["running", "nobody"])
        assert isinstance(runner.ended()["running"], VanishedError)
        runner.start(0, Part(config, "run", mark="deleted while it is asked to end"))
        client.runs.clear()
    assert {mark: type(how) for mark, how in ended.items()} == {
        "done": type(None),
        "blind": ModelError,
        "spent": BudgetExceededError,
        **dict.fromkeys(("lost", "cancelled", "bug", "stopped", "deleted"), VanishedError),
    }
    assert str(ended["blind"]) == "no model at <path>; mount it"


def test_a_deployment_that_goes_away_meanwhile_is_said(
    client: Client, config: JobConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> Any:
        raise ObjectNotFound(Exception())

    with PoolRunner(config) as runner:
        monkeypatch.setattr(client, "create_flow_run_from_deployment", gone)
        with pytest.raises(ResourceError, match="there no more; deploy it again"):
            runner.start(0, Part(config, "run", mark="late"))


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (401, ResourceError, "answers 401; see PREFECT_API_AUTH_STRING"),
        (422, ResourceError, "answers 422: wrong"),
        (503, AwayError, "answers 503"),
        (None, AwayError, "does not answer"),
    ],
)
def test_what_a_server_answers(
    monkeypatch: pytest.MonkeyPatch, answer: int | None, error: type[Exception], words: str
) -> None:
    request = httpx.Request("GET", "http://127.0.0.1/api")

    def asked(_: Any) -> None:
        if answer is None:
            raise ServerLostError("gone", request=request)
        raise httpx.HTTPStatusError("x", request=request, response=httpx.Response(answer, text="wrong"))

    monkeypatch.setattr(pools, "get_client", lambda **_: _Context())
    with pytest.raises(error, match=words):
        pools._ask(asked)


class _Context:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...
