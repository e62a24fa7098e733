"""Translate one shard, commit by commit."""

from __future__ import annotations

from collections.abc import Mapping

from lsb.config.job import JobConfig
from lsb.jobs.work.loop import translate
from lsb.translation.shard import ShardOutcome
from tasks.guarded.step import step


@step(name="translate", task_run_name="translate-{shard}")
def translate_shard(config: JobConfig, run_id: str, shard: str, records: Mapping[str, int] | None) -> ShardOutcome:
    """Try these records of a shard, or whatever of it has no row; what others have committed stays.

    Inside `lsb.jobs.stock.equipped_for`.
    """
    return translate(config, run_id, shard, records)
