"""Copies as flow runs of the deployment of `flows.work` in a work pool of Prefect's, whatever its workers start."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import WorkerStatus
from prefect.client.schemas.responses import DeploymentResponse
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelling, State

from flows.runners.part import Part, VanishedError, ending
from flows.runners.runner import AwayError
from flows.work import FLOW
from lsb.config.job import JobConfig
from lsb.errors import BudgetExceededError, ResourceError
from lsb.redaction import without_secrets
from tasks.guarded.connection import insisting
from tasks.guarded.flow import BEYOND_BUDGET

R = TypeVar("R")

REFUSED = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)
ASKED_AT_ONCE = 200  # flow runs in one request, as many as Prefect answers


class PoolRunner:
    """Flow runs by their marks."""

    def __init__(self, config: JobConfig) -> None:
        self._config = config
        self._runs: dict[str, UUID] = {}
        self._deployment: DeploymentResponse | None = None

    def __enter__(self) -> PoolRunner:
        """Refuse a pool in which nobody would ever run anything.

        Raises:
            ResourceError: says what there is to do.
        """
        try:
            self._deployment = _ask(self._look)
        except AwayError as error:
            raise ResourceError(f"{error}; start it, or name another") from error
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(AwayError, ResourceError):
            self.stop([*self._runs])

    def start(self, number: int, part: Part) -> None:
        """Submit a flow run."""
        deployment, execution = self._deployment, self._config.execution
        assert deployment is not None
        assert part.mark is not None
        try:
            made = _ask(
                lambda client: client.create_flow_run_from_deployment(
                    deployment.id,
                    parameters=part.document(),
                    name=f"{part.run or f'prompt-{part.side}'}-{number}",
                    tags=[self._config.name],
                    idempotency_key=part.mark,
                    work_queue_name=execution.queue,
                )
            )
        except ObjectNotFound as error:
            raise ResourceError(
                f"the deployment of the flow {FLOW} in work pool {execution.pool} is there no more; deploy it again, "
                "and run again to go on"
            ) from error
        self._runs[part.mark] = made.id

    def ended(self) -> dict[str, Exception | None]:
        """Those whose state is a final one, or that somebody has deleted."""
        marks = [*self._runs]
        found: dict[UUID, State | None] = {}
        for start in range(0, len(marks), ASKED_AT_ONCE):
            ids = [self._runs[mark] for mark in marks[start : start + ASKED_AT_ONCE]]
            asked = FlowRunFilter(id=FlowRunFilterId(any_=ids))
            for one in _ask(lambda client: client.read_flow_runs(flow_run_filter=asked, limit=ASKED_AT_ONCE)):  # noqa: B023
                found[one.id] = one.state
        ended: dict[str, Exception | None] = {}
        for mark in marks:
            if self._runs[mark] not in found:
                ended[mark] = VanishedError("its flow run was deleted")
            elif (state := found[self._runs[mark]]) is not None and state.is_final():
                ended[mark] = _ending(state)
        for mark in ended:
            del self._runs[mark]
        return ended

    def stop(self, marks: Iterable[str]) -> None:
        """Cancel them: a worker sends SIGTERM, and what nobody has begun is never begun."""
        for mark in marks:
            if (run := self._runs.get(mark)) is not None:
                with suppress(ObjectNotFound):  # somebody has deleted it
                    _ask(lambda client: client.set_flow_run_state(run, Cancelling()))

    def _look(self, client: SyncPrefectClient) -> DeploymentResponse:
        execution, where = self._config.execution, _server()
        name = execution.pool
        assert name is not None
        try:
            pool = client.read_work_pool(name)
        except ObjectNotFound:
            raise ResourceError(
                f"no work pool {name} on {where}; `prefect work-pool create {name}` makes one on the server that "
                "PREFECT_API_URL names (where it names none, lsb has started this one for itself alone)"
            ) from None
        deployments = client.read_deployments(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[name])),
            limit=1,
        )
        if not deployments:
            raise ResourceError(
                f"work pool {name} has no deployment of the flow {FLOW}; `prefect deploy --prefect-file "
                f"deployments/prefect.yaml --name {FLOW}` makes it, where that file names this pool"
            )
        queue_name = execution.queue or deployments[0].work_queue_name or "default"
        try:
            queue = client.read_work_queue_by_name(queue_name, name)
        except ObjectNotFound:
            raise ResourceError(
                f"work pool {name} has no queue {queue_name}; `prefect work-queue create {queue_name} --pool {name}` "
                "makes it"
            ) from None
        for what, one in ((f"work pool {name}", pool), (f"queue {queue_name} of work pool {name}", queue)):
            if one.is_paused:
                raise ResourceError(f"{what} is paused; resume it, or name another")
        workers = client.read_workers_for_work_pool(name)
        needs_none = pool.is_push_pool or pool.is_managed_pool
        if not needs_none and not any(one.status == WorkerStatus.ONLINE for one in workers):
            raise ResourceError(
                f"work pool {name} has no worker that is online; `prefect worker start --pool {name}` starts one, "
                "wherever there is a device"
            )
        context = FlowRunContext.get()
        me = context.flow_run if context else None
        held = me is not None and me.work_pool_name == name
        for what, limit, mine in (
            (f"work pool {name}", pool.concurrency_limit, held),
            (
                f"queue {queue_name} of work pool {name}",
                queue.concurrency_limit,
                held and me is not None and me.work_queue_name == queue_name,
            ),
        ):
            if limit is not None and limit <= mine:
                reason = f"lets {limit} run at a time, " + ("and this run is that one" if mine else "so nothing runs")
                raise ResourceError(
                    f"{what} {reason}: its copies would wait for it for ever; raise the limit, or let them have "
                    "another pool or queue, see execution.pool and execution.queue"
                )
        return deployments[0]


def _server() -> str:
    return f"Prefect's server at {without_secrets(PREFECT_API_URL.value() or '?')}"


def _ask(what: Callable[[SyncPrefectClient], R]) -> R:
    """What Prefect's server answers.

    Raises:
        AwayError: it does not, now.
        ResourceError: it does not want to.
        ObjectNotFound: there is no such thing.
    """
    try:
        with insisting(), get_client(sync_client=True) as client:
            return what(client)
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status in REFUSED:
            reason = f"answers {status}; see PREFECT_API_AUTH_STRING or PREFECT_API_KEY"
            raise ResourceError(f"{_server()} {reason}") from error
        if status < 500 and status != httpx.codes.TOO_MANY_REQUESTS:
            raise ResourceError(
                f"{_server()} answers {status}: {without_secrets(error.response.text[:200])}"
            ) from error
        raise AwayError(f"{_server()} answers {status}") from error
    except (httpx.TransportError, OSError) as error:
        reason = without_secrets(" ".join(f"{error}".split()))
        raise AwayError(f"{_server()} does not answer ({reason})") from error


def _ending(state: State) -> Exception | None:
    """How a flow run ended, by its last state. `tasks.guarded.flow` has put an error's kind before what it says."""
    if state.is_completed():
        return None
    kind, _, message = (state.message or "").partition(": ")
    if state.name == BEYOND_BUDGET:
        return BudgetExceededError(message)
    if not state.is_failed():
        return VanishedError(f"its flow run is {state.name}")
    return ending({"kind": kind, "message": message or kind})
