"""The mixture bridge is exact: against quadrature, against the continuity equation, and by transport."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lsb.bridge.clock import THETA
from lsb.bridge.flow import Flow
from lsb.bridge.grid import even
from lsb.bridge.mixture import GaussianMixture, MixtureBridge
from lsb.bridge.solve import integrate
from lsb.bridge.solvers.heun import heun
from lsb.bridge.velocity import LsbPredictors, PredictorFn, Predictors, sigma, velocity
from lsb.errors import BridgeError

NEAR = 1e-6
LINE = torch.linspace(-9, 9, 721, dtype=torch.float64)


def joint_on_the_line(tau: float) -> Tensor:
    """pi(x_0, x_1) of `line_mixture`'s potentials straight from its definition, normalised on LINE x LINE."""

    def potential(weights: list[float], means: list[float], deviation: float) -> Tensor:
        parts = [a * torch.exp(-((LINE - m) ** 2) / (2 * deviation**2)) for a, m in zip(weights, means, strict=True)]
        return torch.stack(parts).sum(0)

    coupling = torch.exp(-((LINE[:, None] - LINE) ** 2) / (2 * tau**2))
    pi = potential([0.3, 0.7], [-1.5, 1.0], 0.5)[:, None] * potential([0.5, 0.5], [-2.0, 2.0], 0.6) * coupling
    return pi / pi.sum()


def check_line_predictors(bridge: MixtureBridge, predictors: PredictorFn) -> None:
    """Conditional expectations against quadrature over the joint density of (x_0, x_1)."""
    pi = joint_on_the_line(bridge.tau)
    for t in (0.1, 0.5, 0.8):
        level = sigma(t, bridge.tau)
        for x in (-1.7, 0.2, 1.4):
            between = (1 - t) * LINE[:, None] + t * LINE
            posterior = pi * torch.exp(-((x - between) ** 2) / (2 * level**2))
            posterior = posterior / posterior.sum()
            expected = [
                (posterior.sum(1) * LINE).sum(),
                (posterior.sum(0) * LINE).sum(),
                (posterior * (x - between)).sum() / level,
            ]
            found = predictors(torch.tensor([[x]], dtype=torch.float64), t)
            got = torch.cat([found.x_0_hat[0], found.x_1_hat[0], found.eps_hat[0]])
            torch.testing.assert_close(got, torch.stack(expected), rtol=0, atol=1e-8)


def check_line_transport(bridge: MixtureBridge, predictors: PredictorFn) -> None:
    """In one dimension the ODE keeps the order of points, so each keeps its value of the cumulative distribution."""
    levels = torch.tensor([0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99], dtype=torch.float64)
    x = bridge.marginal(NEAR).quantile(levels)[:, None]
    for t, t_next in ((NEAR, 0.5), (0.5, 1 - NEAR)):
        grid = even(THETA, t, t_next, 1000)
        x, _ = integrate(x, grid, heun, Flow(predictors, THETA, bridge.tau))
        torch.testing.assert_close(bridge.marginal(t_next).distribution(x[:, 0]), levels, rtol=0, atol=1e-6)


