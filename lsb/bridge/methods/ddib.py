"""DDIB, dual diffusion implicit bridges: invert the source to noise, sample the target from it; no noise is drawn.

Source: X. Su et al., "Dual Diffusion Implicit Bridges for Image-to-Image Translation", 2023, arXiv:2203.08382.
Inversion under the source's prompt is the paper's, where two models stand for the two prompts; under a negative prompt
that is left empty it is that of the LSB code. Differs from both: each Euler step of the inversion asks the network at
the level where it stands, the LSB code at the level where it goes; levels are fractional; `sigma` may end the inversion
before the noise is pure; and an inversion under the negative prompt costs one forward a step, where the LSB code runs a
second one and drops it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from lsb.bridge.method import Levels
from lsb.bridge.methods.guided import Guided, asked

if TYPE_CHECKING:
    from torch import Tensor

    from lsb.bridge.noise import Noise
    from lsb.bridge.velocity import Domain, Predict


class Ddib(Guided):
    """DDIB: the source is inverted to noise, and the target sampled from it. Forwards: half of `nfe` for the inversion,
    half for the sampling, which are twice as many if guided.
    """

    name: Literal["ddib"] = Field(default="ddib", description="The method.")
    nfe: int = Field(default=16, ge=2, description="Steps up and down, evaluations of the network; an even number.")
    sigma: float | None = Field(
        default=None,
        gt=0,
        description="Noise level to which the source is inverted, in units of the scaled latents. Left out, the "
        "largest that the model has.",
    )
    inversion: Literal["source", "negative"] = Field(
        default="source",
        description="The prompt under which the source is inverted: its own, or `prompts.negative`.",
    )

    @model_validator(mode="after")
    def _check_even(self) -> Self:
        self._require(self.nfe % 2 == 0, "nfe", "even: as many steps up as down")
        return self

    @property
    def forwards(self) -> int:
        return self.nfe // 2 * (1 + len(self.sampled))

    @property
    def largest_sigma(self) -> float | None:
        return self.sigma

    @property
    def asks(self) -> frozenset[Domain]:
        return frozenset({self.inversion, *self.sampled})

    def translate(self, x_0: Tensor, predict: Predict, noise: Noise, levels: Levels) -> Tensor:
        down = levels.falling(self.sigma or levels.sigma_max, self.nfe // 2)
        x = x_0
        for level, level_next in pairwise(reversed(down)):
            x = x + (level_next - level) * asked(predict, x, level, self.inversion)
        return self.sample(x, predict, down)
