"""What may succeed a moment later is tried again, as often and as patiently as Prefect would."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from lsb.errors import LsbError

R = TypeVar("R")

RETRIES = 4
FIRST_DELAY_SECONDS = 1.0
JITTER = 0.5


def retried(work: Callable[[], R]) -> R:
    """What `work` returns, or its first error that is not transient, or the last one that is."""
    for tried in range(RETRIES):
        try:
            return work()
        except LsbError as error:
            if not error.transient:
                raise
        time.sleep(FIRST_DELAY_SECONDS * 2**tried * (1 + JITTER * random.random()))  # noqa: S311
    return work()
