"""Translate one shard, commit by commit."""

from __future__ import annotations

from collections.abc import Mapping

from lsb.config.job import JobConfig
from lsb.jobs.stock import lent
from lsb.ledger.run import open_run
from lsb.observation import observer
from lsb.store.store import open_store
from lsb.translation.shard import ShardOutcome, run_shard
from tasks.guarded.step import step


@step(name="translate", task_run_name="translate-{shard}")
def translate_shard(
    config: JobConfig, run_id: str, shard: str, chosen: Mapping[str, int] | None = None
) -> ShardOutcome:
    """Do what is left of a shard, or try the chosen records; what others have committed stays.

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
            chosen=chosen,
            commit_seconds=config.execution.commit_seconds,
            progress=watching.progress,
            stop=watching.stop,
            committed=watching.committed,
        )
