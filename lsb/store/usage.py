"""What stores and sources are asked for, counted where they are asked.

    with counted() as usage:
        store.read(key)
    usage.requests, usage.bytes_read

Inside, and in threads to which the context is handed on; every block that is open counts. On S3 each request counts,
those that are sent again and each page of a listing included. On a folder each object that is read, written, looked
for, listed or deleted counts as one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import astuple, dataclass


@dataclass
class Usage:
    """Requests, and the bytes of objects that they read and wrote; names and other heads of requests are no part."""

    requests: int = 0
    bytes_read: int = 0
    bytes_written: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Usage) -> Usage:
        return Usage(*(one - two for one, two in zip(astuple(self), astuple(other), strict=True)))


def total(parts: Iterable[Usage | None]) -> Usage | None:
    """Their sum; None if one of them is not known."""
    known = Usage()
    for part in parts:
        if part is None:
            return None
        known += part
    return known


_LOCK = threading.Lock()
_COUNTING: ContextVar[tuple[Usage, ...]] = ContextVar("counting", default=())
_PROCESS = Usage()


@contextmanager
def counted() -> Iterator[Usage]:
    """What is asked for inside; it may be looked at before the end."""
    usage = Usage()
    token = _COUNTING.set((*_COUNTING.get(), usage))
    try:
        yield usage
    finally:
        _COUNTING.reset(token)


def count(requests: int = 1, *, read: int = 0, written: int = 0) -> None:
    """Called by whatever asks a store; `read` and `written` are bytes."""
    with _LOCK:
        for usage in (_PROCESS, *_COUNTING.get()):
            usage.requests += requests
            usage.bytes_read += read
            usage.bytes_written += written


def of_this_process() -> Usage:
    """All of it, since the process began."""
    with _LOCK:
        return _PROCESS + Usage()
