"""Euler: order 1, one evaluation a step."""

from __future__ import annotations

from torch import Tensor

from lsb.bridge.solvers.step import History, VelocityFn


def euler(x: Tensor, s: float, s_next: float, velocity_fn: VelocityFn, history: History) -> tuple[Tensor, History]:
    """x + (s_next - s) v(x, s)."""
    return x + (s_next - s) * velocity_fn(x, s), history
