"""The Gaussian bridge is exact, and each check fails when its formula is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from lsb.bridge.clock import THETA, Clock
from lsb.bridge.flow import Flow
from lsb.bridge.gaussian import GaussianBridge, cross_covariance, gaussian_distance, matrix_root
from lsb.bridge.grid import even
from lsb.bridge.solve import integrate
from lsb.bridge.solvers.heun import heun
from lsb.bridge.velocity import PredictorFn, Predictors, sigma
from lsb.errors import BridgeError

NEAR = 1e-6
TIMES = (NEAR, 0.25, 0.5, 0.75, 1 - NEAR)


def check_precision(bridge: GaussianBridge) -> None:
    """C is the static bridge's: -I/tau² off the diagonal of the joint precision."""
    d = len(bridge.m_0)
    expected = -torch.eye(d, dtype=torch.float64) / bridge.tau**2
    torch.testing.assert_close(bridge.joint_precision()[:d, d:], expected, rtol=0, atol=1e-8)


def check_transport(bridge: GaussianBridge, predictors: PredictorFn | None = None, clock: Clock = THETA) -> None:
    """Mean and covariance at every t, by pushing the mean and mean + Cholesky columns: d + 1 points."""
    mean, covariance = bridge.marginal(NEAR)
    points = torch.cat([mean[None], mean + torch.linalg.cholesky(covariance).T])
    for t, t_next in pairwise(TIMES):
        grid = even(clock, t, t_next, 1600)
        points, _ = integrate(points, grid, heun, Flow(predictors or bridge.predictors, clock, bridge.tau))
        mean, covariance = bridge.marginal(t_next)
        columns = (points[1:] - points[0]).T
        torch.testing.assert_close(points[0], mean, rtol=0, atol=1e-6)
        torch.testing.assert_close(columns @ columns.T, covariance, rtol=0, atol=1e-6)


def check_identity(predictors: PredictorFn, x_t: Tensor, tau: float) -> None:
    """(1-t) x_0_hat + t x_1_hat + sigma eps_hat = x_t."""
    for t in (0.01, 0.3, 0.5, 0.9):
        found = predictors(x_t, t)
        total = (1 - t) * found.x_0_hat + t * found.x_1_hat + sigma(t, tau) * found.eps_hat
        torch.testing.assert_close(total, x_t, rtol=0, atol=1e-10)


