"""Orders of convergence, and the clocks and grids on which they hold."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from lsb.bridge.clock import LOGIT, THETA, TIME, Clock
from lsb.bridge.flow import Answers, Flow, LsbFlow
from lsb.bridge.gaussian import GaussianBridge
from lsb.bridge.grid import Grid, even
from lsb.bridge.mixture import MixtureBridge
from lsb.bridge.settings import NoisePredictor
from lsb.bridge.solve import integrate
from lsb.bridge.solvers import SOLVERS
from lsb.bridge.solvers.adams_moulton import ADAMS_MOULTON, adams_moulton
from lsb.bridge.solvers.euler import euler
from lsb.bridge.solvers.solver import History, Solver
from lsb.bridge.velocity import LsbPredictors, Predictors

NEAR = 1e-6
STEPS = (32, 64, 128, 256)
EVERY = [pytest.param(solver, id=name) for name, solver in SOLVERS.items()]


def columns(bridge: GaussianBridge, t: float) -> Tensor:
    mean, covariance = bridge.marginal(t)
    return torch.cat([mean[None], mean + torch.linalg.cholesky(covariance).T])


def run(flow: Flow, start: Tensor, solver: Solver, grid: Grid) -> Tensor:
    x, history = integrate(start, grid, solver.step, flow)
    return x if solver.finish is None else solver.finish(x, grid.nodes[-1], grid.nodes[-1], flow, history)[0]


def fitted_order(bridge: GaussianBridge, solver: Solver, clock: Clock, t_first: float, t_last: float) -> float:
    """Slope of log error against log step, against a fine solution of the same ODE."""
    start = columns(bridge, t_first)
    fine = run(Flow(bridge.predictors, THETA, bridge.tau), start, ADAMS_MOULTON, even(THETA, t_first, t_last, 4096))
    flow = Flow(bridge.predictors, clock, bridge.tau)
    counts = [n * (4 if solver.order > 2 else 1) for n in STEPS]  # a high order shows later
    errors = [float((run(flow, start, solver, even(clock, t_first, t_last, n)) - fine).norm()) for n in counts]
    return float(-np.polyfit(np.log(counts), np.log(errors), 1)[0])


@pytest.mark.parametrize("solver", EVERY)
def test_order_over_the_whole_bridge_in_theta(gaussian: GaussianBridge, solver: Solver) -> None:
    assert fitted_order(gaussian, solver, THETA, NEAR, 1 - NEAR) == pytest.approx(solver.order, abs=0.15)


@pytest.mark.parametrize("clock", [TIME, LOGIT], ids=["time", "logit"])
@pytest.mark.parametrize("solver", EVERY)
def test_order_inside_in_the_other_clocks(gaussian: GaussianBridge, solver: Solver, clock: Clock) -> None:
    assert fitted_order(gaussian, solver, clock, 0.2, 0.9) == pytest.approx(solver.order, abs=0.15)


def test_order_of_the_multistep_solver_with_uneven_steps(gaussian: GaussianBridge) -> None:
    flow, start = Flow(gaussian.predictors, THETA, gaussian.tau), columns(gaussian, 0.1)
    fine = run(flow, start, ADAMS_MOULTON, even(THETA, 0.1, 0.9, 2048))
    first, last = THETA.position(0.1), THETA.position(0.9)
    errors = []
    for n in STEPS:
        places = [(i / n) ** 1.5 + 0.3 * math.sin(math.pi * i / n) ** 2 * (i / n) for i in range(n + 1)]
        places[-1] = 1.0
        grid = Grid(THETA, tuple(first + (last - first) * place for place in places))
        errors.append(float((run(flow, start, ADAMS_MOULTON, grid) - fine).norm()))
    assert -np.polyfit(np.log(STEPS), np.log(errors), 1)[0] == pytest.approx(3, abs=0.15)


def order_with_lsb_s_predictors(bridge: GaussianBridge, solver: Solver, noise: NoisePredictor) -> float:
    """As `fitted_order`; the kink of `switch` at t = 1/2 lies at two sevenths of a step, however many there are."""
    flow = LsbFlow(LsbPredictors(bridge.predict, bridge.tau, noise), TIME, bridge.tau, 2.0)
    start = columns(bridge, 0.2)
    exact = run(flow, start, ADAMS_MOULTON, even(TIME, 0.2, 0.9, 2047))
    counts = (31, 59, 115, 227)
    errors = [float((run(flow, start, solver, even(TIME, 0.2, 0.9, n)) - exact).norm()) for n in counts]
    return float(-np.polyfit(np.log(counts), np.log(errors), 1)[0])


@pytest.mark.parametrize("solver", EVERY)
def test_order_with_lsb_s_predictors(gaussian: GaussianBridge, solver: Solver) -> None:
    assert order_with_lsb_s_predictors(gaussian, solver, "mix") == pytest.approx(solver.order, abs=0.15)


@pytest.mark.parametrize("solver", EVERY)
def test_order_over_the_kink_of_switch(gaussian: GaussianBridge, solver: Solver) -> None:
    """A step that knows nothing of it has order 2 at most: within one step the slope is no polynomial."""
    assert order_with_lsb_s_predictors(gaussian, solver, "switch") > min(solver.order, 2) - 0.15


def test_the_multistep_solver_integrates_over_the_kink_exactly(gaussian: GaussianBridge) -> None:
    assert order_with_lsb_s_predictors(gaussian, ADAMS_MOULTON, "switch") == pytest.approx(3, abs=0.15)


def test_a_broken_second_order_step_is_found(gaussian: GaussianBridge) -> None:
    """A slope taken at the wrong place, and the order falls to 1."""

    def misplaced(x: Tensor, s: float, s_next: float, flow: Flow, history: History) -> tuple[Tensor, History]:
        first = flow.slope(x, s)
        return x + (s_next - s) * flow.slope(x + 0.8 * (s_next - s) * first, s_next), history

    assert fitted_order(gaussian, Solver(2, 2, misplaced), THETA, NEAR, 1 - NEAR) == pytest.approx(1, abs=0.15)


class Counted(Flow):
    """Notes where it is asked; the slope is x, and so is the answer."""

    def __init__(self) -> None:
        super().__init__(lambda x, t: Predictors(x, x, x), TIME, 1.0)
        self.seen: list[float] = []

    def slope(self, x: Tensor, s: float) -> Tensor:
        self.seen.append(s)
        return x

    def answers(self, x: Tensor, s: float) -> Answers:
        self.seen.append(s)
        return (x, x)


@pytest.mark.parametrize("solver", EVERY)
def test_evaluations_per_step(solver: Solver) -> None:
    """Those of a first step and of later ones, the first of each at the step's beginning."""
    grid = Grid(TIME, (0.1, 0.3, 0.6, 0.9))
    flow = Counted()
    _, history = integrate(torch.ones(1), grid, solver.step, flow)
    assert len(flow.seen) == 3 * solver.evaluations
    assert flow.seen[:: solver.evaluations] == [0.1, 0.3, 0.6]
    if solver.finish is not None:
        solver.finish(torch.ones(1), 0.9, 0.95, flow, history)
        assert flow.seen[3 * solver.evaluations :] == [0.9]


