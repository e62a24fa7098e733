"""The shards of a run, one after another or several at once; each has a process of its own with the model."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextvars import copy_context
from dataclasses import dataclass, field

from flows.watching.display import PartProgress
from flows.watching.interruption import interruptible
from lsb.config.job import BudgetConfig, JobConfig
from lsb.errors import LsbError, ShardsFailedError, UnfinishedError
from lsb.jobs.budget import Tally
from lsb.jobs.stock import equipped_for
from lsb.ledger.run import open_run
from lsb.observation import Observer, observed_by, observer
from lsb.store.store import open_store
from lsb.translation.shard import ShardOutcome
from lsb.views.status import counts_by_shard
from tasks.guarded.flow import observed
from tasks.translate_shard import translate_shard

# A store or a model that fails three shards in a row will fail the next thousand as well.
FAILURES_IN_A_ROW = 3
STAGE = "translate"

Todo = Mapping[str, Mapping[str, int]]  # by shard the records to do, each with the number of tries it has had
# A function, not its result: Prefect walks through every parameter and keeps it, and these may be a million records.
Left = Callable[[], Todo]
Results = Iterator[tuple[str, ShardOutcome | Exception]]


@dataclass
class ShardsOutcome:
    """What became of one attempt at a run's shards. What is done is asked of the store, never of this."""

    failures: dict[str, Exception] = field(default_factory=dict)
    signal: int | None = None
    translated: int = 0
    over_budget: str | None = None  # why it stopped before the end


def translate_pending(config: JobConfig, run_id: str, left: Left, *, watched: bool = True) -> ShardsOutcome:
    """Translate what is left according to the store, now, `execution.workers` shards at a time.

    Args:
        watched: stop when the budget is spent.
    """
    from lsb.jobs.loading import release_models  # with it comes torch

    release_models()
    return translate_shards(config, run_id, left, watched)


@observed(name="translate-shards", flow_run_name="shards-{run_id}")
def translate_shards(config: JobConfig, run_id: str, left: Left, watched: bool) -> ShardsOutcome:
    """See `translate_pending`. The threads only wait: reading, writing, and for the processes with the model."""
    store = open_store(config.store)
    run = open_run(store, run_id)
    todo = left()
    outer = observer()
    outer.progress.start(STAGE, sum(map(len, todo.values())))
    budget = config.budget if watched else BudgetConfig(max_failed_fraction=1, max_quarantined_fraction=1)
    tally = Tally(budget, run.plan["records"], counts_by_shard(store, run))
    with interruptible() as interruption, interruption.patience(), equipped_for(config, run):

        def stop() -> bool:
            return interruption() or tally.spent is not None or outer.stop()

        with observed_by(Observer(PartProgress(outer.progress, STAGE), stop, tally.commit)):
            several = config.execution.workers > 1
            outcome = _collect((_at_once if several else _one_by_one)(config, run_id, todo))
    outcome.signal = interruption.signal
    outcome.over_budget = tally.spent
    outer.progress.finish(STAGE)
    return outcome


def raise_what_failed(outcome: ShardsOutcome, run_uri: str, todo: Todo, shards: int) -> None:
    """End a run whose records are not all there, or whose user asked for an end, be it during the very last batch.

    Args:
        todo: what is left according to the store, after the shards were tried.

    Raises:
        KeyboardInterrupt, UnfinishedError: it was interrupted.
        LsbError: the one that every failed shard met, such as a store that is gone.
        ShardsFailedError: anything else.
    """
    left = sum(map(len, todo.values()))
    if outcome.signal == signal.SIGINT:
        raise KeyboardInterrupt
    if outcome.signal is not None:
        raise UnfinishedError(
            f"stopped by SIGTERM with {left} records left in {run_uri}; what is done is committed, run again to go on"
        )
    if not left:
        return
    errors = list(outcome.failures.values())
    first = errors[0] if errors else None
    if isinstance(first, LsbError) and not first.transient and len({type(error) for error in errors}) == 1:
        raise first
    reason = f"{type(first).__name__}: {first}" if first else "another process may be at work on them"
    raise ShardsFailedError(
        f"{len(todo)} of {shards} shards of {run_uri} unfinished, {left} records left ({reason}); run again to go on",
        failures={shard: str(error) for shard, error in outcome.failures.items()},
    ) from first


def _collect(results: Results) -> ShardsOutcome:
    outcome = ShardsOutcome()
    in_a_row = 0
    for shard, result in results:
        if isinstance(result, ShardOutcome):
            outcome.translated += result.translated
            in_a_row = 0
            continue
        outcome.failures[shard] = result
        in_a_row += 1
        if in_a_row >= FAILURES_IN_A_ROW:
            break
    return outcome


def _by_chance(todo: Todo) -> list[str]:
    """The shards in an order of this command's own: two commands at work on one run share it."""
    return random.sample(sorted(todo), len(todo))


def _one_by_one(config: JobConfig, run_id: str, todo: Todo) -> Results:
    # Called, not submitted: the main thread waits for each batch, so a second Ctrl-C ends it.
    for shard in _by_chance(todo):
        if observer().stop():
            return
        try:
            yield shard, translate_shard(config, run_id, shard, todo[shard])
        except Exception as error:  # noqa: BLE001 one shard's failure; the others go on
            yield shard, error


def _at_once(config: JobConfig, run_id: str, todo: Todo) -> Results:
    stop = observer().stop
    waiting = iter(_by_chance(todo))
    live: dict[Future[ShardOutcome], str] = {}
    pool = ThreadPoolExecutor(config.execution.workers)
    try:
        while True:
            # No more than are worked on: one that waits could not be called back.
            while len(live) < config.execution.workers and not stop():
                shard = next(waiting, None)
                if shard is None:
                    break
                context = copy_context()  # the observer, the equipment and Prefect's flow run
                live[pool.submit(context.run, translate_shard, config, run_id, shard, todo[shard])] = shard
            if not live:
                return
            future = next(as_completed(list(live)))
            shard = live.pop(future)
            try:
                yield shard, future.result()
            except Exception as error:  # noqa: BLE001 one shard's failure; the others go on
                yield shard, error
    finally:
        pool.shutdown(wait=False)  # a second Ctrl-C does not wait; the processes that the threads wait for are ended
