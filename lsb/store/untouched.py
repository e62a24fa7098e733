"""Finding out whether there is anything to do, by doing it where nothing may be changed.

    with only_looking():
        do_it()    # SomethingToDo from the first write to a store, or the first picture that is read

What comes to its end inside had nothing to do, and its result is the one that it would have had.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn

_LOOKING: ContextVar[bool] = ContextVar("looking", default=False)


class SomethingToDo(BaseException):
    """Not an Exception, so that nobody on the way takes it for a failure of the work."""


@contextmanager
def only_looking() -> Iterator[None]:
    """Inside, and in no other thread's context, stores that are opened refuse to be changed."""
    token = _LOOKING.set(True)
    try:
        yield
    finally:
        _LOOKING.reset(token)


def looking() -> bool:
    """Whether somebody only wants to know if there is anything to do."""
    return _LOOKING.get()


def about_to_work() -> None:
    """Called before what takes long and changes no store at first; SomethingToDo where somebody is only looking."""
    if looking():
        raise SomethingToDo


def unchanged(store: Any) -> Any:
    """A store that was just opened. Where somebody is only looking it refuses to be changed, and proves nothing."""
    if looking():
        store.write = store.create = store.delete = _refuse
        store.check = lambda: None
    return store


def unread(sources: Any) -> Any:
    """A source that was just opened. Where somebody is only looking it refuses to give pictures."""
    if looking():
        sources.read = _refuse
    return sources


def _refuse(*arguments: object, **options: object) -> NoReturn:
    raise SomethingToDo
