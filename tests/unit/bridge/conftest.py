"""Exact problems that the tests of the bridge share. All in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lsb.bridge.gaussian import GaussianBridge
from lsb.bridge.mixture import GaussianMixture, MixtureBridge
from lsb.bridge.schedule import NoiseSchedule

DIMENSION = 3
TAU = 1.3


def covariance(dimension: int, generator: torch.Generator, scale: float = 1.0) -> Tensor:
    """A well-conditioned random covariance."""
    factor = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)
    return scale * (factor @ factor.T / dimension + 0.3 * torch.eye(dimension, dtype=torch.float64))


@pytest.fixture
def gaussian() -> GaussianBridge:
    """A bridge between two Gaussians whose covariances do not commute."""
    generator = torch.Generator().manual_seed(1)
    m_0, m_1 = torch.randn(2, DIMENSION, generator=generator, dtype=torch.float64)
    S_0, S_1 = covariance(DIMENSION, generator), covariance(DIMENSION, generator)
    return GaussianBridge.between(m_0, S_0, m_1, S_1, TAU)


@pytest.fixture
def mixture() -> MixtureBridge:
    """Two modes to three, in the plane."""
    generator = torch.Generator().manual_seed(2)
    phi_0 = GaussianMixture(
        torch.tensor([0.4, 0.6], dtype=torch.float64),
        torch.tensor([[-2.0, 0.0], [1.5, 1.0]], dtype=torch.float64),
        torch.stack([covariance(2, generator, 0.3) for _ in range(2)]),
    )
    phi_1 = GaussianMixture(
        torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64),
        torch.tensor([[2.0, -1.0], [-1.0, 2.0], [0.0, -3.0]], dtype=torch.float64),
        torch.stack([covariance(2, generator, 0.3) for _ in range(3)]),
    )
    return MixtureBridge.of_potentials(phi_0, phi_1, TAU)


@pytest.fixture
def line_mixture() -> MixtureBridge:
    """Two modes to three, in one dimension, where transport can be checked by cumulative distributions."""

    def potential(weights: list[float], means: list[float], deviation: float) -> GaussianMixture:
        return GaussianMixture(
            torch.tensor(weights, dtype=torch.float64),
            torch.tensor(means, dtype=torch.float64)[:, None],
            torch.full((len(means), 1, 1), deviation**2, dtype=torch.float64),
        )

    return MixtureBridge.of_potentials(
        potential([0.3, 0.7], [-1.5, 1.0], 0.5), potential([0.5, 0.5], [-2.0, 2.0], 0.6), TAU
    )


@pytest.fixture(scope="session")
def schedule() -> NoiseSchedule:
    """Stable Diffusion's: scaled linear betas."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return NoiseSchedule.of(np.cumprod(1 - betas))
