"""Euler: order 1, one evaluation a step. With noise after each step, Euler–Maruyama."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lsb.bridge.solvers.solver import History, Solver

if TYPE_CHECKING:
    from torch import Tensor

    from lsb.bridge.flow import Flow


def euler(x: Tensor, s: float, s_next: float, flow: Flow, history: History) -> tuple[Tensor, History]:
    """x + (s_next - s) dx/ds."""
    return x + (s_next - s) * flow.slope(x, s), history


EULER = Solver(order=1, evaluations=1, step=euler, stochastic=True)
