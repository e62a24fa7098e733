"""What became of a task or a flow, kept beside Prefect's own account of it.

Prefect is told that it ran and, shortly, how it ended. Its caller gets the result, or the very error, whether or not
Prefect's server is there to hear of it; and no error goes to Prefect as it is, with paths and keys in it or pickled.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from inspect import signature
from typing import Any, Generic, ParamSpec, TypeVar, get_type_hints

from prefect.states import State

from lsb.errors import LsbError, ReportedError
from lsb.redaction import redact
from tasks.guarded.connection import hurry, is_of_server, lose, lost

P = ParamSpec("P")
R = TypeVar("R")


class _Outcome(Generic[R]):
    def __init__(self) -> None:
        self.ended = False
        self._value: Any = None
        self._error: BaseException | None = None

    def end(self, value: Any = None, error: BaseException | None = None) -> None:
        # A state carries its value; Prefect will put a record of its own in there.
        self.ended, self._value, self._error = True, value.data if isinstance(value, State) else value, error

    def get(self) -> R:
        if self._error is not None:
            raise self._error
        return self._value


_OUTCOME: ContextVar[_Outcome[Any] | None] = ContextVar("outcome", default=None)


def kept(body: Callable[P, R], failed: Callable[[ReportedError], Any]) -> Callable[P, Any]:
    """`body` for Prefect: its outcome is kept for `carry_out`, and what it raises becomes what `failed` returns."""

    @wraps(body)
    def call(*args: P.args, **options: P.kwargs) -> Any:
        outcome = _OUTCOME.get() or _Outcome()
        try:
            value = body(*args, **options)
        except Exception as error:  # noqa: BLE001 its caller gets it
            outcome.end(error=error)
            reported = ReportedError(
                redact(f"{type(error).__name__}: {error}"),
                kind=type(error),
                transient=isinstance(error, LsbError) and error.transient,
            )
        except BaseException as error:
            outcome.end(error=error)
            hurry()
            raise
        else:
            outcome.end(value)
            return value
        return failed(reported)

    # Prefect validates parameters by types that it would look up among this module's names.
    call.__annotations__ = get_type_hints(body)
    call.__signature__ = signature(body, eval_str=True)  # type: ignore[attr-defined]
    return call


def carry_out(under_prefect: Callable[[], Any], plainly: Callable[[], Any]) -> Any:
    """Run something whose body is `kept` under Prefect, or without it once its server is lost.

    Args:
        under_prefect: calls the task or the flow.
        plainly: does the same without Prefect.
    """
    if not lost():
        outcome: _Outcome[Any] = _Outcome()
        token = _OUTCOME.set(outcome)
        try:
            under_prefect()
        except Exception as error:
            if is_of_server(error):
                lose(error)
            elif not outcome.ended:
                raise
        finally:
            _OUTCOME.reset(token)
        if outcome.ended:
            return outcome.get()
    value = plainly()
    return value.data if isinstance(value, State) else value
