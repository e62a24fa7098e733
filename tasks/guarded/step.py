"""How every task of this project is retried: only what an error itself calls transient."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NoReturn, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from lsb.errors import LsbError, ReportedError
from lsb.jobs.retries import FIRST_DELAY_SECONDS, JITTER, RETRIES, retried
from tasks.guarded.outcome import carry_out, kept

P = ParamSpec("P")
R = TypeVar("R")


def is_transient(task: Any, task_run: Any, state: Any) -> bool:
    """Prefect's retry condition. Never raises: one that does means no retry."""
    try:
        state.result()
    except LsbError as error:
        return error.transient
    except Exception:  # noqa: BLE001 whatever else it is, it is not known to be transient
        return False
    return False


# Results are not persisted or cached: the commit log decides what is done, and it looks at the store to know.
TASK_OPTIONS: dict[str, Any] = {
    "retries": RETRIES,
    "retry_delay_seconds": exponential_backoff(backoff_factor=FIRST_DELAY_SECONDS),
    "retry_jitter_factor": JITTER,
    "retry_condition_fn": is_transient,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}


def step(name: str, task_run_name: str | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function a Prefect task, which does its work with the same retries if Prefect's server is lost.

    Args:
        name: the task's.
        task_run_name: a template over the arguments.
    """

    def decorate(body: Callable[P, R]) -> Callable[P, R]:
        work: Task[P, Any] = task(name=name, task_run_name=task_run_name, **TASK_OPTIONS)(kept(body, _fail))

        @wraps(body)
        def call(*args: P.args, **options: P.kwargs) -> R:
            return carry_out(lambda: work(*args, **options), lambda: retried(lambda: body(*args, **options)))

        return call

    return decorate


def _fail(error: ReportedError) -> NoReturn:
    raise error
