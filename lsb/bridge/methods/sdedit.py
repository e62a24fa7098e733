"""SDEdit: noise the source to sigma, denoise it under the target's prompt.

Source: C. Meng et al., "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations", 2022,
arXiv:2108.01073. Differs from it: the sampler is deterministic (DDIM) where the paper solves the reverse SDE, and the
source is noised once. Like the comparison in the LSB code, guidance may lead away from the source's prompt; unlike it,
times are fractional and no prefix is added to prompts by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lsb.bridge.method import Levels
from lsb.bridge.methods.guided import Guided

if TYPE_CHECKING:
    from torch import Tensor

    from lsb.bridge.noise import Noise
    from lsb.bridge.velocity import Domain, Predict


class Sdedit(Guided):
    """SDEdit: the source is noised and denoised under the target's prompt. Forwards: `nfe`, twice that if guided."""

    name: Literal["sdedit"] = Field(default="sdedit", description="The method.")
    nfe: int = Field(default=16, ge=1, description="Steps, evaluations of the guided network.")
    sigma: float = Field(
        default=1.0,
        gt=0,
        description="Noise level to which the source is noised, in units of the scaled latents. LSB's is at most half "
        "of tau.",
    )

    @property
    def forwards(self) -> int:
        return self.nfe * len(self.sampled)

    @property
    def largest_sigma(self) -> float:
        return self.sigma

    @property
    def asks(self) -> frozenset[Domain]:
        return frozenset(self.sampled)

    def translate(self, x_0: Tensor, predict: Predict, noise: Noise, levels: Levels) -> Tensor:
        x = x_0 + self.sigma * noise("start", 0).to(dtype=x_0.dtype, device=x_0.device)
        return self.sample(x, predict, levels.falling(self.sigma, self.nfe))
