"""Try records of a run again: what failed, what has no row yet, or what somebody chose."""

from __future__ import annotations

from flows.translate import JobResult, conclude, measured_snapshot, observing, translate_all
from flows.watching.interruption import interruptible
from lsb.config.job import JobConfig
from lsb.errors import UnfinishedError
from lsb.jobs.job import check_device, check_same_transform, may_take_the_name
from lsb.jobs.rerun import choose
from lsb.ledger.run import open_run, pending
from lsb.ledger.selection import Selection
from lsb.models.load import identify
from lsb.store.store import open_store
from tasks.guarded.flow import observed


@observed(name="rerun", flow_run_name="rerun-{run_id}")
def rerun_records(config: JobConfig, run_id: str, selection: Selection = Selection()) -> JobResult:
    """Try the chosen records again and publish a new snapshot.

    Args:
        config: settings of the run; those that are not frozen, such as workers and batch, may differ.
        selection: which records; by default those without a row and the retryable failures.

    Raises:
        FrozenSettingsError: these settings or this model would make other images than the run's.
        UnfinishedError: a chosen record was not tried, or others of the run have no row yet.
        BudgetExceededError: more records failed or were quarantined than allowed; everything is published.
    """
    check_device(config)
    store = open_store(config.store)
    run = open_run(store, run_id)
    check_same_transform(run, config, identify(config.model, **config.model_options))
    with observing(config), interruptible():
        done = translate_all(config, run, choose(store, run, selection))
        named = not pending(store, run) and may_take_the_name(store, run)
        snapshot = measured_snapshot(config, run, partial=True, named=named)
    result = conclude(config, run, snapshot, done.translated)
    if snapshot.missing:
        raise UnfinishedError(
            f"what was chosen is done and published; {snapshot.missing} other records of run {run.id} have no row yet; "
            "`lsb rerun` without a selection tries them"
        )
    return result
