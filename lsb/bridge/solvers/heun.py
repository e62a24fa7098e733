"""Heun: order 2, two evaluations a step."""

from __future__ import annotations

from torch import Tensor

from lsb.bridge.flow import Flow
from lsb.bridge.solvers.step import History


def heun(x: Tensor, s: float, s_next: float, flow: Flow, history: History) -> tuple[Tensor, History]:
    """The explicit trapezoidal rule: the mean of the slopes at s and at Euler's s_next."""
    h = s_next - s
    first = flow.slope(x, s)
    second = flow.slope(x + h * first, s_next)
    return x + 0.5 * h * (first + second), history
