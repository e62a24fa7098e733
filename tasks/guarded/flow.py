"""Flows that end as their work ends, whatever becomes of Prefect's server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, ParamSpec, TypeVar

from prefect import Flow
from prefect.serializers import Serializer
from prefect.states import Failed

from lsb.errors import BudgetExceededError, ReportedError
from tasks.guarded.connection import guard
from tasks.guarded.outcome import carry_out, kept

P = ParamSpec("P")
R = TypeVar("R")

BEYOND_BUDGET = "BeyondBudget"  # a state that can be told from other failures, and so can be acted on


class Nothing(Serializer):
    """Lets Prefect write nothing to its storage, where it would pickle every error that it meets when a flow ends: also
    its own, such as one with the request, and its credentials, that the server answered with 500."""

    type: str = "nothing"

    def dumps(self, obj: Any) -> NoReturn:
        raise TypeError("Prefect keeps no results and errors of lsb.")


class ObservedFlow(Flow[P, R]):
    """A flow whose caller gets the work's own result or error. Prefect gets a state with a short message."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        under_prefect = super().__call__
        return carry_out(lambda: under_prefect(*args, **options), lambda: self.fn.__wrapped__(*args, **options))  # type: ignore[attr-defined]


def observed(name: str, flow_run_name: str | None = None) -> Callable[[Callable[P, R]], ObservedFlow[P, R]]:
    """Make a function such a flow. From then on Prefect's clients are those of `tasks.guarded.connection`, so that this
    also holds for a flow that a worker of Prefect's runs.

    Args:
        name: the flow's.
        flow_run_name: a template over the arguments.
    """

    def decorate(body: Callable[P, R]) -> ObservedFlow[P, R]:
        guard()
        return ObservedFlow(
            kept(body, _failed),
            name=name,
            flow_run_name=flow_run_name,
            persist_result=False,
            result_serializer=Nothing(),
        )

    return decorate


def _failed(error: ReportedError) -> Any:
    name = BEYOND_BUDGET if issubclass(error.kind, BudgetExceededError) else None
    return Failed(name=name, message=error.message)
