"""Provide a domain's prompt: from its text or file, found in the store, or learned from images."""

from __future__ import annotations

from typing import Literal

from lsb.config.job import JobConfig
from lsb.jobs.job import refuse_store_among_pictures
from lsb.jobs.lineage import prompt_of_job
from lsb.models.load import identify
from lsb.observation import observer
from lsb.prompts.finding import StoredPrompt
from lsb.store.store import open_store
from lsb.store.untouched import about_to_work
from tasks.guarded.step import step


@step(name="optimise", task_run_name="optimise-{side}")
def optimise_prompt(
    config: JobConfig, side: Literal["source", "target"], refit: bool = False, reread: bool = False
) -> StoredPrompt:
    """The prompt of one side: that of the job's last run, or learned, with `refit` in any case, once per recipe.

    Args:
        reread: read every picture to learn from, whatever is known of it.
    """
    refuse_store_among_pictures(config)
    store = open_store(config.store, create=True)
    identity = identify(config.model, **config.model_options)
    progress = observer().progress
    found = prompt_of_job(store, config, side, identity, refit=refit, reread=reread, progress=progress)
    if isinstance(found, StoredPrompt):
        return found
    about_to_work()
    from lsb.jobs.loading import backbone_for  # with it comes torch

    return found.learn(backbone_for(config), progress)
