"""Whether a source has lost so much since the last snapshot, or since a plan, that it is hardly all there."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from lsb.config.job import JobConfig
from lsb.errors import BudgetExceededError, TamperedError, UnverifiableError, UsageError
from lsb.ledger.log.snapshots import job_chain
from lsb.ledger.plan import read_plan
from lsb.ledger.run import Run, open_run
from lsb.pictures.sources import list_sources, open_sources
from lsb.store.store import Store

logger = logging.getLogger(__name__)


def refuse_vanished(store: Store, config: JobConfig, *, accepted: bool = False) -> Callable[[pa.ChunkedArray], None]:
    """A check of the record ids that a listing of the source gave, for `lsb.pictures.ingest.ingest`.

    It raises BudgetExceededError if more of the records of the run that the job's name stands for have vanished than
    `budget.max_vanished_fraction` allows; with `accepted` never. A run that cannot be read is no measure: whether to go
    on from it is for the plan to say.
    """

    def check(records: pa.ChunkedArray) -> None:
        try:
            run = None if accepted else _last_run(store, config)
            if run is None:
                return
            before = read_plan(store, run, columns=["record_id"])["record_id"]
        except (TamperedError, UnverifiableError, UsageError) as error:
            logger.warning("how much of %s has vanished cannot be told: %s", config.source.path, error)
            return
        _compare(config, before, records, f"run {run.id}, the job's last snapshot,", "done", "lsb run")

    return check


def refuse_to_translate(store: Store, config: JobConfig, run: Run) -> None:
    """Refuse to translate a run of whose records the source has lost more than `budget.max_vanished_fraction` allows.

    Raises:
        BudgetExceededError: it has.
        SourceError: the source cannot be listed.
    """
    listing = list_sources(open_sources(config.source.path), config.source.choice)
    there = listing.files.record_ids
    planned = read_plan(store, run, columns=["record_id"])["record_id"]
    _compare(config, planned, there, f"run {run.id}", "translated", "lsb translate")


def _compare(
    config: JobConfig, before: pa.ChunkedArray, records: pa.ChunkedArray, of_what: str, act: str, command: str
) -> None:
    there = pc.sum(pc.is_in(before, records.combine_chunks())).as_py() or 0
    gone, allowed = len(before) - there, config.budget.max_vanished_fraction
    if gone > allowed * len(before):
        raise BudgetExceededError(
            f"{gone} of the {len(before)} records of {of_what} are no longer at "
            f"{config.source.path} ({gone / len(before):.1%}), budget.max_vanished_fraction allows {allowed:.1%}; "
            f"nothing was {act}: see whether the folder is mounted, or go on with `{command} --accept-vanished`"
        )


def _last_run(store: Store, config: JobConfig) -> Run | None:
    """The newest run that the job's name stood for over a data set of the same name."""
    seen = set()
    for link in reversed(job_chain(store, config.name).links()):
        name = link.document["run"]
        if name not in seen and (run := open_run(store, name)).dataset["name"] == config.source.domain:
            return run
        seen.add(name)
    return None
