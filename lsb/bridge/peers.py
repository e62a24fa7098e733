"""The methods that LSB is compared with, in the same protocol and counted in the same forwards.

All are written for x = x_0 + sigma eps, where the deterministic sampler (DDIM) is the Euler method of
dx/dsigma = eps_hat(x, sigma). Levels lie evenly in the network's time.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor

from lsb.bridge.noise import Noise
from lsb.bridge.schedule import NoiseSchedule
from lsb.bridge.velocity import Domain, Predict
from lsb.errors import BridgeError


class PeerSettings(BaseModel):
    """One method to compare with.

    Attributes:
        method: `unchanged` (the source itself), `sdedit`, or `ddib` (dual diffusion implicit bridges).
        nfe: network evaluations, at least 1; `ddib` spends half of them, an even number, on the inversion.
        guidance: eps = eps_n + guidance (eps_1 - eps_n) with the negative prompt n; 1 asks the target prompt alone.
        negative: the prompt that guidance leads away from.
        inversion: under which prompt `ddib` inverts the source.
        sigma: noise level at which `sdedit` enters; tau sqrt(t0 (1-t0)) is LSB's.

    Raises:
        BridgeError: a value outside what is allowed; `field` names it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["unchanged", "sdedit", "ddib"]
    nfe: int = 8
    guidance: float = 1.0
    negative: Literal["source", "null"] = "source"
    inversion: Literal["source", "null"] = "source"
    sigma: float = 1.0

    @model_validator(mode="after")
    def _check(self) -> PeerSettings:
        least = 2 if self.method == "ddib" else 1
        if self.nfe < least or (self.method == "ddib" and self.nfe % 2):
            allowed = "even and at least 2 with ddib" if self.method == "ddib" else "at least 1"
            raise BridgeError(f"nfe is {self.nfe}; it must be {allowed}", field="nfe", value=self.nfe)
        for name in ("guidance", "sigma"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise BridgeError(f"{name} is {value!r}; it must be above 0 and finite", field=name, value=value)
        return self


def translate_by_peer(
    x_0: Tensor, predict: Predict, settings: PeerSettings, noise: Noise, schedule: NoiseSchedule
) -> Tensor:
    """Target latents of source latents x_0 (B, C, h, w) by another method.

    Raises:
        BridgeError: a sigma above the schedule's largest.
    """
    if settings.method == "unchanged":
        return x_0
    if settings.method == "sdedit":
        return sdedit(x_0, predict, settings, noise, schedule)
    return ddib(x_0, predict, settings, schedule)


def peer_forwards(settings: PeerSettings) -> int:
    """Network forwards per image, inversion and guidance included."""
    per_sample = 1 if settings.guidance == 1.0 else 2
    if settings.method == "unchanged":
        return 0
    if settings.method == "sdedit":
        return settings.nfe * per_sample
    return settings.nfe // 2 * (1 + per_sample)


def sdedit(x_0: Tensor, predict: Predict, settings: PeerSettings, noise: Noise, schedule: NoiseSchedule) -> Tensor:
    """SDEdit: noise the source to `sigma`, denoise it under the target prompt.

    Differs from the published method: the sampler is deterministic (DDIM) where the paper solves the reverse SDE, and
    the source is noised once. Like the comparison in the LSB code, it enters at LSB's signal-to-noise ratio and guides
    away from the source prompt; unlike it, times are fractional and no prefix is added to prompts by itself.
    """
    x = x_0 + settings.sigma * noise("start", 0).to(dtype=x_0.dtype, device=x_0.device)
    return _descend(x, predict, settings, levels(schedule, settings.sigma, settings.nfe))


def ddib(x_0: Tensor, predict: Predict, settings: PeerSettings, schedule: NoiseSchedule) -> Tensor:
    """Dual diffusion implicit bridges: invert the source to pure noise, sample the target from it; no noise is drawn.

    Inversion under the source prompt is the paper's, where two models stand for the two prompts; under the null prompt
    it is that of the LSB code. Differs from both: each Euler step of the inversion asks the network at the level where
    it stands, the LSB code at the level where it goes; levels are fractional; and a null-prompt inversion costs one
    forward a step, where the LSB code runs a second one and drops it.
    """
    down = levels(schedule, schedule.sigma_max, settings.nfe // 2)
    x = x_0
    for level, level_next in pairwise(reversed(down)):
        x = x + (level_next - level) * _eps(predict, x, level, settings.inversion)
    return _descend(x, predict, settings, down)


def levels(schedule: NoiseSchedule, sigma: float, steps: int) -> tuple[float, ...]:
    """`steps` + 1 falling noise levels from sigma to 0, even in the network's time but for the last step."""
    time = schedule.network_time(sigma)
    inner = [schedule.sigma_of(time * (steps - index) / steps) for index in range(1, steps)]
    return (sigma, *inner, 0.0)


def _descend(x: Tensor, predict: Predict, settings: PeerSettings, down: tuple[float, ...]) -> Tensor:
    for level, level_next in pairwise(down):
        eps = _eps(predict, x, level, "target")
        if settings.guidance != 1.0:
            negative = _eps(predict, x, level, settings.negative)
            eps = negative + settings.guidance * (eps - negative)
        x = x + (level_next - level) * eps
    return x


def _eps(predict: Predict, x: Tensor, level: float, domain: Domain) -> Tensor:
    return predict(x, level, domain).to(dtype=x.dtype, device=x.device)
