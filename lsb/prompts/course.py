"""What stays the same while a prompt is learned: the loss of its vectors, at noise that seed and step decide."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lsb.bridge.noise import unit_noise
from lsb.models.prompt import Prompt
from lsb.models.protocol import Backbone
from lsb.prompts.settings import LearningConfig


@dataclass(frozen=True)
class Course:
    """What stays the same during the learning: the model, the latents, each (C, h, w), the settings."""

    backbone: Backbone
    prompts: Sequence[Prompt]
    training: Sequence[Tensor]
    validation: Sequence[Tensor]
    learning: LearningConfig
    seed: str
    sigmas: tuple[float, float]  # between which the noise is
    scale: float  # of all sigmas

    def training_losses(self, step: int, vectors: Tensor, rows: int) -> Iterator[Tensor]:
        """The loss of one batch as a sum of terms of at most so many rows each; a function of seed and step alone."""
        draw = generator(self.seed, "draw", step)
        count = self.learning.batch
        chosen = draw.choice(len(self.training), count, replace=len(self.training) < count)
        strata = (draw.permutation(count) + draw.random(count)) / count
        prompt = self.prompts[int(draw.integers(len(self.prompts)))]
        latents = [self.training[row] for row in chosen]
        losses = self._losses(latents, strata, "noise", step, prompt, vectors, rows)
        if rows >= count:
            yield torch.cat([*losses]).mean()
        else:
            for some in losses:
                yield some.sum() / count

    @property
    def looked_at(self) -> int:
        """How many rows the network is asked for in a look at the held-out images."""
        return math.ceil(self.learning.validation_draws / len(self.validation)) * len(self.validation)

    @torch.no_grad()
    def validation_loss(self, vectors: Tensor, rows: int) -> float:
        """The loss over the held-out images, at the same noise and sigmas each time, in the template to be used."""
        latents = [*self.validation] * (self.looked_at // len(self.validation))
        strata = (generator(self.seed, "validation", 0).permutation(len(latents)) + 0.5) / len(latents)
        size = self.learning.batch
        losses = [
            some
            for start in range(0, len(latents), size)
            for some in self._losses(
                latents[start : start + size],
                strata[start : start + size],
                "validation",
                start // size,
                self.prompts[0],
                vectors,
                rows,
            )
        ]
        return float(torch.cat(losses).double().mean())

    def _losses(
        self,
        latents: Sequence[Tensor],
        strata: np.ndarray,
        purpose: str,
        step: int,
        prompt: Prompt,
        vectors: Tensor,
        rows: int,
    ) -> Iterator[Tensor]:
        """The loss of each row, in some order; `strata` in [0, 1] say where between sigma_min and sigma_max.

        Rows of one shape go through the network together, at most so many at a time.
        """
        alike: dict[torch.Size, list[int]] = {}
        for place, latent in enumerate(latents):
            alike.setdefault(latent.shape, []).append(place)
        for number, places in enumerate(alike.values()):
            x = torch.stack([latents[place] for place in places])
            which = purpose if number == 0 else f"{purpose}/{number}"
            noisy = self._noisy(x, strata[places], which, step)
            for some, eps, sigmas in zip(*(values.split(rows) for values in noisy), strict=True):
                yield self._losses_of(some, eps, sigmas, prompt, vectors)

    def _noisy(self, x: Tensor, strata: np.ndarray, purpose: str, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (B, C, h, w), their noise, and their sigmas (B,) in float64."""
        low, high = map(math.log, self.sigmas)
        sigmas = np.exp(low + (high - low) * strata) * self.scale
        eps = unit_noise(x.shape, seed=self.seed, digest="learning", purpose=purpose, step=step).to(x)
        return x, eps, torch.from_numpy(sigmas)

    def _losses_of(self, x: Tensor, eps: Tensor, sigmas: Tensor, prompt: Prompt, vectors: Tensor) -> Tensor:
        sigma = sigmas.to(x).view(-1, 1, 1, 1)
        condition = self.backbone.embed(prompt, vectors)
        eps_hat = self.backbone.predict(x + sigma * eps, sigmas.tolist(), condition)
        return ((1 + sigma**2) * (eps_hat - eps) ** 2).flatten(1).mean(1)


def generator(seed: str, purpose: str, step: int) -> np.random.Generator:
    """Of what a purpose draws in one step."""
    key = np.frombuffer(hashlib.sha256(f"{seed}/{purpose}/{step}".encode()).digest()[:16], dtype="<u8")
    return np.random.Generator(np.random.Philox(key=key.astype(np.uint64)))
