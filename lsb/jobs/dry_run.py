"""What a job would do, found out without writing anything."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pyarrow.compute as pc

from lsb.bridge.methods import name_of, untuned
from lsb.config.job import JobConfig
from lsb.errors import NotFoundError
from lsb.jobs.estimate import last_rate
from lsb.jobs.job import (
    as_frozen,
    check_device,
    check_resumed,
    refuse_changed_default,
    refuse_store_among_pictures,
    run_spec,
)
from lsb.jobs.limits import refuse_beyond_model
from lsb.jobs.lineage import RunOptions, negative_of_job, planned_as, prompt_of_job, restriction
from lsb.jobs.measures import given_features
from lsb.jobs.sizes import Sizes, refuse_idle_area, sizes_of
from lsb.jobs.vanished import refuse_vanished
from lsb.ledger.dataset import read_records
from lsb.ledger.plan import DECIDING, decide, read_plan
from lsb.ledger.run import check_frozen, open_run, pending
from lsb.models.load import canvas_of, identify
from lsb.pictures.ingest import ingest
from lsb.pictures.sources import open_sources
from lsb.progress import NoProgress, Progress
from lsb.prompts.finding import StoredPrompt, UnlearnedPrompt
from lsb.prompts.settings import SIDES
from lsb.records import Action, Status
from lsb.store.scratch import ScratchStore
from lsb.store.store import open_store


@dataclass(frozen=True)
class DryRun:
    """What a job would do. `run` and `transform_id` are None while a prompt has yet to be learned."""

    records: int  # of the source, or those chosen of another run's
    quarantined: int
    duplicates: int
    left_out: dict[str, int]  # entries of the source that are no records, by kind
    dataset_version: str
    carried: int  # records that a run before has dealt with
    parent: str | None  # that run
    shards: int
    pending: int | None
    method: str
    untuned: str | None  # that nobody has chosen the method's dials, if nobody has
    forwards_per_image: int
    forwards_in_tiles: dict[str, int]  # of an image in tiles, by the size that the network works at
    sizes: Sizes
    model: str
    prompts_to_learn: tuple[str, ...]
    forwards_to_learn: int | None  # of the network, at most, for all of these
    run: str | None
    transform_id: str | None
    seconds: float | None  # that translating may take, at the rate of a run before; None where there is none
    rate_of: str | None  # that run


def dry_run(
    config: JobConfig,
    options: RunOptions = RunOptions(),
    progress: Progress = NoProgress(),
    *,
    resume: str | None = None,
) -> DryRun:
    """Resolve a job without writing anything: what would be written goes to memory.

    Args:
        resume: id of a run that must be the one; FrozenSettingsError names what differs.
    """
    refuse_store_among_pictures(config)
    check_device(config)
    if resume is None:
        refuse_beyond_model(config)
    given_features(config)
    store = ScratchStore(open_store(config.store) if _is_there(config.store) else None)
    identity = identify(config.model, **config.model_options)
    if resume is None:
        refuse_idle_area(config.geometry, partial(canvas_of, config.model, **config.model_options))
        refuse_changed_default(store, config, lambda: identity)
    else:
        resumed = open_run(store, resume)
        check_resumed(resumed, config, identity)
        config = as_frozen(config, resumed)
    dataset = ingest(
        open_sources(config.source.path),
        config.source.domain,
        store,
        read="anew" if options.reread else config.source.read,
        choice=config.source.choice,
        rules=config.geometry.decoding_rules,
        listed=refuse_vanished(store, config, accepted=options.accept_vanished),
        progress=progress,
    )
    found = {
        side: prompt_of_job(
            store, config, side, identity, refit=options.refit, reread=options.reread, progress=progress
        )
        for side in SIDES
    }
    missing = tuple(config.prompt_request(side).domain for side in SIDES if isinstance(found[side], UnlearnedPrompt))
    run = None
    source, target = found["source"], found["target"]
    if isinstance(source, StoredPrompt) and isinstance(target, StoredPrompt):
        only = restriction(store, options)
        negative = negative_of_job(store, config)
        spec = run_spec(config, dataset, source, target, identity, negative=negative, fresh=options.fresh, only=only)
        if resume is not None:
            check_frozen(open_run(store, resume), spec)
        run = planned_as(store, spec)
    records = read_records(store, dataset, columns=[*DECIDING, "width", "height", "orientation"])
    planned = ["record_id", "action", "shard"]
    plan = read_plan(store, run, columns=planned) if run else decide(records, config.execution.shard_size)
    records = records.filter(pc.is_in(records["record_id"], plan["record_id"].combine_chunks()))
    sizes = sizes_of(records, config.geometry, canvas_of(config.model, **config.model_options))
    each = config.method_settings.forwards
    left = sum(pending(store, run).values()) if run else None
    rate = last_rate(store, run) if run and left else None
    return DryRun(
        records=records.num_rows,
        quarantined=pc.sum(pc.equal(records["status"], Status.QUARANTINED.value)).as_py() or 0,
        duplicates=pc.sum(pc.is_valid(records["duplicate_of"])).as_py() or 0,
        left_out=dataset.left_out,
        dataset_version=dataset.version,
        carried=pc.sum(pc.equal(plan["action"], Action.CARRY.value)).as_py() or 0,
        parent=run.parent["run"] if run and run.parent else None,
        shards=pc.count_distinct(plan["shard"], mode="only_valid").as_py(),
        pending=left,
        method=name_of(config.method_settings),
        untuned=untuned(config.method_settings),
        forwards_per_image=each,
        forwards_in_tiles={size: each * tiles for size, tiles in sizes.tiles.items()},
        sizes=sizes,
        model=identity.id,
        prompts_to_learn=missing,
        forwards_to_learn=len(missing) * config.learning.forwards or None,
        run=run.id if run else None,
        transform_id=run.transform_id if run else None,
        seconds=left / rate.records_per_second if left and rate else None,
        rate_of=rate.run if rate else None,
    )


def _is_there(uri: str) -> bool:
    try:
        open_store(uri)
    except NotFoundError:
        return False
    return True