class Parabola(Flow):
    """Answers that are parabolas of s, whatever x is: the corrector integrates them without error."""

    def answers(self, x: Tensor, s: float) -> Answers:
        return torch.full_like(x, 3 * s * s - s), torch.full_like(x, 1 - 2 * s * s)


@pytest.mark.parametrize("clock", [TIME, THETA, LOGIT], ids=["time", "theta", "logit"])
def test_weights_are_integrated_exactly(gaussian: GaussianBridge, clock: Clock) -> None:
    """With answers that are parabolas, three corrected steps after the first two nodes meet the fine integral."""
    flow = Parabola(gaussian.predictors, clock, gaussian.tau)
    nodes = tuple(clock.position(t) for t in (0.1, 0.15, 0.45, 0.52, 0.9))
    ends = []
    for grid in (Grid(clock, nodes), even(clock, 0.15, 0.9, 3000)):
        x = torch.zeros(1, dtype=torch.float64)
        history: History = ()
        for s, s_next in zip(grid.nodes, (*grid.nodes[1:], grid.nodes[-1]), strict=True):
            x, history = adams_moulton(x, s, s_next, flow, history)
            if s == grid.nodes[1] and len(grid.nodes) == 5:
                # From here the last two nodes and the next one fix the parabola; begin where the fine one begins.
                history = (history[0], replace(history[1], y=torch.zeros(1, dtype=torch.float64)))
        ends.append(float(x))
    assert ends[0] == pytest.approx(ends[1], abs=1e-6)


