"""What a job would do, found out without writing anything."""

from __future__ import annotations

from dataclasses import dataclass

from lsb.bridge.solve import forwards
from lsb.config import JobConfig
from lsb.domains import SIDES, domain_of, find_prompt
from lsb.errors import NotFoundError
from lsb.ingest import ingest, open_sources, read_records
from lsb.job import run_spec
from lsb.models.load import identify
from lsb.progress import NoProgress, Progress
from lsb.sharding import create_run, make_plan, pending
from lsb.storage.scratch import ScratchStore
from lsb.storage.store import open_store


@dataclass(frozen=True)
class DryRun:
    """What a job would do. `run` and `transform_id` are None while a prompt has yet to be learned."""

    records: int
    quarantined: int
    duplicates: int
    dataset_version: str
    shards: int
    pending: int | None
    forwards_per_image: int
    model: str
    prompts_to_learn: tuple[str, ...]
    run: str | None
    transform_id: str | None


def dry_run(config: JobConfig, progress: Progress = NoProgress()) -> DryRun:
    """Resolve a job without writing anything: what would be written goes to memory."""
    store = ScratchStore(open_store(config.store) if _is_there(config.store) else None)
    dataset = ingest(
        open_sources(config.source.path), config.source.domain, store, read=config.source.read, progress=progress
    )
    identity = identify(config.model, **config.model_options)
    found = {side: find_prompt(store, config, side, identity, progress=progress) for side in SIDES}
    missing = tuple(domain_of(config, side) for side in SIDES if found[side] is None)
    plan = make_plan(read_records(store, dataset), config.execution.shard_size)
    shards = len(set(plan["shard"].drop_null().to_pylist()))
    run = transform = left = None
    if (source := found["source"]) is not None and (target := found["target"]) is not None:
        spec = run_spec(config, dataset, source, target, identity)
        frozen = create_run(store, spec)
        run, transform, left = frozen.id, frozen.transform_id, sum(map(len, pending(store, frozen).values()))
    return DryRun(
        records=dataset.records,
        quarantined=dataset.quarantined,
        duplicates=dataset.duplicates,
        dataset_version=dataset.version,
        shards=shards,
        pending=left,
        forwards_per_image=forwards(config.bridge),
        model=identity.id,
        prompts_to_learn=missing,
        run=run,
        transform_id=transform,
    )


def _is_there(uri: str) -> bool:
    try:
        open_store(uri)
    except NotFoundError:
        return False
    return True