def points(bridge: GaussianBridge) -> Tensor:
    return torch.randn(5, len(bridge.m_0), generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def altered(predictors: PredictorFn, change: Callable[[Predictors], Predictors]) -> PredictorFn:
    return lambda x_t, t: change(predictors(x_t, t))


def test_cross_covariance_is_that_of_the_static_bridge(gaussian: GaussianBridge) -> None:
    check_precision(gaussian)


@pytest.mark.parametrize("tau", [0.2, 0.5, 2.3])
def test_cross_covariance_for_other_tau(gaussian: GaussianBridge, tau: float) -> None:
    check_precision(GaussianBridge.between(gaussian.m_0, gaussian.S_0, gaussian.m_1, gaussian.S_1, tau))


def test_mean_and_covariance_are_carried_to_every_marginal(gaussian: GaussianBridge) -> None:
    check_transport(gaussian)


def test_predictors_add_up_to_the_state(gaussian: GaussianBridge) -> None:
    check_identity(gaussian.predictors, points(gaussian), gaussian.tau)


def test_predictors_match_conditional_gaussians(gaussian: GaussianBridge) -> None:
    """Against the joint Gaussian of (x_0, x_1, eps) and x_t = (1-t) x_0 + t x_1 + sigma eps."""
    t, d = 0.37, len(gaussian.m_0)
    unit, zero = torch.eye(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)
    joint = torch.cat(
        [
            torch.cat([gaussian.S_0, gaussian.C, zero], 1),
            torch.cat([gaussian.C.T, gaussian.S_1, zero], 1),
            torch.cat([zero, zero, unit], 1),
        ]
    )
    mixing = torch.cat([(1 - t) * unit, t * unit, sigma(t, gaussian.tau) * unit], 1)
    means = torch.cat([gaussian.m_0, gaussian.m_1, torch.zeros(d, dtype=torch.float64)])
    x_t = points(gaussian)
    gain = joint @ mixing.T @ torch.linalg.inv(mixing @ joint @ mixing.T)
    x_0, x_1, eps = (means + (x_t - mixing @ means) @ gain.T).split(d, dim=1)
    found = gaussian.predictors(x_t, t)
    for got, expected in ((found.x_0_hat, x_0), (found.x_1_hat, x_1), (found.eps_hat, eps)):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("broken", ["tau for tau²", "C = 0", "sign"])
def test_a_wrong_cross_covariance_fails_its_check_and_only_that(gaussian: GaussianBridge, broken: str) -> None:
    unit = torch.eye(len(gaussian.m_0), dtype=torch.float64)
    scaled_coupling = gaussian.C + 0.5 * gaussian.tau**2 * unit
    wrong = {
        "tau for tau²": scaled_coupling - 0.5 * gaussian.tau * unit,
        "C = 0": torch.zeros_like(gaussian.C),
        "sign": scaled_coupling + 0.5 * gaussian.tau**2 * unit,
    }[broken]
    bridge = replace(gaussian, C=wrong)
    with pytest.raises(AssertionError):
        check_precision(bridge)
    check_identity(bridge.predictors, points(bridge), bridge.tau)
    if broken != "sign":  # that one is no covariance any more
        check_transport(bridge)


def test_a_wrong_root_fails_the_precision(gaussian: GaussianBridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsb.bridge.gaussian.matrix_root", lambda matrix: torch.linalg.cholesky(matrix))
    with pytest.raises(AssertionError):
        check_precision(GaussianBridge.between(gaussian.m_0, gaussian.S_0, gaussian.m_1, gaussian.S_1, gaussian.tau))


@pytest.mark.parametrize(
    "change",
    [
        lambda found: replace(found, eps_hat=-found.eps_hat),
        lambda found: replace(found, eps_hat=1.3 * found.eps_hat),
        lambda found: Predictors(found.x_1_hat, found.x_0_hat, found.eps_hat),
    ],
    ids=["sign of eps_hat", "tau² for tau", "ends exchanged"],
)
def test_a_wrong_predictor_fails_transport_and_identity(
    gaussian: GaussianBridge, change: Callable[[Predictors], Predictors]
) -> None:
    predictors = altered(gaussian.predictors, change)
    with pytest.raises(AssertionError):
        check_transport(gaussian, predictors)
    with pytest.raises(AssertionError):
        check_identity(predictors, points(gaussian), gaussian.tau)


@pytest.mark.parametrize("part", ["rate", "noise_rate"])
def test_a_wrong_clock_fails_transport(gaussian: GaussianBridge, part: str) -> None:
    right = getattr(THETA, part)
    with pytest.raises(AssertionError):
        check_transport(gaussian, clock=replace(THETA, **{part: lambda s: -right(s)}))


def test_guidance_other_than_one_fails_transport(gaussian: GaussianBridge) -> None:
    def guided(x_t: Tensor, t: float) -> Predictors:
        found = gaussian.predictors(x_t, t)
        return replace(found, x_1_hat=found.x_1_hat + 0.1 * (found.x_1_hat - found.x_0_hat))

    with pytest.raises(AssertionError):
        check_transport(gaussian, guided)


def test_perfect_network_is_the_posterior_mean(gaussian: GaussianBridge) -> None:
    """x - level eps is the Kalman estimate of x_0 from x = x_0 + level eps."""
    x, level = points(gaussian), 0.7
    gain = gaussian.S_0 @ torch.linalg.inv(gaussian.S_0 + level**2 * torch.eye(len(gaussian.m_0), dtype=torch.float64))
    expected = gaussian.m_0 + (x - gaussian.m_0) @ gain.T
    torch.testing.assert_close(x - level * gaussian.predict(x, level, "source"), expected, rtol=0, atol=1e-10)


def test_distance_of_gaussians(gaussian: GaussianBridge) -> None:
    unit = torch.eye(2, dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.float64)
    assert gaussian_distance(zero, unit, zero + 3.0, unit) == pytest.approx(18**0.5)
    assert gaussian_distance(zero, unit, zero, 4 * unit) == pytest.approx(2**0.5)
    assert gaussian_distance(gaussian.m_0, gaussian.S_0, gaussian.m_0, gaussian.S_0) == pytest.approx(0, abs=1e-6)


def test_matrix_root_squares_back(gaussian: GaussianBridge) -> None:
    root = matrix_root(gaussian.S_0)
    torch.testing.assert_close(root @ root, gaussian.S_0, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("S_0", "tau", "named"),
    [
        ([[1.0, 0.0], [0.0, -1.0]], 1.0, "S_0"),
        ([[1.0, 0.5], [0.0, 1.0]], 1.0, "S_0"),
        ([[1.0, 0.0], [0.0, 1.0]], 0.0, "tau"),
    ],
)
def test_unusable_problem_is_named(S_0: list[list[float]], tau: float, named: str) -> None:
    with pytest.raises(BridgeError, match=named):
        cross_covariance(torch.tensor(S_0), torch.eye(2), tau)
