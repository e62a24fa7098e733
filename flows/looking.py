"""A job of which nothing is left to do, found out before Prefect's server is started for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, cast

from lsb.config.job import JobConfig
from lsb.errors import LsbError
from lsb.jobs.lineage import RunOptions
from lsb.ledger.log.snapshots import current_run
from lsb.ledger.publish import latest_snapshot
from lsb.ledger.run import open_run
from lsb.observation import Observer, observed_by
from lsb.store.store import open_store
from lsb.store.untouched import SomethingToDo, only_looking

if TYPE_CHECKING:
    from flows.translate import JobResult

RECORDS = 20_000  # of a larger job, the server has started before all is looked at


def result_of_nothing(config: JobConfig, resume: str | None, options: RunOptions) -> JobResult | None:
    """What the flow comes to where it has nothing to do; None where it has, or where that cannot be told.

    The flow itself is run, without Prefect, where stores refuse to be changed and sources to be read. What it says goes
    to the log only if it comes to its end; whatever stops it is found again by whoever does the work.
    """
    if not _looks_done(config):
        return None
    # With these comes Prefect; of a job that has something to do they are imported while its server starts.
    from flows.translate import translate_dataset
    from tasks.guarded.connection import unconnected

    quietly = observed_by(Observer())
    with suppress(SomethingToDo, Exception), _held_back_logs(), quietly, only_looking(), unconnected():
        return cast("JobResult", translate_dataset(config, resume, options))
    return None


def _looks_done(config: JobConfig) -> bool:
    """Whether the run that the job's name stands for lacks nothing, and is small."""
    try:
        store = open_store(config.store)
        name = current_run(store, config.name)
        snapshot = None if name is None else latest_snapshot(store, open_run(store, name))
    except LsbError:
        return False
    return snapshot is not None and snapshot.planned <= RECORDS and not snapshot.missing


@contextmanager
def _held_back_logs() -> Iterator[None]:
    """What is logged inside is logged at the end of the block, unless it is left by an error."""
    held: list[logging.LogRecord] = []

    class Holding(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            held.append(record)

    root = logging.getLogger()
    before, root.handlers = root.handlers, [Holding()]
    try:
        yield
    finally:
        root.handlers = before
    for record in held:
        logging.getLogger(record.name).handle(record)
