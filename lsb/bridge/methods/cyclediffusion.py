"""CycleDiffusion: a stochastic sampler's noise is recorded along the source and replayed under the target's prompt.

    x_k      the source's path: x_0 + sigma eps first, then drawn from the posterior given x_0, down to x_0 itself
    z_k      the target's, from the same first point
    mu_i     mean of the next point under prompt i: x - level eps_i + sqrt(next² - spread²) eps_i
    spread   eta next sqrt(1 - next² / level²), the standard deviation of the sampler's noise
    r_k      what the encoder records: x_{k+1} - mu_0(x_k), spread times the noise

    z_{k+1} = mu_1(z_k) + r_k = x_{k+1} + (z_k - x_k) + (sqrt(next² - spread²) - level) (eps_1(z_k) - eps_0(x_k))

Source: C. H. Wu, F. De la Torre, "A Latent Space of Stochastic Diffusion Models for Zero-Shot Image Editing and
Guidance", 2023, arXiv:2210.05559, its DPM-Encoder. Differs from it: levels are fractional, and nothing is clipped; r is
never divided by its spread, so that eta may be 0 (then it is FlowEdit with w = 1 and one fixed noise, step by step);
there is one sample of one setting, where the paper draws 15 and takes the one that CLIP prefers; and guidance may lead
away from the source's prompt, where the paper's leads away from the empty text.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lsb.bridge.method import Levels
from lsb.bridge.methods.guided import Guided, asked

if TYPE_CHECKING:
    from torch import Tensor

    from lsb.bridge.noise import Noise
    from lsb.bridge.velocity import Domain, Predict


class CycleDiffusion(Guided):
    """CycleDiffusion: noise that explains the source is recorded and replayed under the target's prompt. Forwards: 2 a
    step, 3 if guided.
    """

    name: Literal["cyclediffusion"] = Field(default="cyclediffusion", description="The method.")
    nfe: int = Field(default=8, ge=1, description="Steps, evaluations of both prompts.")
    sigma: float = Field(
        default=1.0, gt=0, description="Noise level at which the paths begin, in units of the scaled latents."
    )
    eta: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Share of the sampler's noise: 0 is DDIM's, which has none, 1 DDPM's. The paper's is 0.1.",
    )

    @property
    def forwards(self) -> int:
        return self.nfe * (1 + len(self.sampled))

    @property
    def largest_sigma(self) -> float:
        return self.sigma

    @property
    def asks(self) -> frozenset[Domain]:
        return frozenset({"source", *self.sampled})

    def translate(self, x_0: Tensor, predict: Predict, noise: Noise, levels: Levels) -> Tensor:
        def drawn(purpose: str, step: int) -> Tensor:
            return noise(purpose, step).to(dtype=x_0.dtype, device=x_0.device)

        x = z = x_0 + self.sigma * drawn("start", 0)
        for step, (level, after) in enumerate(pairwise(levels.falling(self.sigma, self.nfe))):
            spread = self.eta * after * math.sqrt(1.0 - (after / level) ** 2)
            kept = math.sqrt(after**2 - spread**2)
            change = self.guided(predict, z, level) - asked(predict, x, level, "source")
            x_after = x_0 + (kept / level) * (x - x_0)
            if spread > 0.0:
                x_after = x_after + spread * drawn("step", step)
            z = x_after + (z - x) + (kept - level) * change
            x = x_after
        return z
