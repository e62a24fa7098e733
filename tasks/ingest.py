"""Take a folder of images into the store's ledger."""

from __future__ import annotations

from prefect import task

from lsb.config import JobConfig
from lsb.ingest import Dataset, ingest, open_sources
from lsb.job import refuse_store_among_pictures
from lsb.storage.store import open_store
from tasks.observation import observer
from tasks.retrying import TASK_OPTIONS


@task(name="ingest", task_run_name="ingest-{config.source.domain}", **TASK_OPTIONS)
def ingest_source(config: JobConfig) -> Dataset:
    """The data set of the images to translate, in a store that was found fit for concurrent writers."""
    refuse_store_among_pictures(config)
    store = open_store(config.store, create=True)
    store.check()
    sources = open_sources(config.source.path)
    return ingest(sources, config.source.domain, store, read=config.source.read, progress=observer().progress)
