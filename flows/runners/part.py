"""What a copy does, wherever it runs: take part in translating a run, or learn a prompt; and how it tells its end.

A copy is known by its mark: the name of whatever it holds of a run ends with it, so that whoever started it can see in
the store whether it is still there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flows.watching.interruption import Terminated, interruptible
from lsb import errors
from lsb.config.job import JobConfig
from lsb.errors import LsbError, UnfinishedError
from lsb.jobs.lineage import prompt_of_job
from lsb.jobs.work.loop import work_on
from lsb.models.load import identify
from lsb.prompts.finding import StoredPrompt
from lsb.prompts.settings import Side
from lsb.store.store import open_store


@dataclass(frozen=True)
class Part:
    """What is asked of a copy: to work on a run, or to learn the prompt of a side. JSON, but for the settings."""

    config: JobConfig
    run: str | None = None
    side: Side | None = None
    refit: bool = False
    mark: str | None = None

    def document(self) -> dict[str, Any]:
        """Itself as JSON. Learning and geometry that nobody has said stay unsaid: an old run may have others."""
        config = self.config.model_dump(mode="json")
        config["learning"] = self.config.learning.model_dump(mode="json", exclude_unset=True)
        config["geometry"] = self.config.geometry.model_dump(mode="json", exclude_unset=True)
        return {**vars(self), "config": config}


class VanishedError(Exception):
    """A copy that has ended without a word, or with one that says nothing of the job."""


def part_of(document: dict[str, Any]) -> Part:
    """What `Part.document` has written down."""
    return Part(**{**document, "config": JobConfig.model_validate(document["config"])})


def do(part: Part) -> None:
    """Do a part, in the main thread to its end or to a signal: the batch in hand is committed then.

    Raises:
        LsbError: as `lsb.jobs.work.loop.work_on`; or as learning a prompt does.
    """
    if part.run is None:
        with interruptible():
            _learn(part)
        return
    with interruptible() as interruption, interruption.patience():
        work_on(part.config, part.run, lambda: interruption.signal, part.mark)


def _learn(part: Part) -> None:
    config, side = part.config, part.side
    assert side is not None
    identity = identify(config.model, **config.model_options)
    found = prompt_of_job(open_store(config.store, create=True), config, side, identity, refit=part.refit)
    if not isinstance(found, StoredPrompt):
        from lsb.jobs.loading import backbone_for  # with it comes torch

        found.learn(backbone_for(config))


def told(work: Callable[[], None]) -> dict[str, str]:
    """How work ended, as JSON: empty if it came to its end, else the kind of its error and what it says."""
    try:
        work()
    except LsbError as error:
        return {"kind": type(error).__name__, "message": error.message}
    except (KeyboardInterrupt, Terminated):
        return {"kind": UnfinishedError.__name__, "message": "stopped by a signal"}
    except Exception as error:  # noqa: BLE001 whoever started the copy hears of it
        return {"kind": type(error).__name__, "message": " ".join(f"{type(error).__name__}: {error}".split())}
    return {}


def ending(said: dict[str, str]) -> Exception | None:
    """What `told` stands for: nothing, an error of the job's, or that the copy has vanished.

    One that was stopped, though nobody here has asked for it, has vanished too: it is to be had again.
    """
    if not said:
        return None
    kind: Any = getattr(errors, said["kind"], None)
    if isinstance(kind, type) and issubclass(kind, LsbError) and kind is not UnfinishedError:
        return kind(said["message"])
    return VanishedError(said["message"])
