"""The exact problems on which solvers are measured: Gaussians in closed form, and a mixture in the plane."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lsb.bridge.gaussian import GaussianBridge, gaussian_distance
from lsb.bridge.mixture import GaussianMixture, MixtureBridge
from lsb.bridge.settings import BridgeSettings
from lsb.bridge.solve import enter
from lsb.bridge.velocity import Predict, PredictorFn, sigma

T0, T_END = 0.2, 0.98
DIRECTIONS = 16
MEASURED, TUNED = (0, 512), (7, 1024)  # seed and number of the draws to measure on, and of those to choose times on


@dataclass(frozen=True)
class Problem:
    """An ODE, where it starts, and how far its end is from p_1."""

    name: str
    base: BridgeSettings
    predict: Predict
    exact: PredictorFn | None  # the bridge's own predictors in place of LSB's
    start: Tensor  # at t0, (N, ...)
    tuning: Tensor  # other starts of the same kind, on which times are chosen
    affine: bool  # the points are the mean and mean + factor columns of a Gaussian, not a sample
    distance: Callable[[Tensor], float]  # Wasserstein-2 to p_1 of the pushed points


def settings_of(tau: float, guidance: float, noise: str, start: str = "published") -> BridgeSettings:
    values = {"tau": tau, "t0": T0, "t_end": T_END, "guidance": guidance, "noise": noise, "start": start}
    return BridgeSettings.model_validate(values)


def random_covariance(d: int, generator: torch.Generator, scale: float = 1.0) -> Tensor:
    factor = torch.randn(d, d, generator=generator)
    return scale * (factor @ factor.T / d + 0.3 * torch.eye(d))


def gaussian_bridge(tau: float) -> GaussianBridge:
    generator = torch.Generator().manual_seed(11)
    m_0, m_1 = torch.randn(2, 4, generator=generator)
    return GaussianBridge.between(m_0, random_covariance(4, generator), m_1, random_covariance(4, generator), tau)


def mixture_bridge(tau: float) -> MixtureBridge:
    generator = torch.Generator().manual_seed(12)
    phi_0 = GaussianMixture(
        torch.tensor([0.4, 0.6]),
        torch.tensor([[-2.0, 0.0], [1.5, 1.0]]),
        torch.stack([random_covariance(2, generator, 0.3) for _ in range(2)]),
    )
    phi_1 = GaussianMixture(
        torch.tensor([0.3, 0.3, 0.4]),
        torch.tensor([[2.0, -1.0], [-1.0, 2.0], [0.0, -3.0]]),
        torch.stack([random_covariance(2, generator, 0.3) for _ in range(3)]),
    )
    return MixtureBridge.of_potentials(phi_0, phi_1, tau)


def gaussian_problem(tau: float, guidance: float, noise: str, exact: bool, start: str = "published") -> Problem:
    """Affine maps: the mean, and a point for each column of the start's covariance factor, say everything."""
    bridge = gaussian_bridge(tau)
    mean, covariance = bridge.marginal(T0)
    if not exact:
        scale = 1.0 if start == "centred" else 1 - T0
        mean, covariance = scale * bridge.m_0, scale**2 * bridge.S_0 + sigma(T0, tau) ** 2 * torch.eye(4)
    points = torch.cat([mean[None], mean + torch.linalg.cholesky(covariance).T])

    def distance(x: Tensor) -> float:
        columns = (x[1:] - x[0]).T
        return gaussian_distance(bridge.m_1, bridge.S_1, x[0], columns @ columns.T)

    return Problem(
        _name("Gaussian", tau, guidance, noise, exact),
        settings_of(tau, guidance, noise, start),
        bridge.predict,
        bridge.predictors if exact else None,
        points,
        points,
        True,
        distance,
    )


def mixture_problem(tau: float, guidance: float, noise: str, exact: bool, start: str = "published") -> Problem:
    bridge = mixture_bridge(tau)
    base = settings_of(tau, guidance, noise, start)

    def starts(seed: int, count: int) -> Tensor:
        uniform, normal, eps = draws(seed, count)
        if exact:
            return bridge.marginal(T0).sample(uniform, normal)
        return enter(bridge.marginal(0.0).sample(uniform, normal), base, lambda purpose, step: eps)

    return Problem(
        _name("mixture", tau, guidance, noise, exact),
        base,
        bridge.predict,
        bridge.predictors if exact else None,
        starts(*MEASURED),
        starts(*TUNED),
        False,
        sliced_distance(bridge.marginal(1.0)),
    )


def draws(seed: int = MEASURED[0], count: int = MEASURED[1]) -> tuple[Tensor, Tensor, Tensor]:
    """A Sobol set in 5 dimensions: one uniform number, four unit normals."""
    numbers = torch.quasirandom.SobolEngine(5, scramble=True, seed=seed).draw(count, dtype=torch.float64)
    numbers = numbers.clamp(1e-9, 1 - 1e-9)
    normals = torch.special.ndtri(numbers[:, 1:])
    return numbers[:, 0], normals[:, :2], normals[:, 2:]


def sliced_distance(target: GaussianMixture) -> Callable[[Tensor], float]:
    """Root mean over directions of the squared one-dimensional Wasserstein-2 distance; the target's side is exact."""
    angles = torch.arange(DIRECTIONS) * (math.pi / DIRECTIONS)
    directions = torch.stack([angles.cos(), angles.sin()], 1)
    count = MEASURED[1]
    levels = (torch.arange(count) + 0.5) / count
    quantiles = [target.along(direction).quantile(levels) for direction in directions]

    def distance(x: Tensor) -> float:
        if not bool(torch.isfinite(x).all()):
            return math.inf
        squares = [
            float((((x @ direction).sort().values - quantile) ** 2).mean())
            for direction, quantile in zip(directions, quantiles, strict=True)
        ]
        return math.sqrt(sum(squares) / len(squares))

    return distance


def _name(kind: str, tau: float, guidance: float, noise: str, exact: bool) -> str:
    return f"{kind}, tau {tau}, exact" if exact else f"{kind}, tau {tau}, LSB, w {guidance:g}, {noise}"
