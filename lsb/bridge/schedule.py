"""From the bridge's sigma to a diffusion network's time, for variance-preserving networks.

sigma        standard deviation of the noise in x_t, in units of the latent
alpha_bar    1 / (1 + sigma²): equal signal-to-noise ratio in the network's variable y = x_t / sqrt(1 + sigma²)
k            the network's time; alphas_cumprod[k] belongs to k, k = 0 ... N-1
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lsb.errors import BridgeError

PUBLISHED_END = 19  # the published code re-noises its result to diffusers' alphas_cumprod[19]


@dataclass(frozen=True)
class NoiseSchedule:
    """A network's table of `alphas_cumprod`, strictly decreasing within (0, 1).

    A last value of 0 (a schedule rescaled to zero terminal signal-to-noise ratio) is left out: its sigma is infinite,
    and no bridge reaches it.

    Raises:
        BridgeError: the table is too short, not decreasing or out of range.
    """

    alphas_cumprod: tuple[float, ...] = field(repr=False)

    def __post_init__(self) -> None:
        table = tuple(float(value) for value in self.alphas_cumprod)
        if table and table[-1] == 0.0:
            table = table[:-1]
        object.__setattr__(self, "alphas_cumprod", table)
        if len(table) < 2:
            raise BridgeError(f"alphas_cumprod has {len(table)} usable values; a noise schedule needs at least 2")
        previous = 1.0
        for index, value in enumerate(table):
            if not 0.0 < value < previous:
                raise BridgeError(
                    f"alphas_cumprod[{index}] is {value!r}; the values must decrease strictly from below 1 to above 0"
                )
            previous = value

    @classmethod
    def of(cls, alphas_cumprod: Iterable[float]) -> NoiseSchedule:
        """From any sequence of numbers, tensors and arrays included."""
        return cls(tuple(float(value) for value in alphas_cumprod))

    @property
    def sigma_min(self) -> float:
        """The smallest sigma the network was trained at."""
        return float(math.exp(self._log_sigmas[0]))

    @property
    def sigma_max(self) -> float:
        """The largest sigma the network can be asked for."""
        return float(math.exp(self._log_sigmas[-1]))

    @property
    def tau_max(self) -> float:
        """The largest tau: sigma(t) peaks at t = 1/2 with tau / 2."""
        return 2.0 * self.sigma_max

    def network_time(self, sigma: float) -> float:
        """The fractional time k in [0, N-1] whose sigma this is: linear in log sigma between the table's entries.

        Below `sigma_min` the time is clamped to 0; the caller keeps the true sigma.

        Raises:
            BridgeError: sigma is negative, not a number, or above `sigma_max`.
        """
        self._check(sigma)
        if sigma <= self.sigma_min:
            return 0.0
        return float(np.interp(math.log(sigma), self._log_sigmas, np.arange(len(self._log_sigmas))))

    def sigma_of(self, time: float) -> float:
        """Inverse of `network_time`.

        Raises:
            BridgeError: time outside [0, N-1].
        """
        last = len(self._log_sigmas) - 1
        if not 0.0 <= time <= last:
            raise BridgeError(f"network time {time!r} is outside the schedule; allowed are 0 to {last}")
        return float(math.exp(np.interp(time, np.arange(last + 1), self._log_sigmas)))

    def published_time(self, sigma: float) -> int:
        """The integer step of the published LSB code, which `preset: published` feeds to the network.

        That code works on a table shifted by one, `[1.0, *alphas_cumprod]`: entry k is called alpha_bar after k
        noising steps, so it holds the value that the network was trained to see at time k - 1. It looks up
        1 / (1 + sigma²) by linear interpolation and rounds to the nearest index, which is the entry with the nearest
        alpha_bar; the network is given time k, 0 ... N. It then goes on with that entry's sigma, `published_sigma`,
        in place of the true one, for the scaling of y and for x_hat (not for sigma').

        The published code clamps a sigma above the table's; here it is an error.

        Raises:
            BridgeError: sigma is negative, not a number, or above `sigma_max`.
        """
        self._check(sigma)
        return int(np.argmin(np.abs(self._shifted - 1.0 / (1.0 + sigma * sigma))))

    def published_sigma(self, sigma: float) -> float:
        """The sigma of entry `published_time(sigma)` of the shifted table. `published_time` of it is the same k."""
        alpha_bar = float(self._shifted[self.published_time(sigma)])
        return math.sqrt((1.0 - alpha_bar) / alpha_bar)

    @property
    def published_end(self) -> float:
        """alpha_bar to which the published code re-noises its result.

        Raises:
            BridgeError: the table has fewer than 20 entries.
        """
        if len(self.alphas_cumprod) <= PUBLISHED_END:
            raise BridgeError(
                f"the schedule has {len(self.alphas_cumprod)} steps; preset published needs at least "
                f"{PUBLISHED_END + 1}: use preset default"
            )
        return self.alphas_cumprod[PUBLISHED_END]

    @cached_property
    def _log_sigmas(self) -> NDArray[np.float64]:
        alpha_bar = np.asarray(self.alphas_cumprod, dtype=np.float64)
        return 0.5 * (np.log1p(-alpha_bar) - np.log(alpha_bar))

    @cached_property
    def _shifted(self) -> NDArray[np.float64]:
        return np.asarray([1.0, *self.alphas_cumprod], dtype=np.float64)

    def _check(self, sigma: float) -> None:
        if not (math.isfinite(sigma) and sigma >= 0.0):
            raise BridgeError(f"sigma is {sigma!r}; it must be a finite number of at least 0", sigma=sigma)
        # A table in float32 and a sigma read back from it may differ in the last digits.
        if sigma > self.sigma_max * (1.0 + 1e-6):
            raise BridgeError(
                f"sigma {sigma:.6g} is above the schedule's largest, {self.sigma_max:.6g}; "
                f"the largest tau for this model is {self.tau_max:.6g}",
                sigma=sigma,
                tau_max=self.tau_max,
            )
