"""Whether words matter to a model: how much worse it denoises pictures of a look under the words for another one.

    rise(sigma) = exp(mean log(|x_hat_wrong - x|² / |x_hat_right - x|²)) - 1,    x_hat = x + sigma eps - sigma eps_hat

over pictures, at the same noise, so that no single one of them decides. A model that does not know the words has none,
and no prompt of them leads from one look to the other. Where the picture itself shows its look words may matter little;
what a prompt is learned from has to lie elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lsb.bridge.noise import unit_noise
from lsb.models.protocol import Backbone

CLEAR = 3.0  # standard errors beyond which a rise is no chance
_TOGETHER, _TINY = 16, 1e-12


@dataclass(frozen=True)
class Heard:
    """At one noise level.

    Attributes:
        sigma: at the model's own area.
        loss: mean squared error of x_hat under the right words.
        rise: how much more it is under the wrong ones, as a share.
        error: standard error of log(1 + rise), over the pictures.
    """

    sigma: float
    loss: float
    rise: float
    error: float

    @property
    def is_clear(self) -> bool:
        return math.log1p(self.rise) > CLEAR * self.error


@torch.no_grad()
def listen(
    backbone: Backbone,
    latents: Sequence[Tensor],
    right: Tensor,
    wrong: Tensor,
    sigmas: Sequence[float],
    *,
    seed: str,
    scale: float = 1.0,
) -> list[Heard]:
    """What words do at each of these sigmas.

    Args:
        latents: (C, h, w) of pictures that the right words are for, two at least, of any sizes.
        right: condition (1, L, D), as `wrong`.
        scale: of all sigmas where pictures have another area than the model's own.
    """
    alike: dict[torch.Size, list[int]] = {}
    for place, latent in enumerate(latents):
        alike.setdefault(latent.shape, []).append(place)
    found = []
    for sigma in sigmas:
        errors: list[Tensor] = []
        for places in alike.values():
            for start in range(0, len(places), _TOGETHER):
                some = places[start : start + _TOGETHER]
                x = torch.stack([latents[place] for place in some])
                eps = torch.stack([_noise(x.shape[1:], seed, place, sigma) for place in some]).to(x)
                x_t, level = x + scale * sigma * eps, scale * sigma
                answers = [backbone.predict(x_t, level, condition) for condition in (right, wrong)]
                errors.append(torch.stack([((eps_hat - eps) * level).square().mean((1, 2, 3)) for eps_hat in answers]))
        found.append(_heard(sigma, torch.cat(errors, dim=1).double().cpu()))
    return found


def audible_from(heard: Sequence[Heard]) -> float | None:
    """The sigma above which wrong words raise the loss by at least half of what they do at the best sigma, down from
    that; None where they do nothing that is clear."""
    clear = [place for place, one in enumerate(heard) if one.is_clear]
    if not clear:
        return None
    best = max(clear, key=lambda place: heard[place].rise)
    half = heard[best].rise / 2
    for place in range(best - 1, -1, -1):
        below, above = heard[place], heard[place + 1]
        if below.rise < half:
            share = (half - below.rise) / (above.rise - below.rise)
            return math.exp(math.log(below.sigma) + share * (math.log(above.sigma) - math.log(below.sigma)))
    return heard[0].sigma


def _noise(shape: Sequence[int], seed: str, place: int, sigma: float) -> Tensor:
    return unit_noise(shape, seed=seed, digest=f"{sigma:.6g}", purpose="listening", step=place)


def _heard(sigma: float, errors: Tensor) -> Heard:
    """Of errors (2, N) under right and wrong words."""
    ratios = errors[1].clamp_min(_TINY).log() - errors[0].clamp_min(_TINY).log()
    error = float(ratios.std() / math.sqrt(len(ratios)))
    return Heard(sigma, float(errors[0].mean()), math.expm1(float(ratios.mean())), error)
