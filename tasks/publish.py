"""Publish a snapshot: manifest, metrics, attestation and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lsb.config.job import JobConfig
from lsb.jobs.job import current_snapshot
from lsb.ledger.attestation import environment_signer
from lsb.ledger.publish import Snapshot, publish
from lsb.ledger.run import open_run
from lsb.pictures.optional import pictures_to_show
from lsb.store.store import open_store
from lsb.views.page_contents import page_of
from tasks.guarded.step import step


@step(name="publish")
def publish_run(
    config: JobConfig,
    run_id: str,
    metrics: Mapping[str, Any],
    partial: bool = False,
    named: bool = True,
    stopped: str | None = None,
) -> Snapshot:
    """A new snapshot of a run with these metrics; `partial`, `named`, `stopped` as `lsb.ledger.publish` has them."""
    store = open_store(config.store)
    run = open_run(store, run_id)
    truth = pictures_to_show(config.evaluate.truth) if config.evaluate.truth else None
    return publish(
        store,
        run,
        metrics,
        page_of(store, run, metrics, pictures_to_show(config.source.path), truth, stopped),
        partial=partial,
        stopped=stopped,
        named=named,
        signer=environment_signer(),
    )


@step(name="find-snapshot")
def find_snapshot(config: JobConfig, run_id: str, partial: bool = False, named: bool = True) -> Snapshot | None:
    """The snapshot that already says all there is to say about a run, or None."""
    store = open_store(config.store)
    return current_snapshot(
        store, open_run(store, run_id), config, partial=partial, named=named, signer=environment_signer()
    )
