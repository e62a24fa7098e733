"""Adams–Bashforth–Moulton: order 3, one evaluation a step."""

from __future__ import annotations

from torch import Tensor

from lsb.bridge.solvers.adams_bashforth import extrapolate
from lsb.bridge.solvers.step import History, Past, VelocityFn


def adams_moulton(
    x: Tensor, s: float, s_next: float, velocity_fn: VelocityFn, history: History
) -> tuple[Tensor, History]:
    """Predict, evaluate, correct: the slope at the predicted x also corrects the step that led there, for nothing.

    The corrector is the parabola through the last three slopes (the trapezoid after the first step), over steps of any
    lengths; the corrected x keeps the slope of the predicted one. Then two-point Adams–Bashforth predicts the next x.
    """
    slope = velocity_fn(x, s)
    here = Past(s, _correct(s, slope, history) if history else x, slope)
    return extrapolate(here, s_next, history), (*history[-1:], here)


def _correct(s: float, slope: Tensor, history: History) -> Tensor:
    before = history[-1]
    h = s - before.s
    x = before.x + 0.5 * h * (before.slope + slope)
    if len(history) < 2:
        return x
    first = history[-2]
    bend = ((slope - before.slope) / h - (before.slope - first.slope) / (before.s - first.s)) / (s - first.s)
    return x - h**3 / 6 * bend
