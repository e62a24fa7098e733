"""A whole flow tried again by itself, for runs that nobody watches."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Annotated, TypeVar

from pydantic import Field

from flows.watching.run_log import say
from lsb.errors import LsbError, ShardsFailedError, StoreError
from lsb.redaction import redact

R = TypeVar("R")
Retries = Annotated[int, Field(ge=0, le=20)]

WAIT_SECONDS = 300.0


def persistently(work: Callable[[], R], retries: int, wait: Callable[[float], None] = time.sleep) -> R:
    """Do the work, up to `retries` times more where a store or some shards failed for now, `WAIT_SECONDS` apart.

    It begins with what is committed by then. The flow stays Running meanwhile, and so keeps its place in a queue of
    Prefect. Whatever else ends it, such as a signal, a spent budget or a wrong setting, ends it at once.
    """
    for tried in range(retries):
        try:
            return work()
        except LsbError as error:
            if not _may_pass(error):
                raise
            reason = redact(f"{type(error).__name__}: {error.message}")
            left = f"{retries - tried} tries are left"
            say(f"{reason}; tried again in {WAIT_SECONDS:.0f} s, {left}", logging.WARNING)
        wait(WAIT_SECONDS)
    return work()


def _may_pass(error: LsbError) -> bool:
    of_the_store = isinstance(error, StoreError) and not error.details.get("key")
    return error.transient or isinstance(error, ShardsFailedError) or of_the_store
