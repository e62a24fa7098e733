"""Freeze what a run is: data set, transform and shards."""

from __future__ import annotations

from lsb.config.job import JobConfig
from lsb.jobs.job import run_spec
from lsb.jobs.lineage import RunOptions, negative_of_job, planned_as, restriction
from lsb.ledger.attestation import environment_signer
from lsb.ledger.dataset import Dataset
from lsb.ledger.run import Run, check_frozen, open_run
from lsb.models.load import identify
from lsb.prompts.finding import StoredPrompt
from lsb.store.store import open_store
from tasks.guarded.step import step


@step(name="plan")
def plan_run(
    config: JobConfig,
    dataset: Dataset,
    source: StoredPrompt,
    target: StoredPrompt,
    resume: str | None = None,
    options: RunOptions = RunOptions(),
) -> Run:
    """The run of these settings, made if it does not exist. What a run before it that was cut off has committed is
    published first, if the new one goes on from it.

    Args:
        resume: id of a run that must be the one; FrozenSettingsError names what differs.
    """
    store = open_store(config.store)
    identity = identify(config.model, **config.model_options)
    only = restriction(store, options)
    negative = negative_of_job(store, config)
    spec = run_spec(config, dataset, source, target, identity, negative=negative, fresh=options.fresh, only=only)
    if resume is None:
        return planned_as(store, spec, environment_signer())
    run = open_run(store, resume)
    check_frozen(run, spec)
    return run
