"""The shards of a run: in this process, or in a pool of processes with one model each."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

from prefect import flow
from prefect.futures import as_completed
from prefect.task_runners import ProcessPoolTaskRunner

from flows.display import PartProgress
from flows.interruption import Interruption, children_start_deaf, interruptible
from lsb.config import JobConfig
from lsb.errors import LsbError, UnfinishedError
from lsb.shard_job import ShardOutcome
from tasks.observation import Observer, observed_by, observer
from tasks.translate_shard import translate_shard
from tasks.worker import release_models, start_pool_process

# A store or a model that fails three shards in a row will fail the next thousand as well.
FAILURES_IN_A_ROW = 3
# Shards that wait in the pool for each process; enough to keep it busy, few enough to keep memory flat.
WINDOW_PER_WORKER = 2
STAGE = "translate"

Todo = Mapping[str, Mapping[str, int]]  # by shard the records to do, each with the number of tries it has had
# A function, not its result: Prefect walks through every parameter and keeps it, and these may be a million records.
Left = Callable[[], Todo]


class ShardsFailedError(UnfinishedError):
    """`failures` maps shards to reasons."""


@dataclass
class ShardsOutcome:
    """What became of one attempt at a run's shards. What is done is asked of the store, never of this."""

    failures: dict[str, Exception] = field(default_factory=dict)
    pool_broke: bool = False
    signal: int | None = None
    translated: int = 0


@flow(name="translate-shards", flow_run_name="shards-{run_id}", persist_result=False)
def translate_shards(config: JobConfig, run_id: str, left: Left) -> ShardsOutcome:
    """Translate what is left according to the store, now.

    Run it with a `ProcessPoolTaskRunner` for more than one worker, see `pool_for`.
    """
    todo = left()
    progress = observer().progress
    progress.start(STAGE, sum(map(len, todo.values())))
    with interruptible() as interruption, interruption.patience():
        results = _in_pool if config.execution.workers > 1 else _in_process
        outcome = _collect(results(config, run_id, todo, interruption))
    outcome.signal = interruption.signal
    progress.finish(STAGE)
    return outcome


def translate_until_done(config: JobConfig, run_id: str, left: Left) -> ShardsOutcome:
    """`translate_shards`, and once more with a fresh pool if a process of the first one died."""
    outcome = _attempt(config, run_id, left)
    if outcome.pool_broke and outcome.signal is None:
        outcome = _attempt(config, run_id, left)
    return outcome


def raise_what_failed(outcome: ShardsOutcome, run_uri: str, todo: Todo, shards: int) -> None:
    """End a run whose records are not all there.

    Args:
        todo: what is left according to the store, after the shards were tried.

    Raises:
        KeyboardInterrupt, UnfinishedError: it was interrupted.
        LsbError: the one that every failed shard met, such as a store that is gone.
        ShardsFailedError: anything else.
    """
    left = sum(map(len, todo.values()))
    if not left:
        return
    if outcome.signal == signal.SIGINT:
        raise KeyboardInterrupt
    if outcome.signal is not None:
        raise UnfinishedError(
            f"stopped by SIGTERM with {left} records left in {run_uri}; what is done is committed, run again to go on"
        )
    errors = list(outcome.failures.values())
    first = errors[0] if errors else None
    if isinstance(first, LsbError) and not first.transient and len({type(error) for error in errors}) == 1:
        raise first
    if outcome.pool_broke:
        reason = "a worker process died twice, often for lack of memory: lower execution.workers or execution.batch"
    elif first is not None:
        reason = f"{type(first).__name__}: {first}"
    else:
        reason = "another process may be at work on them"
    raise ShardsFailedError(
        f"{len(todo)} of {shards} shards of {run_uri} unfinished, {left} records left ({reason}); run again to go on",
        failures={shard: str(error) for shard, error in outcome.failures.items()},
    ) from first


def pool_for(config: JobConfig, run_id: str) -> Any:
    """A pool whose processes load the model once and share the cores."""
    threads = max(1, (os.cpu_count() or 1) // config.execution.workers)
    return ProcessPoolTaskRunner(
        max_workers=config.execution.workers,
        initializer=start_pool_process,
        initargs=(config.model_dump_json(), run_id, threads),
    )


def _attempt(config: JobConfig, run_id: str, left: Left) -> ShardsOutcome:
    if config.execution.workers == 1:
        return translate_shards(config, run_id, left)
    release_models()
    return translate_shards.with_options(task_runner=pool_for(config, run_id))(config, run_id, left)


def _collect(results: Iterator[tuple[str, ShardOutcome | Exception]]) -> ShardsOutcome:
    outcome = ShardsOutcome()
    in_a_row = 0
    for shard, result in results:
        if isinstance(result, ShardOutcome):
            outcome.translated += result.translated
            in_a_row = 0
            continue
        outcome.failures[shard] = result
        outcome.pool_broke = outcome.pool_broke or isinstance(result, BrokenProcessPool)
        in_a_row += 1
        if in_a_row >= FAILURES_IN_A_ROW:
            break
    return outcome


def _in_process(
    config: JobConfig, run_id: str, todo: Todo, interruption: Interruption
) -> Iterator[tuple[str, ShardOutcome | Exception]]:
    outer = observer()
    # Called, not submitted: the main thread does the work, so a second Ctrl-C ends it.
    with observed_by(Observer(PartProgress(outer.progress, STAGE), lambda: interruption() or outer.stop())):
        for shard in sorted(todo):
            if interruption():
                return
            try:
                yield shard, translate_shard(config, run_id, shard, todo[shard])
            except Exception as error:  # noqa: BLE001 one shard's failure; the others go on
                yield shard, error


def _in_pool(
    config: JobConfig, run_id: str, todo: Todo, interruption: Interruption
) -> Iterator[tuple[str, ShardOutcome | Exception]]:
    progress = observer().progress
    waiting = iter(sorted(todo))
    live: dict[Any, str] = {}

    def fill() -> None:
        with children_start_deaf():
            fill_window()

    def fill_window() -> None:
        while len(live) < WINDOW_PER_WORKER * config.execution.workers and not interruption():
            shard = next(waiting, None)
            if shard is None:
                return
            live[translate_shard.submit(config, run_id, shard, todo[shard])] = shard

    fill()
    while live:
        future = next(as_completed(list(live)))
        shard = live.pop(future)
        try:
            future.wait()  # without it the state that is read next may be stale
            result = future.result()
        except Exception as error:  # noqa: BLE001 one shard's failure; the others go on
            yield shard, error
        else:
            progress.advance(STAGE, len(todo[shard]) if result.finished else result.translated, **result.counts)
            yield shard, result
        fill()
