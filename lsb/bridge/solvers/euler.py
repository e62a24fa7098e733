"""Euler: order 1, one evaluation a step."""

from __future__ import annotations

from torch import Tensor

from lsb.bridge.flow import Flow
from lsb.bridge.solvers.step import History


def euler(x: Tensor, s: float, s_next: float, flow: Flow, history: History) -> tuple[Tensor, History]:
    """x + (s_next - s) dx/ds."""
    return x + (s_next - s) * flow.slope(x, s), history
