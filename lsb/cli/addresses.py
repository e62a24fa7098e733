"""What a RUN argument of a command names, and how a command names a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lsb.config.job import JobConfig
from lsb.errors import UsageError

if TYPE_CHECKING:
    from lsb.store.store import Store


def open_store_of(run: str) -> tuple[Store, str]:
    """The store that a run's URI lies in, and the run's id."""
    from lsb.ledger.layout import parse_run_uri
    from lsb.store.store import open_store

    root, run_id = parse_run_uri(run)
    return open_store(root), run_id


def names_a_run(text: str) -> bool:
    """Whether it has the form of a run's URI."""
    from lsb.ledger.layout import parse_run_uri

    try:
        parse_run_uri(text)
    except UsageError:
        return False
    return True


def run_in(job: JobConfig, run: str | None) -> str | None:
    """The id of a run of the job's store, named by its URI or by the id alone.

    Raises:
        UsageError: the URI lies in another store.
    """
    if run is None or "/" not in run:
        return run
    from lsb.store.store import open_store

    store, run_id = open_store_of(run)
    if store.uri != open_store(job.store).uri:
        raise UsageError(f"run {run} is not in this job's store {job.store}; give one that is")
    return run_id


def run_uri(job: JobConfig, run_id: str) -> str:
    """The URI of a run of the job's store."""
    from lsb.jobs.job import object_uri
    from lsb.ledger.layout import run_folder
    from lsb.store.store import open_store

    return object_uri(open_store(job.store), run_folder(run_id))
