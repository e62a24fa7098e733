"""Heun: order 2, two evaluations a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lsb.bridge.solvers.solver import History, Solver

if TYPE_CHECKING:
    from torch import Tensor

    from lsb.bridge.flow import Flow


def heun(x: Tensor, s: float, s_next: float, flow: Flow, history: History) -> tuple[Tensor, History]:
    """The explicit trapezoidal rule: the mean of the slopes at s and at Euler's s_next."""
    h = s_next - s
    first = flow.slope(x, s)
    second = flow.slope(x + h * first, s_next)
    return x + 0.5 * h * (first + second), history


HEUN = Solver(order=2, evaluations=2, step=heun)
