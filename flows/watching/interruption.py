"""What SIGTERM and Ctrl-C mean to a run.

While images are translated the first signal is a wish: the current batch ends, what is done is committed, the run
says how to go on. At any other time, and the second time, it ends the run at once; whatever is committed stays.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Terminated(BaseException):
    """SIGTERM outside translation. Not an Exception, so that no image is blamed for it."""


class Interruption:
    """A wish to stop, set by a signal. `interruption()` tells whether there is one."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._patient = False

    def __call__(self) -> bool:
        return self.signal is not None

    @contextmanager
    def patience(self) -> Iterator[None]:
        """Inside, the first signal only makes the wish known."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def receive(self, number: int, frame: FrameType | None = None) -> None:
        """Signal handler."""
        again = self.signal is not None
        self.signal = number
        if again or not self._patient:
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Handle SIGTERM and SIGINT until the block ends. Outside the main thread nothing is installed."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before: dict[int, Any] = {number: signal.signal(number, interruption.receive) for number in SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
