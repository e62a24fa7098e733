"""A problem whose best vectors are known, with what tests of learning ask of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from lsb.config.job import LearningConfig
from lsb.ledger.transform import ModelIdentity
from lsb.models.prompt import Prompt
from lsb.pictures.geometry import Canvas
from lsb.prompts.learning import LearnedPrompt, learn_prompt

QUICK = LearningConfig(
    steps=12,
    batch=4,
    validate_every=4,
    validation_draws=16,
    learning_rate=0.02,
    patience=100,
    sigma_min=0.3,
    sigma_max=3.0,
)


@dataclass
class Memory:
    """A checkpoint in memory; can die after a number of saves."""

    data: bytes | None = None
    dies_after: int | None = None
    saves: int = 0
    of_fewer: bool = False

    def load(self) -> tuple[bytes, bool] | None:
        return None if self.data is None else (self.data, self.of_fewer)

    def save(self, state: bytes) -> None:
        self.data = state
        self.saves += 1
        if self.saves == self.dies_after:
            raise KeyboardInterrupt


@dataclass
class Bars:
    calls: list[tuple[str, Any]] = field(default_factory=list)

    def start(self, name: str, total: int) -> None:
        self.calls.append(("start", (name, total)))

    def advance(self, name: str, n: int = 1, **figures: float) -> None:
        self.calls.append(("advance", n))

    def finish(self, name: str) -> None:
        self.calls.append(("finish", name))


class Line:
    """A backbone whose every image is the sum of the prompt's vectors: the best vectors are known.

    x_hat = c, so eps_hat = (x_t - c) / sigma, and for images that all are `m` the loss is zero at c = m.
    """

    identity = ModelIdentity("line", None, "0" * 64, {})
    canvas, sigma_max, device, dtype = Canvas(4, 1), 10.0, "cpu", "float32"

    def __init__(self, broken: frozenset[int] = frozenset()) -> None:
        self.broken, self.calls = broken, 0

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        return 3, height, width

    def encode(self, images: torch.Tensor, eps: torch.Tensor | None = None) -> torch.Tensor:
        return images

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents

    def embed(self, prompt: Prompt, vectors: torch.Tensor | None = None) -> torch.Tensor:
        assert vectors is not None
        return vectors.sum(0).view(1, 1, -1)

    def table_vectors(self, text: str) -> torch.Tensor:
        return torch.zeros(len(text.split()), 3)

    def table_scale(self) -> tuple[float, float]:
        return 0.5, 10.0

    def predict(self, x_t: torch.Tensor, sigma: Any, condition: torch.Tensor) -> Any:
        if torch.is_grad_enabled():
            self.calls += 1
        bad = torch.nan if torch.is_grad_enabled() and self.calls in self.broken else 0.0
        scale = torch.tensor(sigma).to(x_t).view(-1, 1, 1, 1)
        return (x_t - condition.view(-1, 3, 1, 1)) / scale + bad


def flat_colour(value: tuple[float, float, float], count: int = 6) -> torch.Tensor:
    """Images that are nearly equal, so that they count as different."""
    base = torch.tensor(value).view(1, 3, 1, 1).expand(count, 3, 4, 4).clone()
    base[:, 0, 0, 0] += torch.arange(count) * 1e-6
    return base


def learn(backbone: Any, images: Any, settings: LearningConfig = QUICK, **options: Any) -> LearnedPrompt:
    return learn_prompt(backbone, images, "<new>", options.pop("initial", "red dog"), 2, settings, "7", **options)


def pictures(count: int = 10) -> list[Image.Image]:
    return [Image.new("RGB", (32 + number, 32), (20 * number, 200 - 10 * number, 90)) for number in range(count)]


def same(one: LearnedPrompt, two: LearnedPrompt) -> bool:
    return one.prompt == two.prompt and one.history == two.history and one.best_step == two.best_step
