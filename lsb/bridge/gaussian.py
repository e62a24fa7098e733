"""The exact bridge between two Gaussians: what the solvers and formulas are tested against.

    N(m_0, S_0), N(m_1, S_1)   the two ends, dimension d
    C                          cross-covariance of x_0 and x_1 under the static bridge
    N(m_t, S_t)                marginal at t:  m_t = (1-t) m_0 + t m_1
                               S_t = (1-t)² S_0 + t² S_1 + t (1-t) (C + Cᵀ) + sigma² I
    K_0, K_1                   covariance of x_0, x_1 with x_t:  (1-t) S_0 + t C,  (1-t) Cᵀ + t S_1

Transport and marginals hold for every C; only the static bridge's C has -I/tau² off the diagonal of the joint
precision. All in float64; states are (B, d).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lsb.bridge.velocity import Domain, Predictors, sigma
from lsb.errors import BridgeError


@dataclass(frozen=True)
class GaussianBridge:
    """A jointly Gaussian coupling of two ends and the Brownian bridge between them.

    `between` makes the Schrödinger bridge; the constructor takes any C.
    """

    m_0: Tensor  # (d,)
    S_0: Tensor  # (d, d)
    m_1: Tensor
    S_1: Tensor
    C: Tensor
    tau: float

    @classmethod
    def between(cls, m_0: Tensor, S_0: Tensor, m_1: Tensor, S_1: Tensor, tau: float) -> GaussianBridge:
        """The static Schrödinger bridge between two Gaussians.

        Raises:
            BridgeError: tau not above 0, or a covariance that is not symmetric positive definite.
        """
        return cls(m_0, S_0, m_1, S_1, cross_covariance(S_0, S_1, tau), tau)

    def marginal(self, t: float) -> tuple[Tensor, Tensor]:
        """(m_t, S_t)."""
        level = sigma(t, self.tau)
        unit = torch.eye(len(self.m_0), dtype=self.m_0.dtype)
        S_t = (1 - t) ** 2 * self.S_0 + t**2 * self.S_1 + t * (1 - t) * (self.C + self.C.T) + level**2 * unit
        return (1 - t) * self.m_0 + t * self.m_1, S_t

    def predictors(self, x_t: Tensor, t: float, /) -> Predictors:
        """Conditional expectations of x_0, x_1 and eps given x_t (B, d); affine in x_t.

        x_i_hat = m_i + K_i S_t^-1 (x_t - m_t), eps_hat = sigma S_t^-1 (x_t - m_t).
        """
        m_t, S_t = self.marginal(t)
        whitened = torch.linalg.solve(S_t, (x_t - m_t).T).T
        K_0 = (1 - t) * self.S_0 + t * self.C
        K_1 = (1 - t) * self.C.T + t * self.S_1
        return Predictors(self.m_0 + whitened @ K_0.T, self.m_1 + whitened @ K_1.T, sigma(t, self.tau) * whitened)

    def predict(self, x_t: Tensor, level: float, domain: Domain, /) -> Tensor:
        """A perfect network: the expectation of eps in x_t = x_i + level eps, x_i from the domain's Gaussian."""
        mean, covariance = (self.m_0, self.S_0) if domain == "source" else (self.m_1, self.S_1)
        noisy = covariance + level**2 * torch.eye(len(mean), dtype=mean.dtype)
        return level * torch.linalg.solve(noisy, (x_t - mean).T).T

    def joint_precision(self) -> Tensor:
        """Inverse of [[S_0, C], [Cᵀ, S_1]], (2d, 2d)."""
        top = torch.cat([self.S_0, self.C], dim=1)
        bottom = torch.cat([self.C.T, self.S_1], dim=1)
        return torch.linalg.inv(torch.cat([top, bottom]))


def cross_covariance(S_0: Tensor, S_1: Tensor, tau: float) -> Tensor:
    """C = (S_0^½ D S_0^-½ - tau² I) / 2 with D = (4 S_0^½ S_1 S_0^½ + tau⁴ I)^½, (d, d).

    Raises:
        BridgeError: tau not above 0, or a covariance that is not symmetric positive definite.
    """
    if not tau > 0:
        raise BridgeError(f"tau is {tau!r}; it must be above 0", field="tau", value=tau)
    for name, covariance in (("S_0", S_0), ("S_1", S_1)):
        symmetric = torch.allclose(covariance, covariance.T)
        if not symmetric or float(torch.linalg.eigvalsh(covariance)[0]) <= 0:
            raise BridgeError(f"{name} must be symmetric positive definite", field=name)
    unit = torch.eye(len(S_0), dtype=S_0.dtype)
    root = matrix_root(S_0)
    D = matrix_root(4 * root @ S_1 @ root + tau**4 * unit)
    return 0.5 * (root @ D @ torch.linalg.inv(root) - tau**2 * unit)


def matrix_root(matrix: Tensor) -> Tensor:
    """The symmetric square root of a symmetric positive definite matrix."""
    values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.T))
    return (vectors * values.sqrt()) @ vectors.T


def gaussian_distance(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """Wasserstein-2 distance of two Gaussians (Bures), in the units of x."""
    root = matrix_root(covariance)
    # A pushed covariance may be singular to rounding: eigenvalues below zero are noise.
    inner = torch.linalg.eigvalsh(root @ other_covariance @ root).clamp(min=0).sqrt().sum()
    spread = torch.trace(covariance + other_covariance) - 2 * inner
    return float((((mean - other_mean) ** 2).sum() + spread).clamp(min=0).sqrt())