@pytest.mark.parametrize("noise", ["mix", "switch"])
def test_both_forms_of_the_ode_agree(mixture: MixtureBridge, noise: NoisePredictor) -> None:
    """dx/ds from the predictors, and from weights and answers in y: x = rho y, dx = rho dy + y drho."""
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    predictors = LsbPredictors(mixture.predict, mixture.tau, noise)
    for flow in (Flow(mixture.predictors, THETA, mixture.tau, 1.7), LsbFlow(predictors, THETA, mixture.tau, 1.7)):
        for t in (0.01, 0.3, 0.49, 0.51, 0.9):
            s, h = THETA.position(t), 1e-6
            weights = flow.weights(s, late=t > 0.5)
            slope = sum(weight * answer for weight, answer in zip(weights, flow.answers(x, s), strict=True))
            rho_rate = (flow.rho(s + h) - flow.rho(s - h)) / (2 * h)
            expected = flow.rho(s) * slope + x / flow.rho(s) * rho_rate
            torch.testing.assert_close(flow.slope(x, s), expected, rtol=1e-8, atol=1e-8)


def test_clean_answers_are_the_predictors(mixture: MixtureBridge) -> None:
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    predictors = LsbPredictors(mixture.predict, mixture.tau, "mix")
    for t in (0.3, 0.9):
        exact, lsb = Flow(mixture.predictors, TIME, mixture.tau), LsbFlow(predictors, TIME, mixture.tau)
        torch.testing.assert_close(exact.clean(x, t, exact.answers(x, t)), mixture.predictors(x, t).x_1_hat)
        torch.testing.assert_close(lsb.clean(x, t, lsb.answers(x, t)), predictors(x, t).x_1_hat)
        torch.testing.assert_close(lsb.clean_part(x, t, lsb.answers(x, t)), predictors.clean(x, t))


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
    flow = Flow(gaussian.predictors, THETA, gaussian.tau)
    x = gaussian.m_0[None]
    for s in (0.0, math.pi / 2):
        assert bool(torch.isfinite(flow.slope(x, s)).all())
        assert all(math.isfinite(weight) for weight in flow.weights(s, late=s > 1))


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
    flow = Flow(bridge.predictors, grid.clock, bridge.tau, gamma=drift_gamma)
    mean, covariance = bridge.marginal(grid.times[0])
    unit = torch.eye(len(mean), dtype=torch.float64)
    for index in range(len(grid.nodes) - 1):
        one = replace(grid, nodes=grid.nodes[index : index + 2])
        pushed, _ = integrate(torch.cat([mean[None], mean + unit]), one, euler, flow)
        mean, transition = pushed[0], (pushed[1:] - pushed[0]).T
        interval = grid.times[index + 1] - grid.times[index]
        covariance = transition @ covariance @ transition.T + (noise_gamma * bridge.tau) ** 2 * interval * unit
    m_t, S_t = bridge.marginal(grid.times[-1])
    return float((mean - m_t).norm() + (covariance - S_t).norm())
