"""Each stage of the chain as a flow of its own. A stage finds what those before it left in the store."""

from __future__ import annotations

from dataclasses import dataclass

from flows.runners.learning import optimised
from flows.runners.runner import check_runner
from flows.translate import JobResult, conclude, measured_snapshot, observing, refuse_surprise, translate_all
from flows.watching.interruption import interruptible
from lsb.config.job import JobConfig
from lsb.errors import BudgetExceededError
from lsb.jobs.job import as_here, check_device, check_resumed, may_take_the_name, planned_run
from lsb.jobs.lineage import prompts_of_job
from lsb.jobs.vanished import refuse_to_translate
from lsb.jobs.work.accounts import why_stopped
from lsb.ledger.dataset import Dataset
from lsb.ledger.run import Run, open_run, pending
from lsb.metrics.table import Measures
from lsb.models.load import identify
from lsb.prompts.finding import StoredPrompt
from lsb.store.store import open_store
from tasks.evaluate import evaluate_run
from tasks.guarded.flow import observed
from tasks.ingest import ingest_source
from tasks.plan import plan_run


@dataclass(frozen=True)
class Translated:
    """What a call has translated, and of which run."""

    run: str
    translated: int  # images


@observed(name="ingest")
def ingest_only(config: JobConfig) -> Dataset:
    """Take the source images into the ledger."""
    with observing(config), interruptible():
        return ingest_source(config)


@observed(name="optimise")
def optimise_only(config: JobConfig) -> list[StoredPrompt]:
    """Provide both domains' prompts."""
    check_runner(config)
    refuse_surprise(config)
    with observing(config), interruptible():
        return [optimised(config, "source"), optimised(config, "target")]


@observed(name="plan")
def plan_only(config: JobConfig) -> Run:
    """Freeze the run that data and settings stand for; the prompts must be there."""
    refuse_surprise(config)
    with observing(config), interruptible():
        dataset = ingest_source(config)
        identity = identify(config.model, **config.model_options)
        return plan_run(config, dataset, *prompts_of_job(open_store(config.store), config, identity))


@observed(name="translate")
def translate_only(config: JobConfig, resume: str | None = None, accept_vanished: bool = False) -> Translated:
    """Translate every pending shard of the planned run.

    Args:
        accept_vanished: go on however many of the run's records the source has lost.

    Raises:
        BudgetExceededError: so many records failed or were quarantined that it stopped; or so many have vanished that
            it did nothing.
    """
    check_runner(config)
    run = _planned(config, resume)
    store = open_store(config.store)
    if not accept_vanished and pending(store, run):
        refuse_to_translate(store, config, run)
    with observing(config), interruptible():
        done = translate_all(config, run)
    if done.over_budget is not None:
        raise BudgetExceededError(f"{done.over_budget}; what is done is committed, and it goes on with a larger budget")
    return Translated(run.id, done.translated)


@observed(name="evaluate")
def evaluate_only(config: JobConfig, resume: str | None = None) -> Measures:
    """Measure what is committed of the planned run. Publishes nothing."""
    check_device(as_here(config))
    run = _planned(config, resume)
    with observing(config), interruptible():
        return evaluate_run(config, run.id)


@observed(name="publish")
def publish_only(config: JobConfig, resume: str | None = None) -> JobResult:
    """Evaluate and publish the planned run, unless a snapshot says all of it already.

    Args:
        resume: id of a run that is meant instead; the job's name never goes back to it from a newer one.

    Raises:
        IncompleteError: records have no row yet.
        BudgetExceededError: the budget is spent. What there is is published, whether or not it is all.
    """
    run = _planned(config, resume)
    store = open_store(config.store)
    with observing(config), interruptible():
        stopped = why_stopped(store, run, config.budget)
        named = stopped is None and (resume is None or may_take_the_name(store, run))
        snapshot = measured_snapshot(config, run, named=named, stopped=stopped)
    return conclude(config, run, snapshot, 0, stopped)


def _planned(config: JobConfig, resume: str | None) -> Run:
    store = open_store(config.store)
    identity = identify(config.model, **config.model_options)
    if resume is None:
        return planned_run(store, config, identity)
    run = open_run(store, resume)
    check_resumed(run, config, identity)
    return run
