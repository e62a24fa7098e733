"""Measure what a run has made."""

from __future__ import annotations

from typing import Any

from prefect import task

from lsb.config import JobConfig
from lsb.ingest import open_sources
from lsb.job import evaluation_settings
from lsb.metrics.evaluation import evaluate
from lsb.sharding import open_run
from lsb.storage.store import open_store
from tasks.observation import observer
from tasks.retrying import TASK_OPTIONS
from tasks.worker import backbone_for, extractor_for


@task(name="evaluate", **TASK_OPTIONS)
def evaluate_run(config: JobConfig, run_id: str) -> dict[str, Any]:
    """The content of metrics.json for what is committed."""
    store = open_store(config.store)
    run = open_run(store, run_id)
    measures = evaluate(
        store,
        run,
        open_sources(config.source.path),
        open_sources(config.evaluate.target) if config.evaluate.target else None,
        open_sources(config.evaluate.truth) if config.evaluate.truth else None,
        backbone_for(config, run),
        extractor_for(config),
        config.evaluate.sample,
        progress=observer().progress,
    )
    return {**measures, "settings": evaluation_settings(config)}
