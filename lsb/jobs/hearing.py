"""Whether the words of a job matter to its model: heard on a few pictures of either look, see
`lsb.prompts.listening`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lsb.bridge.settings import BridgeSettings
from lsb.config.job import JobConfig
from lsb.errors import ConfigError, NotFoundError, UsageError
from lsb.jobs.job import refuse_store_among_pictures
from lsb.jobs.limits import refuse_beyond_model
from lsb.jobs.lineage import prompts_of_job
from lsb.ledger.run import Run
from lsb.models.load import identify
from lsb.models.prompt import Prompt
from lsb.models.protocol import Backbone
from lsb.pictures.choice import Choice
from lsb.pictures.geometry import frame_of, sigma_scale
from lsb.pictures.optional import find_picture
from lsb.pictures.sources import list_sources, open_sources
from lsb.progress import NoProgress, Progress
from lsb.prompts.finding import read_prompt
from lsb.prompts.settings import LARGEST
from lsb.records import key_of, record_id
from lsb.store.scratch import ScratchStore
from lsb.store.store import Store, open_store

PICTURES, LEVELS, FEWEST = 16, 5, 2
NAME = "listen"


@dataclass(frozen=True)
class LookHeard:
    """Pictures of one look under their own words and under those of the other look.

    Attributes:
        look: its name.
        sigmas: standard deviations of the noise, at the model's own area; `loss`, `rise` and `error` belong to them,
            see `lsb.prompts.listening.Heard`.
        clear: whether the best rise is beyond chance.
        matters_from: the sigma above which words do at least half of that; None where nothing is clear.
    """

    look: str
    pictures: int
    sigmas: Sequence[float]
    loss: Sequence[float]
    rise: Sequence[float]
    error: Sequence[float]
    clear: bool
    matters_from: float | None


def heard_of_job(config: JobConfig, progress: Progress = NoProgress()) -> list[LookHeard]:
    """What the job's prompts do now; writes nothing.

    Raises:
        UsageError: no pictures of the target look are given, fewer than two of a look can be read, or a prompt has yet
            to be learned.
    """
    from lsb.jobs.loading import backbone_for  # with it comes torch

    refuse_store_among_pictures(config)
    refuse_beyond_model(config)
    target = _target(config)
    identity = identify(config.model, **config.model_options)
    try:
        store = ScratchStore(open_store(config.store))
    except NotFoundError:
        store = ScratchStore(None)
    found = prompts_of_job(store, config, identity, progress)
    prompts = read_prompt(store, found[0].key), read_prompt(store, found[1].key)
    heard = hear(config, backbone_for(config), prompts, target, progress)
    if len(heard) < 2:
        raise UsageError(f"fewer than {FEWEST} pictures can be read in {config.source.path} or {target}; give more")
    return heard


def heard_for_page(config: JobConfig, run: Run, store: Store, backbone: Backbone) -> list[dict[str, Any]]:
    """What metrics.json says of the run's prompts; nothing where no pictures of the target look are given."""
    target = config.evaluate.target
    if target is None:
        return []
    prompts = read_prompt(store, run.prompts["source"]), read_prompt(store, run.prompts["target"])
    return [asdict(look) for look in hear(config, backbone, prompts, target)]


def hear(
    config: JobConfig,
    backbone: Backbone,
    prompts: tuple[Prompt, Prompt],
    target: str,
    progress: Progress = NoProgress(),
) -> list[LookHeard]:
    """The looks of which two pictures or more can be read, the source's first."""
    from lsb.prompts.listening import audible_from, listen
    from lsb.prompts.seen import latents_of

    geometry, canvas = config.geometry.as_seen, backbone.canvas
    scale = sigma_scale(geometry, canvas)
    native = BridgeSettings.tau_for(backbone.latent_shape(canvas.side, canvas.side)[-1]) / 2
    sigmas = np.geomspace(native / 4, min(LARGEST, backbone.sigma_max / scale), LEVELS).round(4).tolist()
    own, other = (backbone.embed(prompt) for prompt in prompts)
    looks = (
        (config.prompt_request("source").domain, config.source.path, config.source.choice, own, other),
        (config.prompt_request("target").domain, target, Choice(), other, own),
    )
    progress.start(NAME, len(looks))
    found = []
    for look, place, choice, right, wrong in looks:
        pictures = [frame_of(p.size, geometry, canvas).prepare(p) for p in _pictures(config, place, choice)]
        progress.advance(NAME)
        if len(pictures) < FEWEST:
            continue
        latents = latents_of(backbone, pictures, config.execution.batch)
        heard = listen(backbone, latents, right, wrong, sigmas, seed=config.seed, scale=scale)
        matters = audible_from(heard)
        found.append(
            LookHeard(
                look=look,
                pictures=len(pictures),
                sigmas=sigmas,
                loss=[round(one.loss, 6) for one in heard],
                rise=[round(one.rise, 6) for one in heard],
                error=[round(one.error, 6) for one in heard],
                clear=matters is not None,
                matters_from=matters,
            )
        )
    progress.finish(NAME)
    return found


def _pictures(config: JobConfig, place: str, choice: Choice) -> list[Any]:
    """The first by record id that can be read."""
    folder, rules = open_sources(place), config.geometry.decoding_rules
    keys = sorted((file.key for file in list_sources(folder, choice).files), key=lambda key: record_id(key_of(key)))
    found: list[Any] = []
    for key in keys[: 2 * PICTURES]:
        if len(found) < PICTURES and (picture := find_picture(folder, key, rules=rules)) is not None:
            found.append(picture)
    return found


def _target(config: JobConfig) -> str:
    target = config.evaluate.target or config.prompts.target.images
    if target is None:
        field = "evaluate.target"
        raise ConfigError(f"{field}: missing; words are heard on pictures of both looks", field=field)
    return target
