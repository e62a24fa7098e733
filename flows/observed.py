"""Flows that end as their work ends, whatever becomes of Prefect's server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Flow
from prefect.states import Failed

from tasks.outcome import ReportedError, carry_out, kept

P = ParamSpec("P")
R = TypeVar("R")


class ObservedFlow(Flow[P, R]):
    """A flow whose caller gets the work's own result or error. Prefect gets a state with a short message: an error that
    it is given is pickled into PREFECT_HOME."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        under_prefect = super().__call__
        return carry_out(lambda: under_prefect(*args, **options), lambda: self.fn.__wrapped__(*args, **options))  # type: ignore[attr-defined]


def observed(name: str, flow_run_name: str | None = None) -> Callable[[Callable[P, R]], ObservedFlow[P, R]]:
    """Make a function such a flow.

    Args:
        name: the flow's.
        flow_run_name: a template over the arguments.
    """

    def decorate(body: Callable[P, R]) -> ObservedFlow[P, R]:
        return ObservedFlow(kept(body, _failed), name=name, flow_run_name=flow_run_name, persist_result=False)

    return decorate


def _failed(error: ReportedError) -> Any:
    return Failed(message=error.message)
