"""Take a folder of images into the store's ledger."""

from __future__ import annotations

from lsb.config.job import JobConfig
from lsb.jobs.job import refuse_store_among_pictures
from lsb.jobs.vanished import refuse_vanished
from lsb.ledger.dataset import Dataset
from lsb.observation import observer
from lsb.pictures.ingest import ingest
from lsb.pictures.sources import open_sources
from lsb.store.store import open_store
from tasks.guarded.step import step


@step(name="ingest", task_run_name="ingest-{config.source.domain}")
def ingest_source(config: JobConfig, reread: bool = False, accept_vanished: bool = False) -> Dataset:
    """The data set of the images to translate, in a store that was found fit for concurrent writers.

    Args:
        reread: read every file, whatever is known of it.
        accept_vanished: go on however many records the source has lost.
    """
    refuse_store_among_pictures(config)
    store = open_store(config.store, create=True)
    store.check()
    sources = open_sources(config.source.path)
    return ingest(
        sources,
        config.source.domain,
        store,
        read="anew" if reread else config.source.read,
        choice=config.source.choice,
        rules=config.geometry.decoding_rules,
        listed=refuse_vanished(store, config, accepted=accept_vanished),
        progress=observer().progress,
    )
