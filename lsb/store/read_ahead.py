"""Many objects read in order, several at a time: a store far away answers as fast as its requests overlap.

with read_ahead(keys, store.read) as answers:
    for key, answer in answers:
        data = answer()    # or the error that reading this one raised
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from itertools import islice
from typing import TypeVar

REQUESTS = 16  # in flight at a time, and answers that wait to be taken
HELD_BYTES = 256 << 20  # of answers that wait, where their sizes are known

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Answers = Iterator[tuple[Item, Callable[[], Answer]]]


@contextmanager
def read_ahead(
    items: Iterable[Item],
    read: Callable[[Item], Answer],
    *,
    requests: int | None = None,
    size: Callable[[Item], int] = lambda item: 0,
) -> Iterator[Answers[Item, Answer]]:
    """Each of `items`, in order, with what gives `read(item)` or raises what that raised.

    `read` is called in threads, in the caller's context. `items` are taken in the caller's own, no further ahead than
    is read, and nothing is begun any more once the block is left.

    Args:
        requests: how many calls there are at a time, REQUESTS by default; no more answers wait.
        size: bytes of an item's answer. Those that wait come to at most HELD_BYTES, or are one.
    """
    requests = requests or REQUESTS
    pool = ThreadPoolExecutor(requests, thread_name_prefix="read-ahead")
    try:
        yield _answers(iter(items), read, requests, size, pool)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # an answer may take as long as a store is waited for


def _answers(
    items: Iterator[Item],
    read: Callable[[Item], Answer],
    requests: int,
    size: Callable[[Item], int],
    pool: ThreadPoolExecutor,
) -> Answers[Item, Answer]:
    waiting: deque[tuple[Item, int, Future[Answer]]] = deque()
    held = 0
    coming = list(islice(items, 1))
    while waiting or coming:
        while coming and len(waiting) < requests:
            length = size(coming[0])
            if waiting and held + length > HELD_BYTES:
                break
            waiting.append((coming[0], length, pool.submit(copy_context().run, read, coming[0])))
            held += length
            coming = list(islice(items, 1))
        item, length, future = waiting.popleft()
        yield item, future.result
        held -= length
