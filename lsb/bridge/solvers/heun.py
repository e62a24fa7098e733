"""Heun: order 2, two evaluations a step."""

from __future__ import annotations

from torch import Tensor

from lsb.bridge.solvers.step import History, VelocityFn


def heun(x: Tensor, s: float, s_next: float, velocity_fn: VelocityFn, history: History) -> tuple[Tensor, History]:
    """The explicit trapezoidal rule: the mean of the slopes at s and at Euler's s_next."""
    h = s_next - s
    first = velocity_fn(x, s)
    second = velocity_fn(x + h * first, s_next)
    return x + 0.5 * h * (first + second), history
