"""Whether a worker sees what it needs of a run, before it takes anything from others."""

from __future__ import annotations

import random

from lsb.config.job import JobConfig
from lsb.errors import NotFoundError, SourceError, StoreError
from lsb.jobs.job import check_device, check_same_transform
from lsb.jobs.measures import open_truth
from lsb.ledger.plan import read_plan
from lsb.ledger.run import Run
from lsb.models.load import identify
from lsb.pictures.sources import Source, open_sources
from lsb.store.store import Store

LOOKED_FOR = 16


def refuse_blindness(store: Store, run: Run, config: JobConfig) -> None:
    """Refuse to work on a run where its device, its model or its pictures are not to be seen from this machine.

    Raises:
        ConfigError: this machine has no such device.
        FrozenSettingsError: these settings or this model would make other images than the run's.
        ModelError: there is no model, or none that can be loaded.
        SourceError: no folder of pictures or truths, or one in which none of some of the run's pictures lies.
    """
    check_device(config)
    check_same_transform(run, config, identify(config.model, **config.model_options))
    sources = open_sources(config.source.path)
    if config.evaluate.measure:
        open_truth(config)
    keys = read_plan(store, run, columns=["key"])["key"]
    chance = random.Random(run.id)  # noqa: S311
    some = [keys[place].as_py() for place in chance.sample(range(len(keys)), min(LOOKED_FOR, len(keys)))]
    if not any(_is_there(sources, key) for key in some):
        raise SourceError(
            f"{config.source.path} holds none of {len(some)} pictures of run {run.id} that were looked for; see "
            "whether it is mounted here, or give a job's file with --config whose source.path is right on this machine"
        )


def _is_there(sources: Source, key: str) -> bool:
    try:
        sources.read(key)
    except StoreError as error:
        if not error.of_object:
            raise
        return not isinstance(error, NotFoundError)
    return True
