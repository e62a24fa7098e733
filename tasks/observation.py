"""Who watches a run from outside: a progress display, and a wish to stop. Neither is a parameter of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from lsb.progress import NoProgress, Progress


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Observer:
    """`stop()` is asked between batches; once true, work ends with what is committed."""

    progress: Progress = field(default_factory=NoProgress)
    stop: Callable[[], bool] = _never


_OBSERVER: ContextVar[Observer] = ContextVar("observer")


def observer() -> Observer:
    """The observer of the current context; one that does nothing if there is none."""
    return _OBSERVER.get(Observer())


@contextmanager
def observed_by(watching: Observer) -> Iterator[None]:
    """Tasks called inside report to `watching`."""
    token = _OBSERVER.set(watching)
    try:
        yield
    finally:
        _OBSERVER.reset(token)


def observe_from_now_on(watching: Observer) -> None:
    """For a process of a pool, whose observer lasts as long as the process."""
    _OBSERVER.set(watching)
