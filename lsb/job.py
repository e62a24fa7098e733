"""From a job's configuration to the run that it stands for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lsb.attestation import Signer
from lsb.config import BudgetConfig, JobConfig
from lsb.domains import StoredPrompt, find_prompt
from lsb.errors import BudgetExceededError, UsageError
from lsb.ingest import Dataset, ingest, open_sources
from lsb.models.protocol import ModelIdentity
from lsb.progress import NoProgress, Progress
from lsb.publish import Snapshot, latest_snapshot, publish
from lsb.sharding import Run, RunSpec, open_run, run_id
from lsb.status import status
from lsb.storage.layout import run_file
from lsb.storage.store import Store
from lsb.transform import transform_settings


def run_spec(
    config: JobConfig, dataset: Dataset, source: StoredPrompt, target: StoredPrompt, identity: ModelIdentity
) -> RunSpec:
    """What is frozen of a job: data set, transform and plan settings. Workers and gates are not."""
    transform = transform_settings(
        identity, source.id, target.id, config.bridge, config.seed, config.execution.dtype, config.output.format
    )
    return RunSpec(
        job=config.name,
        dataset=dataset,
        transform=transform,
        model=identity,
        shard_size=config.execution.shard_size,
        prompts={"source": source.key, "target": target.key},
        source=config.source.path,
        truth=config.evaluate.truth,
        target=config.evaluate.target,
    )


def object_uri(store: Store, key: str) -> str:
    """Where an object or a folder of a store lies, for people to open."""
    return f"{store.uri.rstrip('/')}/{key}"


def budget_exceeded(budget: BudgetConfig, counts: Mapping[str, int], report: str) -> BudgetExceededError | None:
    """The error to end with if more records failed or were quarantined than the budget allows, else None.

    Args:
        counts: records by status.
        report: where to read about them.
    """
    total = sum(counts.values())
    for kind, allowed in (("failed", budget.max_failed_fraction), ("quarantined", budget.max_quarantined_fraction)):
        share = counts.get(kind, 0) / total if total else 0.0
        if share > allowed:
            return BudgetExceededError(
                f"{counts[kind]} of {total} records {kind} ({share:.1%}), budget.max_{kind}_fraction allows "
                f"{allowed:.1%}; everything is published, see {report}",
                status=kind,
                share=share,
            )
    return None


def evaluation_settings(config: JobConfig) -> dict[str, Any]:
    """What the metrics were measured with, apart from the run. Kept in metrics.json."""
    return config.evaluate.model_dump(mode="json")


def current_snapshot(store: Store, run: Run, config: JobConfig, signer: Signer | None = None) -> Snapshot | None:
    """The latest snapshot, if nothing has changed since: neither what is committed nor how it is measured."""
    snapshot = latest_snapshot(store, run)
    if snapshot is None:
        return None
    records = status(store, run).records
    if {name: n for name, n in records.items() if n} != {name: n for name, n in snapshot.counts.items() if n}:
        return None
    metrics = json.loads(store.read(snapshot.metrics_key))
    if metrics.get("settings") != evaluation_settings(config):
        return None
    # Writes nothing but the job's entry, should the process have died between the two; or signs what is not signed.
    return publish(store, run, metrics, store.read(snapshot.report_key), signer=signer)


def stored_prompts(
    store: Store, config: JobConfig, identity: ModelIdentity, progress: Progress = NoProgress()
) -> tuple[StoredPrompt, StoredPrompt] | None:
    """Source's and target's prompts if both are there; None if one has yet to be learned."""
    source = find_prompt(store, config, "source", identity, progress=progress)
    target = find_prompt(store, config, "target", identity, progress=progress)
    return None if source is None or target is None else (source, target)


def planned_run(store: Store, config: JobConfig, identity: ModelIdentity) -> Run:
    """The run that data and settings stand for, as they are now.

    Raises:
        UsageError: it has not been planned.
    """
    sources = open_sources(config.source.path)
    dataset = ingest(sources, config.source.domain, store, read=config.source.read)
    prompts = stored_prompts(store, config, identity)
    if prompts is None:
        raise UsageError("the prompts of this job have not been learned yet; run `lsb optimise` on it first")
    spec = run_spec(config, dataset, *prompts, identity)
    if not store.exists(run_file(run_id(spec))):
        raise UsageError(f"run {run_id(spec)} has not been planned yet; run `lsb plan` on this job first")
    return open_run(store, run_id(spec))
