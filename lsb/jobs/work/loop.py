"""The one loop that translates a run: take a shard, do it, give it back, until nothing is left to take.

Every command that translates, and every runner, is this loop, once or several times over. Several on one run share its
shards by leases. What is done is asked of the store, never of this.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial

from lsb.config.job import JobConfig
from lsb.errors import BudgetExceededError, LsbError, ShardsFailedError, UnfinishedError
from lsb.jobs.job import object_uri
from lsb.jobs.rerun import Todo, records_of, still_left, what_is_left
from lsb.jobs.retries import retried
from lsb.jobs.stock import equipped_for, lent, place
from lsb.jobs.work.accounts import Accounts
from lsb.jobs.work.shares import Shares, Taken
from lsb.jobs.work.sight import refuse_blindness
from lsb.ledger.layout import run_folder
from lsb.ledger.leases import RENEWED_SECONDS, Lease, Leases
from lsb.ledger.plan import shard_sizes
from lsb.ledger.run import Run, open_run
from lsb.ledger.worker import at_work
from lsb.observation import Observer, observed_by, observer
from lsb.progress import PartProgress
from lsb.store.store import open_store
from lsb.translation.shard import ShardOutcome, run_shard

# A store or a model that fails three shards in a row will fail the next thousand as well.
FAILURES_IN_A_ROW = 3
STAGE = "translate"
HEARS_SECONDS = 1.0  # after which a wish to stop is heard that wakes nobody
LOOKS_SECONDS = 60.0  # after which a worker in the middle of a shard looks at what others have done

Chosen = Mapping[str, int] | None  # records of a shard, see `lsb.translation.shard.run_shard`
Translate = Callable[[str, Chosen], ShardOutcome]  # a shard, and which of its records
Result = tuple[str, ShardOutcome | Exception]


@dataclass
class ShardsOutcome:
    """What became of one attempt at a run's shards."""

    failures: dict[str, Exception] = field(default_factory=dict)
    signal: int | None = None
    translated: int = 0
    shards: int = 0  # that this worker has come to the end of
    over_budget: str | None = None  # why it stopped before the end


@dataclass(frozen=True)
class Worked:
    """What a worker has done by the end of its call."""

    run: str
    shards: int
    translated: int  # images


def work_on(
    config: JobConfig, run_id: str, stopped: Callable[[], int | None] = lambda: None, mark: str | None = None
) -> Worked:
    """Take part in translating a run that is planned, until nothing of it is left.

    Args:
        stopped: the signal that asks for an end, if there was one. The batch in hand is finished and committed then.
        mark: the end of the worker's name, see `lsb.ledger.worker.at_work`.

    Raises:
        UsageError: this machine lacks the device, or these settings would make other images than the run's.
        ResourceError: the model or the pictures cannot be seen from here. Nothing is taken then.
        BudgetExceededError: the budget is spent.
        LsbError: see `raise_what_failed`.
    """
    store = open_store(config.store)
    run = open_run(store, run_id)
    todo = what_is_left(store, run)
    outcome = ShardsOutcome()
    if todo:
        refuse_blindness(store, run, config)
        do = partial(_patiently, config, run_id)
        outcome = translate_shares(config, run, todo, do, stop=lambda: bool(stopped()), mark=mark)
        outcome.signal = stopped()
        todo = what_is_left(store, run)
    uri = object_uri(store, run_folder(run_id))
    if todo and outcome.over_budget is not None and outcome.signal is None:
        raise BudgetExceededError(
            f"{outcome.over_budget}; what is done is committed, `lsb publish {uri}` shows it, "
            "and it goes on with a larger budget in a file that --config names"
        )
    raise_what_failed(outcome, uri, todo, run.plan["shards"])
    return Worked(uri, outcome.shards, outcome.translated)


def translate(config: JobConfig, run_id: str, shard: str, records: Chosen = None) -> ShardOutcome:
    """Do what is left of a shard, or try these records; what others have committed stays.

    Inside `lsb.jobs.stock.equipped_for`.
    """
    store = open_store(config.store)
    watching = observer()
    with lent() as equipment:
        return run_shard(
            store,
            open_run(store, run_id),
            shard,
            equipment,
            chosen=records,
            commit_seconds=config.execution.commit_seconds,
            progress=watching.progress,
            stop=watching.stop,
            committed=watching.committed,
        )


def _patiently(config: JobConfig, run_id: str, shard: str, records: Chosen) -> ShardOutcome:
    return retried(lambda: translate(config, run_id, shard, records))


