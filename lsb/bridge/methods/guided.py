"""Sampling under the target's prompt, led away from another one.

    eps = eps_n + guidance (eps_1 - eps_n)      n the source's prompt, or the negative one

All is written for x = x_0 + sigma eps, where the deterministic sampler (DDIM) is the Euler method of
dx/dsigma = eps(x, sigma).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lsb.bridge.method import Method

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lsb.bridge.velocity import Domain, Predict


class Guided(Method):
    """What the methods have in common that sample under the target's prompt."""

    guidance: float = Field(
        default=1.0,
        gt=0,
        description="Strength of the target's prompt against another one, a factor. 1 asks the target's alone.",
    )
    against: Literal["source", "negative"] = Field(
        default="source",
        description="The prompt that guidance leads away from: the source's, or `prompts.negative`.",
    )

    @property
    def sampled(self) -> tuple[Domain, ...]:
        """The prompts that a step towards the target asks, a forward each."""
        return ("target",) if self.guidance == 1.0 else ("target", self.against)

    def guided(self, predict: Predict, x: Tensor, level: float) -> Tensor:
        """The guided eps, of x's shape."""
        return guided(predict, x, level, self.guidance, "target", self.against)

    def sample(self, x: Tensor, predict: Predict, down: Sequence[float]) -> Tensor:
        """The deterministic sampler along falling levels."""
        for level, level_next in pairwise(down):
            x = x + (level_next - level) * self.guided(predict, x, level)
        return x


def guided(predict: Predict, x: Tensor, level: float, guidance: float, towards: Domain, against: Domain) -> Tensor:
    """eps under one prompt, led away from another: two forwards, or one where guidance is 1."""
    eps = asked(predict, x, level, towards)
    if guidance == 1.0:
        return eps
    other = asked(predict, x, level, against)
    return other + guidance * (eps - other)


def asked(predict: Predict, x: Tensor, level: float, domain: Domain) -> Tensor:
    """One forward, in the state's dtype."""
    return predict(x, level, domain).to(dtype=x.dtype, device=x.device)
