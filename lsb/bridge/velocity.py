"""The bridge's velocity from three predictors, and LSB's set of them.

    x_t        state at time t in [0, 1], shape (B, C, h, w)
    tau        standard deviation of the reference Brownian motion
    sigma(t)   tau sqrt(t (1-t)), standard deviation of the bridge between fixed ends
    x_0_hat, x_1_hat, eps_hat   source, target and noise predictor
    w          guidance

    v(x_t, t) = w (x_1_hat - x_0_hat) + sigma'(t) eps_hat

Source: J. Kim, B. Kim, J. C. Ye, "Latent Schrödinger Bridge: Prompting Latent Diffusion for Fast Unpaired
Image-to-Image Translation", 2024, arXiv:2411.14863.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from lsb.bridge.settings import NoisePredictor

Domain = Literal["source", "target", "negative"]  # LSB itself never asks the negative one


class Predict(Protocol):
    """The frozen network: eps_hat (B, C, h, w) of x_t at noise level sigma, under a domain's prompt."""

    def __call__(self, x_t: Tensor, sigma: float, domain: Domain, /) -> Tensor: ...


@runtime_checkable
class PredictsBoth(Predict, Protocol):
    """A network that is asked under both domains' prompts in one call."""

    def both(self, x_t: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """eps_hat under the source's prompt and under the target's, each (B, C, h, w)."""
        ...


@dataclass(frozen=True)
class Predictors:
    """What is known about x_t: where it came from, where it goes, and its noise. Each of x_t's shape."""

    x_0_hat: Tensor
    x_1_hat: Tensor
    eps_hat: Tensor


class PredictorFn(Protocol):
    """Predictors at (x_t, t). Only this calls the network."""

    def __call__(self, x_t: Tensor, t: float, /) -> Predictors: ...


def sigma(t: float, tau: float) -> float:
    """sigma(t) = tau sqrt(t (1-t))."""
    return tau * math.sqrt(t * (1.0 - t))


def sigma_prime(t: float, tau: float) -> float:
    """sigma'(t) = tau (1-2t) / (2 sqrt(t (1-t))), for t within (0, 1)."""
    return tau * (1.0 - 2.0 * t) / (2.0 * math.sqrt(t * (1.0 - t)))


def velocity(predictors: Predictors, t: float, tau: float, guidance: float = 1.0) -> Tensor:
    """v = w (x_1_hat - x_0_hat) + sigma'(t) eps_hat. With exact predictors and w = 1, the probability-flow ODE's."""
    drift = guidance * (predictors.x_1_hat - predictors.x_0_hat)
    return drift + sigma_prime(t, tau) * predictors.eps_hat


class LsbPredictors:
    """LSB's predictors: each x_i_hat is the frozen network's denoising of x_t under prompt i.

    x_i_hat = x_t - sigma eps_i. eps_hat is published as eps_0 for t <= 1/2 and eps_1 after (`switch`), which breaks
    the identity (1-t) x_0_hat + t x_1_hat + sigma eps_hat = x_t; `mix`, (1-t) eps_0 + t eps_1, keeps it.

    They are not the conditional expectations under the bridge's coupling, so LSB does not carry p_0 exactly to p_1,
    even with perfect denoisers.

    Attributes:
        forwards: network forwards per image so far; a call makes two.
    """

    def __init__(
        self, predict: Predict, tau: float, noise: NoisePredictor, snap: Callable[[float], float] | None = None
    ) -> None:
        """`snap` replaces sigma by a near one that the network knows (preset `published`)."""
        self._predict = predict
        self._tau = tau
        self._noise = noise
        self._snap = snap
        self.forwards = 0

    def __call__(self, x_t: Tensor, t: float, /) -> Predictors:
        level = self.level(t)
        eps_0, eps_1 = self.both(x_t, t)
        return Predictors(x_t - level * eps_0, x_t - level * eps_1, self._eps_hat(eps_0, eps_1, t))

    def level(self, t: float) -> float:
        """The sigma at which the network is asked at time t."""
        exact = sigma(t, self._tau)
        return exact if self._snap is None else self._snap(exact)

    def eps(self, x_t: Tensor, t: float, domain: Domain) -> Tensor:
        """eps_i at (x_t, t), in the state's dtype: one forward."""
        self.forwards += 1
        return self._predict(x_t, self.level(t), domain).to(dtype=x_t.dtype, device=x_t.device)

    def both(self, x_t: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """eps_0 and eps_1 at (x_t, t): two forwards, in one call where the network takes both prompts."""
        if not isinstance(self._predict, PredictsBoth):
            return self.eps(x_t, t, "source"), self.eps(x_t, t, "target")
        self.forwards += 2
        eps_0, eps_1 = self._predict.both(x_t, self.level(t))
        return eps_0.to(dtype=x_t.dtype, device=x_t.device), eps_1.to(dtype=x_t.dtype, device=x_t.device)

    def clean(self, x_t: Tensor, t: float) -> Tensor:
        """The clean part x_t - sigma(t) eps_hat: one forward with `switch`, two with `mix`."""
        if self._noise == "switch":
            eps_hat = self.eps(x_t, t, "target" if t > 0.5 else "source")
        else:
            eps_hat = self._eps_hat(*self.both(x_t, t), t)
        return x_t - self.level(t) * eps_hat

    def shares(self, t: float, *, late: bool) -> tuple[float, float]:
        """eps_hat = shares[0] eps_0 + shares[1] eps_1; `late` is on which side of its jump at t = 1/2 `switch` is."""
        if self._noise == "mix":
            return 1.0 - t, t
        return (0.0, 1.0) if late else (1.0, 0.0)

    def _eps_hat(self, eps_0: Tensor, eps_1: Tensor, t: float) -> Tensor:
        if self._noise == "switch":
            return eps_1 if t > 0.5 else eps_0
        share_0, share_1 = self.shares(t, late=t > 0.5)
        return share_0 * eps_0 + share_1 * eps_1
