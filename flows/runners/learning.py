"""A job's prompts: learned by whoever watches, or by a copy where there is no accelerator for that here."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from flows.runners.fleet import FUTILE
from flows.runners.part import Part, VanishedError
from flows.runners.runner import AwayError, Runner, runner_of
from lsb.config.job import JobConfig
from lsb.errors import ConfigError, UnfinishedError
from lsb.jobs.job import device_of
from lsb.jobs.lineage import prompt_of_job
from lsb.models.load import identify
from lsb.prompts.finding import StoredPrompt
from lsb.prompts.settings import Side
from lsb.store.store import open_store
from lsb.store.untouched import about_to_work
from tasks.optimise import optimise_prompt

LOOKS_SECONDS = 2.0


def optimised(config: JobConfig, side: Side, refit: bool = False, reread: bool = False) -> StoredPrompt:
    """The prompt of one side, see `tasks.optimise.optimise_prompt`.

    Raises:
        LsbError: whoever was to learn it could not; what it said itself.
        UnfinishedError: nobody could be asked to, or nobody came back.
    """
    if not _learned_here(config) and not _is_known(config, side, refit, reread):
        about_to_work()
        with runner_of(config) as runner:
            learn_by(runner, Part(config, side=side, refit=refit))
        if not _is_known(config, side, refit, False):
            raise UnfinishedError(f"a copy has learned the prompt of the {side} from other pictures; run again")
    return optimise_prompt(config, side, refit, reread)


def _learned_here(config: JobConfig) -> bool:
    if config.execution.runner == "local":
        return True
    try:
        return device_of(config) != "cpu" or config.execution.device == "cpu"
    except ConfigError:
        return False


def _is_known(config: JobConfig, side: Side, refit: bool, reread: bool) -> bool:
    store = open_store(config.store, create=True)
    identity = identify(config.model, **config.model_options)
    found = prompt_of_job(store, config, side, identity, refit=refit, reread=reread)
    return isinstance(found, StoredPrompt)


def learn_by(
    runner: Runner,
    part: Part,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Have one copy learn a prompt; one that vanishes is started again, and goes on from what it has kept.

    Raises:
        LsbError: see `optimised`.
    """
    mark, vanished, answered = None, 0, clock()
    fresh = secrets.token_hex(4)
    patience = part.config.execution.server_patience
    while True:
        ended: dict[str, Exception | None] = {}
        try:
            if mark is None:
                runner.start(0, Part(part.config, side=part.side, refit=part.refit, mark=fresh))
                mark, fresh = fresh, secrets.token_hex(4)
            ended, answered = runner.ended(), clock()
        except AwayError as error:
            if clock() - answered > patience:
                raise UnfinishedError(
                    f"{error}, for {patience:.0f} s (execution.server_patience); run again"
                ) from error
        if mark in ended:
            how, mark, vanished = ended[mark], None, vanished + 1
            if how is None:
                return
            if not isinstance(how, VanishedError):
                raise how
            if vanished > FUTILE:
                raise UnfinishedError(f"who learned the prompt has vanished {vanished} times: {how}; run again")
        pause(LOOKS_SECONDS)
