"""The whole chain: ingest, optimise, plan, translate, evaluate, publish. Every stage resumes what is pending."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from prefect.states import Completed

from flows.retries import Retries, persistently
from flows.runners.learning import optimised
from flows.runners.runner import check_runner
from flows.shards import translate_pending
from flows.watching.artifacts import ArtifactProgress, show_failed_shards, show_report
from flows.watching.display import ManyProgress
from flows.watching.interruption import interruptible
from flows.watching.metrics import serve_as_asked
from flows.watching.run_log import LogProgress
from lsb.config.job import JobConfig, refuse_relative
from lsb.errors import BudgetExceededError, NotFoundError
from lsb.jobs.budget import over_budget
from lsb.jobs.job import (
    as_frozen,
    check_resumed,
    object_uri,
    refuse_changed_default,
    refuse_store_among_pictures,
)
from lsb.jobs.limits import refuse_beyond_model
from lsb.jobs.lineage import RunOptions
from lsb.jobs.measures import given_features, open_target, open_truth
from lsb.jobs.rerun import Chosen, what_is_left
from lsb.jobs.sizes import refuse_idle_area
from lsb.jobs.work.loop import ShardsOutcome, raise_what_failed
from lsb.ledger.attestation import environment_signer
from lsb.ledger.carrying import manifest_pieces, reference
from lsb.ledger.layout import run_folder
from lsb.ledger.publish import Snapshot
from lsb.ledger.run import Run, open_run
from lsb.logs import log_as_asked
from lsb.models.load import canvas_of, identify
from lsb.observation import Observer, observed_by, observer
from lsb.store.store import open_store
from lsb.store.untouched import about_to_work
from lsb.views.problems import COLUMNS, Problems
from tasks.evaluate import evaluate_run
from tasks.guarded.flow import observed
from tasks.ingest import ingest_source
from tasks.plan import plan_run
from tasks.publish import find_snapshot, publish_run

NAMED = 20  # pictures of one status and code that are named in Prefect's pages


@dataclass(frozen=True)
class JobResult:
    """What a job led to: URIs, counts, and a few words."""

    run: str
    snapshot: int
    snapshot_sha256: str  # kept elsewhere, it pins everything that was published: `lsb verify --snapshot`
    counts: dict[str, int]
    manifest: str
    metrics: str
    report: str
    translated: int  # images translated by this call
    carried: int  # records whose rows come from the runs before
    left_out: dict[str, int]  # entries of the source that were no records when the run was planned, by kind
    unmeasured: str | None = None  # why there are no measures, if there are none
    problems: tuple[str, ...] = ()  # pictures that something can be done about, a kind a line


@observed(name="translate-dataset", flow_run_name="{config.name}")
def translate_dataset(
    config: JobConfig, resume: str | None = None, options: RunOptions = RunOptions(), retries: Retries = 0
) -> JobResult:
    """Translate a data set and publish manifest, metrics and report.

    Args:
        config: the job; as a deployment's parameter with absolute paths or URIs.
        resume: id of a run that must be the one; otherwise data and settings decide.
        options: whether to carry what is unchanged, to learn prompts or read files anew, to go on though much of the
            source has vanished, or to take some records only.
        retries: how often all of it is tried again, five minutes later each, where a store or shards failed for now.

    Returns:
        JobResult; the flow ends as `CompletedWithFailures` if some records failed within the budget.

    Raises:
        ConfigError: these settings make all pictures anew, for a default alone that has changed.
        BudgetExceededError: more records failed or were quarantined than allowed, and everything is published; or more
            have vanished, and nothing was done.
        UnfinishedError: records without a row are left.
    """
    return persistently(partial(_translated, config, resume, options), retries)


def _translated(config: JobConfig, resume: str | None, options: RunOptions) -> JobResult:
    environment_signer()  # a key that cannot sign is better known now than after the last image
    refuse_relative(config)
    refuse_store_among_pictures(config)
    check_runner(config)
    if resume is None:
        refuse_surprise(config)
    else:  # so is that these settings are not the run's
        run = open_run(open_store(config.store), resume)
        check_resumed(run, config, identify(config.model, **config.model_options))
        config = as_frozen(config, run)
    open_target(config)  # and so is what is not there
    open_truth(config)
    given_features(config)
    with observing(config), interruptible():
        dataset = ingest_source(config, options.reread, options.accept_vanished)
        source = optimised(config, "source", options.refit, options.reread)
        target = optimised(config, "target", options.refit, options.reread)
        run = plan_run(config, dataset, source, target, resume, options)
        done = translate_all(config, run)
        snapshot = measured_snapshot(config, run, named=not done.over_budget, stopped=done.over_budget)
    return conclude(config, run, snapshot, done.translated, done.over_budget)


def refuse_surprise(config: JobConfig) -> None:
    """`refuse_beyond_model`, `refuse_idle_area`, and `refuse_changed_default` where there is a store yet."""
    refuse_beyond_model(config)
    refuse_idle_area(config.geometry, partial(canvas_of, config.model, **config.model_options))
    with suppress(NotFoundError):
        store = open_store(config.store)
        refuse_changed_default(store, config, partial(identify, config.model, **config.model_options))


def translate_all(config: JobConfig, run: Run, chosen: Chosen | None = None) -> ShardsOutcome:
    """Every pending record of a run, until the budget is spent; or what of a choice is still to be tried, all of it.

    Raises:
        LsbError: see `raise_what_failed`.
    """
    store = open_store(config.store)
    left = partial(what_is_left, store, run, chosen)
    if not left():
        return ShardsOutcome()
    about_to_work()
    outcome = translate_pending(config, run.id, left, watched=chosen is None)
    if outcome.failures:
        show_failed_shards(run.id, {shard: str(error) for shard, error in outcome.failures.items()})
    still = left()
    if outcome.over_budget is None or outcome.signal is not None:
        raise_what_failed(outcome, object_uri(store, run_folder(run.id)), still, run.plan["shards"])
    if not still:
        outcome.over_budget = None  # it came to its end all the same
    return outcome


def measured_snapshot(
    config: JobConfig, run: Run, *, partial: bool = False, named: bool = True, stopped: str | None = None
) -> Snapshot:
    """The snapshot that says all there is to say, see `lsb.ledger.publish`; measured if there is none yet."""
    found: Snapshot | None = find_snapshot(config, run.id, partial, named)
    if found is None:
        about_to_work()
    return found or publish_run(config, run.id, evaluate_run(config, run.id, or_say_why=True), partial, named, stopped)


def conclude(config: JobConfig, run: Run, snapshot: Snapshot, translated: int, stopped: str | None = None) -> JobResult:
    """The result, as a state that says whether records failed.

    Args:
        stopped: why the run was stopped before its end.

    Raises:
        BudgetExceededError: too many of them, at the end or so that the run was stopped; or it was, for its cost.
    """
    store = open_store(config.store)
    uri = object_uri(store, run_folder(run.id))
    problems = Problems(NAMED)
    for rows in manifest_pieces(store, reference(snapshot), columns=list(COLUMNS)):
        problems.add(rows)
    groups = problems.groups(uri)
    result = JobResult(
        run=uri,
        snapshot=snapshot.number,
        snapshot_sha256=snapshot.sha256,
        counts=dict(snapshot.counts),
        manifest=object_uri(store, snapshot.manifest_key),
        metrics=object_uri(store, snapshot.metrics_key),
        report=object_uri(store, snapshot.report_key),
        translated=translated,
        carried=run.plan.get("carried", 0),
        left_out=dict(run.left_out or {}),
        unmeasured=json.loads(store.read(snapshot.metrics_key)).get("unmeasured"),
        problems=tuple(group.line() for group in groups if group.command),
    )
    show_report(run.id, result.report, result.counts, result.left_out, groups)
    if excess := over_budget(config.budget, result.counts, snapshot.planned) or stopped:
        raise BudgetExceededError(
            (f"stopped with {snapshot.missing} records left: " if snapshot.missing else "")
            + f"{excess}; everything so far is published, see {result.report}"
            + ("; with a larger budget, run again to go on" if snapshot.missing else "")
        )
    if failed := result.counts.get("failed", 0):
        # Prefect shows the state and hands the caller its data.
        state: Any = Completed(
            name="CompletedWithFailures", message=f"{failed} records failed, within the budget", data=result
        )
        return cast(JobResult, state)
    return result


def observing(config: JobConfig) -> Any:
    """Progress goes to the caller's display, to Prefect's pages and to the flow run's log; logs and figures of this
    process, which may be one of a worker of Prefect's, to whoever asks for them."""
    log_as_asked()
    serve_as_asked()
    outer = observer()
    shown = ManyProgress([outer.progress, ArtifactProgress(config.name), LogProgress()])
    return observed_by(Observer(shown, outer.stop))
