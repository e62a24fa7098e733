"""Three ways to carry pictures from one prompt to another with one model, to be timed against each other.

All work on a folder in diffusers' layout and on square pictures of the model's size, and count the network's forwards
an image: a call for a batch of pictures is one forward of each.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from PIL import Image
from torch import Tensor

from lsb.bridge.settings import BridgeSettings
from lsb.models.load import load_backbone
from lsb.models.prompt import Prompt
from lsb.pictures.images import to_images, to_tensor
from lsb.records import sha256
from lsb.translation.engine import Engine

PATH = BridgeSettings(preset="published", nfe=8)


@dataclass(frozen=True)
class Task:
    """What is the same for all: the model's folder, the words of both domains, device and dtype."""

    model: str
    source: str
    target: str
    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    def pipeline(self, kind: Any) -> Any:
        loaded = kind.from_pretrained(self.model, safety_checker=None, torch_dtype=self.dtype, local_files_only=True)
        loaded.set_progress_bar_config(disable=True)
        return loaded.to(self.device)


class Procedure(Protocol):
    """`forwards` is of the network, per image; `batch` pictures at a time."""

    forwards: int
    batch: int

    def __call__(self, pictures: Sequence[Image.Image]) -> list[Image.Image]: ...


class Ours:
    """The engine as a run uses it: a fixed batch, prompts encoded once."""

    def __init__(self, task: Task, settings: BridgeSettings, batch: int) -> None:
        dtype = str(task.dtype).removeprefix("torch.")
        backbone = load_backbone(task.model, device=task.device, dtype=dtype)
        self.engine = Engine(backbone, Prompt(task.source), Prompt(task.target), settings, "0", batch)
        self.forwards, self.batch = settings.forwards, batch

    def __call__(self, pictures: Sequence[Image.Image]) -> list[Image.Image]:
        return self.engine.translate(pictures, [sha256(picture.tobytes()) for picture in pictures])


class Published:
    """The procedure of the paper's code: one picture at a time, both prompts encoded for each, two calls of the network
    an evaluation. The numbers are those of preset `published`, which `tests/unit/bridge/test_published.py` compares."""

    def __init__(self, task: Task, settings: BridgeSettings = PATH) -> None:
        self.settings, self.words, self.batch = settings, (task.source, task.target), 1
        self.parts = task.pipeline(StableDiffusionPipeline)
        self.alphas = torch.cat([torch.ones(1), DDIMScheduler.from_config(self.parts.scheduler.config).alphas_cumprod])
        self.forwards = 2 * settings.nfe - 1

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image.Image]) -> list[Image.Image]:
        return list(itertools.chain.from_iterable(to_images(self._one(to_tensor([picture]))) for picture in pictures))

    def _one(self, pixels: Tensor) -> Tensor:
        vae, unet, settings = self.parts.vae, self.parts.unet, self.settings
        scale, tau = vae.config.scaling_factor, settings.tau
        conditions = [self._encoded(words) for words in self.words]
        x_0 = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.sample() * scale
        times = np.linspace(settings.t0, 1.0, settings.nfe)
        x = (1 - times[0]) * x_0 + tau * (times[0] * (1 - times[0])) ** 0.5 * torch.randn_like(x_0)
        for t, t_next in itertools.pairwise(times):
            step = int((self.alphas - 1 / (1 + tau**2 * t * (1 - t))).abs().argmin())
            a = self.alphas[step].item()
            eps_0, eps_1 = (self._eps(unet, x, a, step, condition) for condition in conditions)
            spread = ((1 - a) / a) ** 0.5
            eps = eps_1 if t > 0.5 else eps_0
            slope = settings.guidance * spread * (eps_0 - eps_1) + tau * (1 - 2 * t) / (2 * (t * (1 - t)) ** 0.5) * eps
            x = x + float(t_next - t) * slope
        x = x - spread * self._eps(unet, x, a, step, conditions[1])
        return vae.decode(x / scale).sample.float().clamp(-1, 1)

    def _encoded(self, words: str) -> Tensor:
        tokenizer = self.parts.tokenizer
        ids = tokenizer(words, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt")
        return self.parts.text_encoder(ids.input_ids.to(self.parts.device)).last_hidden_state

    def _eps(self, unet: Any, x: Tensor, a: float, step: int, condition: Tensor) -> Tensor:
        y = a**0.5 * x
        answer = unet(y, step, encoder_hidden_states=condition).sample
        if self.parts.scheduler.config.prediction_type == "v_prediction":
            return a**0.5 * answer + (1 - a) ** 0.5 * y
        return answer


class ImageToImage:
    """diffusers' img2img in batches, without guidance, with as many steps as there are to be forwards."""

    def __init__(self, task: Task, forwards: int, batch: int) -> None:
        self.parts = task.pipeline(StableDiffusionImg2ImgPipeline)
        self.parts.scheduler = DDIMScheduler.from_config(self.parts.scheduler.config)
        self.words, self.forwards, self.batch = task.target, forwards, batch

    def __call__(self, pictures: Sequence[Image.Image]) -> list[Image.Image]:
        made: list[Image.Image] = []
        for start in range(0, len(pictures), self.batch):
            group = list(pictures[start : start + self.batch])
            made += self.parts(
                [self.words] * len(group),
                image=group,
                strength=1.0,
                num_inference_steps=self.forwards,
                guidance_scale=1.0,
            ).images
        return made
