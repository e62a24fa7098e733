"""The shards of a run: as tasks of Prefect what this command takes of them, beside others that may be at work on it; or
by copies elsewhere, which this command only watches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from flows.runners.fleet import translate_by_copies
from flows.watching.interruption import interruptible
from lsb.config.job import JobConfig
from lsb.jobs.rerun import Todo
from lsb.jobs.work.loop import ShardsOutcome, translate_shares
from lsb.ledger.run import open_run
from lsb.store.store import open_store
from tasks.guarded.flow import observed
from tasks.translate_shard import translate_shard

# A function, not its result: Prefect walks through every parameter and keeps it, and these may be a million records.
Left = Callable[[], Todo]


def translate_pending(config: JobConfig, run_id: str, left: Left, *, watched: bool = True) -> ShardsOutcome:
    """Translate what is left according to the store, now, `execution.workers` shards at a time.

    Args:
        watched: stop when the budget is spent. What is not, records that somebody has chosen, is done by this command.
    """
    from lsb.jobs.loading import release_models  # with it comes torch

    release_models()
    return translate_shards(config, run_id, left, watched)


@observed(name="translate-shards", flow_run_name="shards-{run_id}")
def translate_shards(config: JobConfig, run_id: str, left: Left, watched: bool) -> ShardsOutcome:
    """See `translate_pending`. The threads only wait: reading, writing, and for the processes with the model."""
    run = open_run(open_store(config.store), run_id)
    with interruptible() as interruption, interruption.patience():
        if watched and config.execution.in_copies:
            outcome = translate_by_copies(config, run, left(), interruption)
        else:
            do = partial(translate_shard, config, run_id)
            outcome = translate_shares(config, run, left(), do, stop=interruption, watched=watched)
    outcome.signal = interruption.signal
    return outcome
