"""Measure what a run has made."""

from __future__ import annotations

from lsb.config.job import JobConfig
from lsb.errors import LsbError, SourceError, StoreError, UsageError
from lsb.jobs.job import as_here
from lsb.jobs.measures import evaluation_settings, open_target, open_truth, unmeasured
from lsb.ledger.run import open_run
from lsb.metrics.table import Measures
from lsb.observation import observer
from lsb.pictures.sources import open_sources
from lsb.redaction import redact
from lsb.store.store import open_store
from tasks.guarded.step import step


@step(name="evaluate")
def evaluate_run(config: JobConfig, run_id: str, or_say_why: bool = False) -> Measures:
    """The content of metrics.json for what is committed.

    Args:
        or_say_why: where measuring fails and would fail again, the result says so and nothing is raised.
    """
    if not config.evaluate.measure:
        return unmeasured(config, "evaluate.measure is false")
    try:
        return _measures(config, run_id)
    except Exception as error:
        if not or_say_why or _may_pass(error):
            raise
        return unmeasured(config, redact(f"measuring failed: {type(error).__name__}: {error}"))


def _measures(config: JobConfig, run_id: str) -> Measures:
    # With these come torch and torchmetrics, and what is measured already needs none of them.
    from lsb.jobs.hearing import heard_for_page
    from lsb.jobs.loading import backbone_for, extractor_for
    from lsb.metrics.evaluation import evaluate

    store = open_store(config.store)
    run = open_run(store, run_id)
    here = as_here(config)
    backbone = backbone_for(here, run)
    measures = evaluate(
        store,
        run,
        open_sources(config.source.path),
        open_target(config),
        open_truth(config),
        backbone,
        extractor_for(here),
        config.evaluate.sample,
        progress=observer().progress,
    )
    if heard := heard_for_page(config, run, store, backbone):
        measures["listening"] = heard
    return {**measures, "settings": evaluation_settings(config)}


def _may_pass(error: Exception) -> bool:
    """Whether somebody has only to put something right, such as a disk that is away, and measuring succeeds."""
    if isinstance(error, StoreError):
        return not error.of_object
    return isinstance(error, (SourceError, UsageError)) or (isinstance(error, LsbError) and error.transient)
