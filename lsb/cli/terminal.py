"""What reaches the terminal from elsewhere: names of files, errors and log lines of libraries.

Nothing in them steers the terminal or passes for a line of ours, and no secret is printed.
"""

from __future__ import annotations

import io
import logging
import sys
import warnings
from typing import TextIO

from lsb.logs import json_wanted, log_as_asked
from lsb.redaction import visible, without_secrets


def tamed(text: str) -> str:
    """`text` line by line, without secrets and with every character that is not printed made visible."""
    return "\n".join(visible(line) for line in without_secrets(text).split("\n"))


def tame_terminal() -> None:
    """Whatever warns or logs in this process prints one tamed line; no character stops the output."""
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    tame_logs()


def tame_logs() -> None:
    """Every handler that there is now gives tamed lines: Python's own of last resort, and those that Prefect made.
    Where JSON is wanted, it takes the root's place."""
    if json_wanted():
        log_as_asked()
    loggers = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    handlers = [handler for logger in (logging.root, *loggers) for handler in logger.handlers]
    for handler in (logging.lastResort, *handlers):
        if handler is not None and not getattr(handler.formatter, "tamed", False):
            handler.setFormatter(_Tamed(handler.formatter))


class _Tamed(logging.Formatter):
    tamed = True

    def __init__(self, inner: logging.Formatter | None) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        return tamed(self._inner.format(record))


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """One line, without the place in the library's code."""
    del filename, lineno, line
    text = " ".join(tamed(str(message)).split())
    (file or sys.stderr).write(f"lsb: warning: {category.__name__}: {text}\n")
