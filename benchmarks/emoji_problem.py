"""The embedded job as a problem for solvers: its model, prompts, settings and pictures. There is no p_1 to know."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from bridge_problems import Problem
from torch import Tensor

from lsb.bridge.noise import BatchNoise
from lsb.bridge.solve import enter
from lsb.config.job import JobConfig, load_config
from lsb.models.load import identify, load_backbone
from lsb.models.prompt import Prompt
from lsb.models.protocol import Backbone
from lsb.pictures.images import decode, to_square, to_tensor
from lsb.prompts.finding import StoredPrompt, find_prompt, read_prompt
from lsb.prompts.settings import SIDES
from lsb.records import sha256
from lsb.store.store import open_store

BATCH = 32
TUNING_IMAGES = 12


def prompts_of(config: JobConfig, backbone: Backbone) -> dict[str, Prompt]:
    """The job's prompts, learned at the first call and then read from the job's store."""
    store, identity = open_store(config.store, create=True), identify(config.model, **config.model_options)
    found = {side: find_prompt(store, config.prompt_request(side), identity) for side in SIDES}
    return {
        side: read_prompt(store, (prompt if isinstance(prompt, StoredPrompt) else prompt.learn(backbone)).key)
        for side, prompt in found.items()
    }


def pictures(folder: Path, count: int | None = None) -> list[bytes]:
    return [file.read_bytes() for file in sorted(folder.iterdir())[:count]]


def emoji_problem(job: Path, images: int | None = None) -> Problem:
    """The job's pictures, and the first training pictures of its source domain to choose times on.

    Args:
        images: how many of the job's pictures; all by default.
    """
    config = load_config(job)
    backbone = load_backbone(config.model, device="cpu", **config.model_options)
    base = config.bridge

    def starts(files: list[bytes]) -> Tensor:
        squares = [to_square(decode(data)[0], backbone.canvas.side)[0] for data in files]
        x_0 = torch.cat([backbone.encode(to_tensor(squares[i : i + BATCH])) for i in range(0, len(files), BATCH)])
        noise = BatchNoise(
            backbone.latent_shape(backbone.canvas.side, backbone.canvas.side),
            seed=config.seed,
            digests=[sha256(data) for data in files],
        )
        return enter(x_0, base, noise)

    # Learning draws gradients and float32 defaults; the benchmark's float64 default is set aside for it.
    torch.set_default_dtype(torch.float32)
    prompts = prompts_of(config, backbone)
    with torch.inference_mode():
        start = starts(pictures(Path(config.source.path), images))
        tuning = starts(pictures(Path(str(config.prompts.source.images)), TUNING_IMAGES))
        conditions = {side: backbone.embed(prompts[side]) for side in SIDES}
    torch.set_default_dtype(torch.float64)

    def predict(x_t: Tensor, level: float, domain: str) -> Tensor:
        with torch.inference_mode():
            return torch.cat([backbone.predict(rows, level, conditions[domain]) for rows in x_t.split(BATCH)])

    name = f"emoji, {len(start)} validation images, tau {base.tau:g}, w {base.guidance:g}, {base.noise}"
    return Problem(name, base, predict, None, start, tuning, False, lambda x: math.nan)