def translate_shares(
    config: JobConfig,
    run: Run,
    todo: Todo,
    translate: Translate,
    *,
    stop: Callable[[], bool],
    watched: bool = True,
    mark: str | None = None,
) -> ShardsOutcome:
    """Take shards of what is to do, `execution.workers` at a time, and do them, until no more are to be had. While a
    worker ends its shard, it takes the next one and reads the first pictures of that.

    Args:
        translate: does one of them; what passes by itself it has tried again.
        stop: is asked between batches.
        watched: stop when the budget is spent, too.
    """
    store = open_store(config.store)
    outer = observer()
    outer.progress.start(STAGE, records_of(todo))
    progress = PartProgress(outer.progress, STAGE)
    with at_work(mark) as worker, equipped_for(config, run):
        leases = Leases(store, run.id, worker)
        accounts = Accounts(store, run, config.budget, leases.look()) if watched else None
        planned = shard_sizes(store, run)

        def spent() -> str | None:
            return accounts.tally.spent if accounts else None

        def ended() -> bool:
            return stop() or outer.stop() or spent() is not None

        def look(found: Mapping[str, Lease]) -> None:
            if accounts:
                accounts.look(found, leases.held())

        def elsewhere(records: int) -> None:
            progress.advance(STAGE, records)

        def left(some: Todo) -> Todo:
            seen = accounts.rows if accounts else lambda shard: 0
            unsure = {shard: share for shard, share in some.items() if share.chosen or seen(shard) < planned[shard]}
            return still_left(store, run, unsure, planned)

        shares = Shares(todo, leases, left=left, stop=ended, look=look, elsewhere=elsewhere)
        told = accounts.tally.commit if accounts else outer.committed
        with observed_by(Observer(progress, ended, told)), leases.kept(_now_and_then(shares.watch)):
            outcome = _collect(_at_once(shares, translate, config.execution.workers))
        outcome.over_budget = spent()
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
    left = records_of(todo)
    if outcome.signal == signal.SIGINT:
        raise KeyboardInterrupt
    if outcome.signal is not None and not left:
        raise UnfinishedError(
            f"stopped by SIGTERM with every record of {run_uri} done; measuring and publishing are left, run again or "
            f"`lsb publish {run_uri}`"
        )
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


def _now_and_then(look: Callable[[], None]) -> Callable[[], None]:
    """Calls it as often as LOOKS_SECONDS allow, of all the times that a lease is renewed."""
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1
        if beats % round(LOOKS_SECONDS / RENEWED_SECONDS) == 0:
            look()

    return beat


def _collect(results: Iterator[Result]) -> ShardsOutcome:
    outcome = ShardsOutcome()
    in_a_row = 0
    for shard, result in results:
        if isinstance(result, ShardOutcome):
            outcome.translated += result.translated
            outcome.shards += result.finished
            in_a_row = 0
            continue
        outcome.failures[shard] = result
        in_a_row += 1
        if in_a_row >= FAILURES_IN_A_ROW:
            break
    return outcome


def _turn(shares: Shares, translate: Translate) -> Result | None:
    """Take a shard and do it, once there is a place for it; None if there is none to take."""
    with place():
        taken: Taken | None = shares.take()
        if taken is None:
            return None
        try:
            result: ShardOutcome | Exception = translate(taken.shard, taken.share.chosen)
        except Exception as error:  # noqa: BLE001 one shard's failure; the others go on
            result = error
        shares.give_back(taken.shard)
        return taken.shard, result


def _at_once(shares: Shares, translate: Translate, workers: int) -> Iterator[Result]:
    most = 2 * workers  # a shard that ends and one that begins have the same worker
    # In threads even where there is one of them: what the main thread waits for is then ended by a second Ctrl-C.
    pool = ThreadPoolExecutor(most)
    try:
        live: set[Future[Result | None]] = set()
        more = True
        while True:
            while more and len(live) < most:
                context = copy_context()  # the observer, the equipment and Prefect's flow run
                live.add(pool.submit(context.run, _turn, shares, translate))
            if not live:
                return
            # A wish to stop need not wake the main thread: Ray's only makes Python's handler of a signal due.
            while not (done := wait(live, HEARS_SECONDS, FIRST_COMPLETED).done):
                pass
            future = done.pop()
            live.remove(future)
            if result := future.result():
                yield result
            else:
                more = False
    finally:
        pool.shutdown(wait=False)  # a second Ctrl-C does not wait; the processes that the threads wait for are ended
