"""Logs for machines: one JSON object a line, where LSB_LOG=json asks for it.

    {"timestamp": "2026-01-02T03:04:05.678Z", "level": "INFO", "logger": "lsb.translation.attempt",
     "message": "8 rows committed", "run": "…", "shard": "00003", "attempt": "…"}

`run`, `shard`, `attempt` and `record` stand there where they are known, `code` with what a row says, `exit_code` with a
command's last word, `exception` with a traceback. No secret is logged.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

from lsb.errors import UsageError
from lsb.observation import work_at_hand
from lsb.redaction import without_secrets

WANTED = "LSB_LOG"
FORMS = ("text", "json")
ABOUT = ("run", "shard", "attempt", "record", "code", "exit_code")
OURS = ("lsb", "flows", "tasks")  # loggers whose INFO is for whoever reads JSON


def json_wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether somebody asks for JSON."""
    return environment.get(WANTED) == "json"


def log_as_asked(environment: Mapping[str, str] = os.environ) -> None:
    """From now on this process logs JSON to standard error, if that is wanted. Called again after others, such as
    Prefect, have changed the handlers.

    Raises:
        UsageError: LSB_LOG asks for something else.
    """
    form = environment.get(WANTED) or "text"
    if form not in FORMS:
        raise UsageError(f"{WANTED} is {form!r}; set it to {' or '.join(FORMS)}")
    if form != "json":
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.root.handlers = [handler]
    logging.captureWarnings(True)
    for name in OURS:
        logger = logging.getLogger(name)
        logger.setLevel(min(logger.level or logging.INFO, logging.INFO))


class JsonFormatter(logging.Formatter):
    """A record as one line, whatever stands in its message."""

    tamed = True  # nothing in it steers a terminal

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "timestamp": when.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": without_secrets(record.getMessage()),
            **work_at_hand(),
        }
        line |= {name: getattr(record, name) for name in ABOUT if hasattr(record, name)}
        if record.exc_info:
            line["exception"] = without_secrets(self.formatException(record.exc_info))
        return json.dumps(line, default=str)
