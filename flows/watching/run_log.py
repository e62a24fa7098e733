"""What stands in the log that Prefect keeps of a flow run: how far it is, and what it says of itself."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from flows.watching.display import LineProgress

SECONDS_BETWEEN_LINES = 60.0


class LogProgress(LineProgress):
    """A line in the log when something starts, every minute, and when it ends."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(io.StringIO(), clock, every=SECONDS_BETWEEN_LINES)

    def _say(self, text: str) -> None:
        say(text)


def say(text: str, level: int = logging.INFO) -> None:
    """A line in the log of the flow run that this is called in."""
    logger: logging.Logger | logging.LoggerAdapter[logging.Logger]
    try:
        logger = get_run_logger()
    except MissingContextError:  # Prefect's server is lost, and the work goes on without it
        logger = logging.getLogger("lsb.run")
    logger.log(level, "%s", text)