def check_continuity(bridge: MixtureBridge, predictors: PredictorFn) -> None:
    """d log p/dt + div v + v · grad log p = 0 at points of the plane."""
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64).mul(1.5).requires_grad_()
    for t in (0.05, 0.5, 0.9):
        step = 1e-5
        later, earlier = bridge.marginal(t + step), bridge.marginal(t - step)
        change = (later.log_density(x) - earlier.log_density(x)) / (2 * step)
        slope = velocity(predictors(x, t), t, bridge.tau)
        (score,) = torch.autograd.grad(bridge.marginal(t).log_density(x).sum(), x)
        divergence = torch.stack(
            [torch.autograd.grad(slope[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(2)]
        ).sum(0)
        residual = change + divergence + (slope * score).sum(1)
        torch.testing.assert_close(residual, torch.zeros_like(residual), rtol=0, atol=1e-6)


def test_predictors_against_quadrature(line_mixture: MixtureBridge) -> None:
    check_line_predictors(line_mixture, line_mixture.predictors)


def test_marginals_against_quadrature(line_mixture: MixtureBridge) -> None:
    pi, width = joint_on_the_line(line_mixture.tau), float(LINE[1] - LINE[0])
    for t, density in ((0.0, pi.sum(1) / width), (1.0, pi.sum(0) / width)):
        got = torch.exp(line_mixture.marginal(t).log_density(LINE[:, None]))
        torch.testing.assert_close(got, density, rtol=0, atol=1e-8)


def test_transport_keeps_the_cumulative_distribution(line_mixture: MixtureBridge) -> None:
    check_line_transport(line_mixture, line_mixture.predictors)


def test_velocity_satisfies_the_continuity_equation(mixture: MixtureBridge) -> None:
    check_continuity(mixture, mixture.predictors)


def test_predictors_add_up_to_the_state(mixture: MixtureBridge) -> None:
    x_t = torch.randn(5, 2, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    for t in (0.02, 0.5, 0.95):
        found = mixture.predictors(x_t, t)
        total = (1 - t) * found.x_0_hat + t * found.x_1_hat + sigma(t, mixture.tau) * found.eps_hat
        torch.testing.assert_close(total, x_t, rtol=0, atol=1e-10)


def test_noise_predictor_is_the_score(mixture: MixtureBridge) -> None:
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(7), dtype=torch.float64).requires_grad_()
    for t in (0.2, 0.6):
        (score,) = torch.autograd.grad(mixture.marginal(t).log_density(x).sum(), x)
        expected = -sigma(t, mixture.tau) * score
        torch.testing.assert_close(mixture.predictors(x, t).eps_hat.detach(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("domain", ["source", "target"])
def test_perfect_network_is_the_score(mixture: MixtureBridge, domain: str) -> None:
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(8), dtype=torch.float64).requires_grad_()
    noisy = mixture.marginal(0.0 if domain == "source" else 1.0).noised(0.8)
    (score,) = torch.autograd.grad(noisy.log_density(x).sum(), x)
    predicted = mixture.predict(x, 0.8, domain)  # type: ignore[arg-type]
    torch.testing.assert_close(predicted.detach(), -0.8 * score, rtol=0, atol=1e-9)


@pytest.mark.parametrize("broken", ["sign", "weights", "tau for tau²"])
def test_a_broken_formula_fails_its_checks(line_mixture: MixtureBridge, mixture: MixtureBridge, broken: str) -> None:
    def breaks(bridge: MixtureBridge) -> PredictorFn:
        if broken == "weights":
            even_weights = torch.full_like(bridge.weights, 1 / len(bridge.weights))
            return replace(bridge, weights=even_weights).predictors
        if broken == "tau for tau²":
            root = bridge.tau**0.5
            components = tuple(replace(component, tau=root) for component in bridge.components)
            return replace(bridge, components=components, tau=root).predictors

        def flipped(x_t: Tensor, t: float) -> Predictors:
            found = bridge.predictors(x_t, t)
            return replace(found, eps_hat=-found.eps_hat)

        return flipped

    with pytest.raises(AssertionError):
        check_line_predictors(line_mixture, breaks(line_mixture))
    with pytest.raises(AssertionError):
        check_line_transport(line_mixture, breaks(line_mixture))
    with pytest.raises(AssertionError):
        check_continuity(mixture, breaks(mixture))


def test_lsb_predictors_do_not_carry_the_marginals(line_mixture: MixtureBridge) -> None:
    """LSB's set is another one: perfect denoisers of the two domains are not the bridge's predictors."""
    with pytest.raises(AssertionError):
        check_line_transport(line_mixture, LsbPredictors(line_mixture.predict, line_mixture.tau, "mix"))


def test_samples_have_the_mixture_s_moments(mixture: MixtureBridge) -> None:
    p_1 = mixture.marginal(1.0)
    generator = torch.Generator().manual_seed(9)
    count = 100_000
    x = p_1.sample(
        torch.rand(count, generator=generator, dtype=torch.float64),
        torch.randn(count, 2, generator=generator, dtype=torch.float64),
    )
    mean, covariance = p_1.moments()
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=0.03)
    torch.testing.assert_close(torch.cov(x.T), covariance, rtol=0, atol=0.06)


def test_projection_noise_and_scale(mixture: MixtureBridge) -> None:
    mean, covariance = mixture.marginal(0.0).moments()
    direction = torch.tensor([0.6, 0.8], dtype=torch.float64)
    line_mean, line_variance = mixture.marginal(0.0).noised(0.5).scaled(2.0).along(direction).moments()
    torch.testing.assert_close(line_mean[0], 2 * mean @ direction)
    torch.testing.assert_close(line_variance[0, 0], 4 * (direction @ covariance @ direction + 0.25))


def test_quantile_inverts_the_distribution(line_mixture: MixtureBridge) -> None:
    levels = torch.linspace(0.001, 0.999, 50, dtype=torch.float64)
    p_1 = line_mixture.marginal(1.0)
    torch.testing.assert_close(p_1.distribution(p_1.quantile(levels)), levels, rtol=0, atol=1e-12)


def test_unusable_mixture_is_refused() -> None:
    with pytest.raises(BridgeError, match="sum to 1"):
        GaussianMixture(torch.tensor([0.5, 0.6]), torch.zeros(2, 1), torch.ones(2, 1, 1))
    one = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
    with pytest.raises(BridgeError, match="tau"):
        MixtureBridge.of_potentials(one, one, 0.0)
