"""Orders of convergence, and the clocks and grids on which they hold."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from lsb.bridge.clock import LOGIT, THETA, TIME, Clock
from lsb.bridge.gaussian import GaussianBridge
from lsb.bridge.grid import Grid, even
from lsb.bridge.solve import integrate, velocity_fn
from lsb.bridge.solvers.adams_bashforth import adams_bashforth
from lsb.bridge.solvers.adams_moulton import adams_moulton
from lsb.bridge.solvers.euler import euler
from lsb.bridge.solvers.heun import heun
from lsb.bridge.solvers.step import Step, VelocityFn

NEAR = 1e-6
STEPS = (32, 64, 128, 256)
SOLVERS = [(euler, 1), (heun, 2), (adams_bashforth, 2), (adams_moulton, 3)]


def columns(bridge: GaussianBridge, t: float) -> Tensor:
    mean, covariance = bridge.marginal(t)
    return torch.cat([mean[None], mean + torch.linalg.cholesky(covariance).T])


def run(bridge: GaussianBridge, step: Step, grid: Grid, velocity: VelocityFn | None = None) -> Tensor:
    start = columns(bridge, grid.times[0])
    return integrate(start, grid, step, velocity or velocity_fn(bridge.predictors, grid, bridge.tau))


def fitted_order(bridge: GaussianBridge, step: Step, clock: Clock, t_first: float, t_last: float) -> float:
    """Slope of log error against log step, against a fine solution of the same ODE."""
    fine = run(bridge, adams_moulton, even(THETA, t_first, t_last, 4096))
    counts = [n * (4 if step is adams_moulton else 1) for n in STEPS]  # it settles into its order later
    errors = [float((run(bridge, step, even(clock, t_first, t_last, n)) - fine).norm()) for n in counts]
    return float(-np.polyfit(np.log(counts), np.log(errors), 1)[0])


@pytest.mark.parametrize(("step", "order"), SOLVERS)
def test_order_over_the_whole_bridge_in_theta(gaussian: GaussianBridge, step: Step, order: int) -> None:
    assert fitted_order(gaussian, step, THETA, NEAR, 1 - NEAR) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("clock", [TIME, LOGIT], ids=["time", "logit"])
@pytest.mark.parametrize(("step", "order"), SOLVERS)
def test_order_inside_in_the_other_clocks(gaussian: GaussianBridge, step: Step, order: int, clock: Clock) -> None:
    assert fitted_order(gaussian, step, clock, 0.2, 0.9) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(("step", "order"), [(adams_bashforth, 2), (adams_moulton, 3)])
def test_order_of_multistep_solvers_with_uneven_steps(gaussian: GaussianBridge, step: Step, order: int) -> None:
    fine = run(gaussian, adams_moulton, even(THETA, 0.1, 0.9, 4096))
    first, last = THETA.position(0.1), THETA.position(0.9)
    errors = []
    for n in STEPS:
        places = [(i / n) ** 1.5 + 0.3 * math.sin(math.pi * i / n) ** 2 * (i / n) for i in range(n + 1)]
        places[-1] = 1.0
        grid = Grid(THETA, tuple(first + (last - first) * place for place in places))
        errors.append(float((run(gaussian, step, grid) - fine).norm()))
    assert -np.polyfit(np.log(STEPS), np.log(errors), 1)[0] == pytest.approx(order, abs=0.15)


def test_a_broken_second_order_step_is_found(gaussian: GaussianBridge) -> None:
    """A slope taken at the wrong place, and the order falls to 1."""

    def misplaced(x: Tensor, s: float, s_next: float, velocity: VelocityFn, history: object) -> object:
        first = velocity(x, s)
        return x + (s_next - s) * velocity(x + 0.8 * (s_next - s) * first, s_next), history

    order = fitted_order(gaussian, misplaced, THETA, NEAR, 1 - NEAR)  # type: ignore[arg-type]
    assert order == pytest.approx(1, abs=0.15)


def test_evaluations_per_step() -> None:
    seen: list[float] = []

    def velocity(x: Tensor, s: float) -> Tensor:
        seen.append(s)
        return x

    grid = Grid(TIME, (0.1, 0.3, 0.6, 0.9))
    for step, count in ((euler, 3), (heun, 6), (adams_bashforth, 3), (adams_moulton, 3)):
        seen.clear()
        integrate(torch.ones(1), grid, step, velocity)
        assert len(seen) == count


def test_adams_bashforth_is_exact_for_a_slope_linear_in_s() -> None:
    grid = Grid(TIME, (0.1, 0.35, 0.5, 0.9))
    x = integrate(torch.zeros(1, dtype=torch.float64), grid, adams_bashforth, lambda x, s: torch.full_like(x, 2 * s))
    euler_start = 2 * 0.1 * 0.25
    assert float(x) == pytest.approx(euler_start + 0.9**2 - 0.35**2, abs=1e-12)


def test_adams_moulton_integrates_a_parabola_up_to_its_last_node() -> None:
    """With slopes that do not depend on x the corrector is exact from its third node on; the last step is predicted."""
    nodes = (0.1, 0.35, 0.5, 0.9)
    x = integrate(
        torch.zeros(1, dtype=torch.float64),
        Grid(TIME, nodes),
        adams_moulton,
        lambda x, s: torch.full_like(x, 3 * s * s),
    )
    trapezoid = 0.25 * 1.5 * (0.1**2 + 0.35**2)
    corrected = 0.5**3 - 0.35**3
    predicted = 0.4 * (3 * 0.5**2 + 0.5 * 0.4 / 0.15 * 3 * (0.5**2 - 0.35**2))
    assert float(x) == pytest.approx(trapezoid + corrected + predicted, abs=1e-12)


@pytest.mark.parametrize("clock", [TIME, THETA, LOGIT], ids=["time", "theta", "logit"])
def test_clock_rates_are_derivatives(clock: Clock) -> None:
    for t in (0.05, 0.3, 0.5, 0.9):
        s, h = clock.position(t), 1e-6
        assert clock.time(s) == pytest.approx(t, rel=1e-12)
        rate = (clock.time(s + h) - clock.time(s - h)) / (2 * h)
        assert clock.rate(s) == pytest.approx(rate, rel=1e-6)

        def spread(place: float) -> float:
            return math.sqrt(clock.time(place) * (1 - clock.time(place)))

        assert clock.noise_rate(s) == pytest.approx((spread(s + h) - spread(s - h)) / (2 * h), rel=1e-5, abs=1e-8)


def test_theta_has_no_singular_ends(gaussian: GaussianBridge) -> None:
    grid = even(THETA, 0.0, 1.0, 2)
    velocity = velocity_fn(gaussian.predictors, grid, gaussian.tau)
    x = gaussian.m_0[None]
    for s in (0.0, math.pi / 2):
        assert bool(torch.isfinite(velocity(x, s)).all())


@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_stochastic_family_has_the_bridge_s_marginals(gaussian: GaussianBridge, gamma: float) -> None:
    """Mean and covariance of Euler-Maruyama, followed exactly through its affine steps; the error falls as 1/n."""
    errors = []
    for n in (200, 400, 800):
        grid = even(THETA, 0.05, 0.95, n)
        errors.append(_moment_error(gaussian, grid, gamma, gamma))
    assert errors[-1] < 0.02
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.2)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.2)


def test_stochastic_family_with_the_wrong_drift_is_found(gaussian: GaussianBridge) -> None:
    grid = even(THETA, 0.05, 0.95, 800)
    assert _moment_error(gaussian, grid, drift_gamma=0.0, noise_gamma=1.0) > 0.1
    assert _moment_error(gaussian, grid, drift_gamma=1.0, noise_gamma=0.0) > 0.1


def _moment_error(bridge: GaussianBridge, grid: Grid, drift_gamma: float, noise_gamma: float) -> float:
    velocity = velocity_fn(bridge.predictors, grid, bridge.tau, gamma=drift_gamma)
    mean, covariance = bridge.marginal(grid.times[0])
    unit = torch.eye(len(mean), dtype=torch.float64)
    for index in range(len(grid.nodes) - 1):
        one = replace(grid, nodes=grid.nodes[index : index + 2])
        pushed = integrate(torch.cat([mean[None], mean + unit]), one, euler, velocity)
        mean, transition = pushed[0], (pushed[1:] - pushed[0]).T
        interval = grid.times[index + 1] - grid.times[index]
        covariance = transition @ covariance @ transition.T + (noise_gamma * bridge.tau) ** 2 * interval * unit
    m_t, S_t = bridge.marginal(grid.times[-1])
    return float((mean - m_t).norm() + (covariance - S_t).norm())
