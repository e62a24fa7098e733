"""Who watches a run from outside: a progress display, a wish to stop, a count. None is a parameter of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from lsb.progress import NoProgress, Progress


def _never() -> bool:
    return False


def _nothing(shard: str, counts: Mapping[str, int]) -> None:
    del shard, counts


@dataclass(frozen=True)
class Observer:
    """`stop()` is asked between batches; once true, work ends with what is committed.

    `committed(shard, counts)` is told a shard's rows by status after each commit.
    """

    progress: Progress = field(default_factory=NoProgress)
    stop: Callable[[], bool] = _never
    committed: Callable[[str, Mapping[str, int]], None] = _nothing


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


_WORK: ContextVar[Mapping[str, str]] = ContextVar("work")


@contextmanager
def at_work_on(**names: str) -> Iterator[None]:
    """What is done inside is about this run, shard, attempt or record, as logs may say beside each line."""
    token = _WORK.set({**work_at_hand(), **names})
    try:
        yield
    finally:
        _WORK.reset(token)


def work_at_hand() -> Mapping[str, str]:
    """What the current context is about."""
    return _WORK.get({})
