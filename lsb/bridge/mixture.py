"""The exact bridge of a multimodal problem, by choosing its potentials.

    phi_0, phi_1   Gaussian mixtures with K_0 and K_1 components
    pi             joint of (x_0, x_1), proportional to phi_0(x_0) phi_1(x_1) exp(-|x_0 - x_1|² / (2 tau²))

pi factorises as every Schrödinger bridge does, so it is the exact bridge of its own marginals p_0 and p_1, which are
not phi_0 and phi_1. It is a mixture of K_0 K_1 Gaussians: component (j, k) has the precision
[[S_j^-1 + I/tau², -I/tau²], [-I/tau², S_k^-1 + I/tau²]] and a weight proportional to
a_j a_k N(mu_j - mu_k; 0, S_j + S_k + tau² I). All in float64; states are (B, d).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lsb.bridge.gaussian import GaussianBridge
from lsb.bridge.velocity import Domain, Predictors
from lsb.errors import BridgeError


@dataclass(frozen=True)
class GaussianMixture:
    """Weights (K,) that sum to 1, means (K, d) and covariances (K, d, d).

    Raises:
        BridgeError: weights that are not positive or do not sum to 1.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def __post_init__(self) -> None:
        if bool((self.weights <= 0).any()) or abs(float(self.weights.sum()) - 1) > 1e-9:
            raise BridgeError(f"mixture weights {self.weights.tolist()} must be positive and sum to 1")

    def log_components(self, x: Tensor) -> Tensor:
        """log(weight) + log density of each component at x (B, d): (B, K)."""
        factors = torch.linalg.cholesky(self.covariances)
        offset = (x[:, None, :] - self.means)[..., None]
        white = torch.linalg.solve_triangular(factors, offset, upper=False)[..., 0]
        log_volume = torch.log(torch.diagonal(factors, dim1=-2, dim2=-1)).sum(-1)
        normal = -0.5 * (white**2).sum(-1) - log_volume - 0.5 * x.shape[1] * torch.log(torch.tensor(2 * torch.pi))
        return torch.log(self.weights) + normal

    def log_density(self, x: Tensor) -> Tensor:
        """(B,)."""
        return torch.logsumexp(self.log_components(x), dim=1)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean (d,) and covariance (d, d)."""
        mean = self.weights @ self.means
        offset = self.means - mean
        spread = torch.einsum("k,ki,kj->ij", self.weights, offset, offset)
        return mean, spread + torch.einsum("k,kij->ij", self.weights, self.covariances)

    def noised(self, level: float) -> GaussianMixture:
        """Distribution of x + level eps."""
        unit = torch.eye(self.means.shape[1], dtype=self.means.dtype)
        return GaussianMixture(self.weights, self.means, self.covariances + level**2 * unit)

    def scaled(self, factor: float) -> GaussianMixture:
        """Distribution of factor x."""
        return GaussianMixture(self.weights, factor * self.means, factor**2 * self.covariances)

    def along(self, direction: Tensor) -> GaussianMixture:
        """Distribution of the projection on a unit vector (d,), as a mixture in one dimension."""
        variances = torch.einsum("kij,i,j->k", self.covariances, direction, direction)
        return GaussianMixture(self.weights, (self.means @ direction)[:, None], variances[:, None, None])

    def distribution(self, x: Tensor) -> Tensor:
        """Cumulative distribution at x (B,); one dimension only."""
        z = (x[:, None] - self.means[:, 0]) / self.covariances[:, 0, 0].sqrt()
        return torch.special.ndtr(z) @ self.weights

    def quantile(self, levels: Tensor) -> Tensor:
        """Inverse of `distribution` at levels within (0, 1), by bisection; one dimension only."""
        reach = 12 * self.covariances.max().sqrt()
        low = torch.full_like(levels, float(self.means.min() - reach))
        high = torch.full_like(levels, float(self.means.max() + reach))
        for _ in range(80):
            middle = 0.5 * (low + high)
            below = self.distribution(middle) < levels
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return 0.5 * (low + high)

    def sample(self, uniform: Tensor, normal: Tensor) -> Tensor:
        """Points (B, d) from numbers (B,) uniform on [0, 1) that choose the component and unit normals (B, d)."""
        edges = torch.cumsum(self.weights, 0)
        component = torch.searchsorted(edges, uniform.contiguous(), right=True).clamp(max=len(edges) - 1)
        factors = torch.linalg.cholesky(self.covariances)[component]
        return self.means[component] + torch.einsum("bij,bj->bi", factors, normal)


@dataclass(frozen=True)
class MixtureBridge:
    """A mixture of Gaussian bridges that is itself the exact bridge of its marginals."""

    weights: Tensor  # (K,), K = K_0 K_1
    components: tuple[GaussianBridge, ...]
    tau: float

    @classmethod
    def of_potentials(cls, phi_0: GaussianMixture, phi_1: GaussianMixture, tau: float) -> MixtureBridge:
        """The bridge with these potentials.

        Raises:
            BridgeError: tau not above 0.
        """
        if not tau > 0:
            raise BridgeError(f"tau is {tau!r}; it must be above 0", field="tau", value=tau)
        d = phi_0.means.shape[1]
        unit = torch.eye(d, dtype=phi_0.means.dtype)
        log_weights = []
        components = []
        for a_j, mu_j, S_j in zip(phi_0.weights, phi_0.means, phi_0.covariances, strict=True):
            for a_k, mu_k, S_k in zip(phi_1.weights, phi_1.means, phi_1.covariances, strict=True):
                precision_j, precision_k = torch.linalg.inv(S_j), torch.linalg.inv(S_k)
                top = torch.cat([precision_j + unit / tau**2, -unit / tau**2], dim=1)
                bottom = torch.cat([-unit / tau**2, precision_k + unit / tau**2], dim=1)
                joint = torch.linalg.inv(torch.cat([top, bottom]))
                mean = joint @ torch.cat([precision_j @ mu_j, precision_k @ mu_k])
                components.append(GaussianBridge(mean[:d], joint[:d, :d], mean[d:], joint[d:, d:], joint[:d, d:], tau))
                gap = S_j + S_k + tau**2 * unit
                offset = mu_j - mu_k
                log_normal = -0.5 * (offset @ torch.linalg.solve(gap, offset) + torch.logdet(gap))
                log_weights.append(torch.log(a_j) + torch.log(a_k) + log_normal)
        return cls(torch.softmax(torch.stack(log_weights), 0), tuple(components), tau)

    def marginal(self, t: float) -> GaussianMixture:
        """p_t, a mixture of K Gaussians."""
        means, covariances = zip(*(component.marginal(t) for component in self.components), strict=True)
        return GaussianMixture(self.weights, torch.stack(means), torch.stack(covariances))

    def predictors(self, x_t: Tensor, t: float, /) -> Predictors:
        """Conditional expectations of x_0, x_1 and eps given x_t (B, d)."""
        responsibility = torch.softmax(self.marginal(t).log_components(x_t), dim=1)
        found = [component.predictors(x_t, t) for component in self.components]

        def mean(parts: list[Tensor]) -> Tensor:
            return torch.einsum("bk,kbd->bd", responsibility, torch.stack(parts))

        return Predictors(
            mean([each.x_0_hat for each in found]),
            mean([each.x_1_hat for each in found]),
            mean([each.eps_hat for each in found]),
        )

    def predict(self, x_t: Tensor, level: float, domain: Domain, /) -> Tensor:
        """A perfect network: the expectation of eps in x_t = x_i + level eps, x_i from p_0 or p_1."""
        noisy = self.marginal(0.0 if domain == "source" else 1.0).noised(level)
        responsibility = torch.softmax(noisy.log_components(x_t), dim=1)
        offset = (x_t[:, None, :] - noisy.means)[..., None]
        white = torch.linalg.solve(noisy.covariances, offset)[..., 0]
        return level * torch.einsum("bk,bkd->bd", responsibility, white)
