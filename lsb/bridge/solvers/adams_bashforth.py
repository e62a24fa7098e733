"""Adams–Bashforth with two points: order 2, one evaluation a step."""

from __future__ import annotations

from torch import Tensor

from lsb.bridge.solvers.step import History, Past, VelocityFn


def adams_bashforth(
    x: Tensor, s: float, s_next: float, velocity_fn: VelocityFn, history: History
) -> tuple[Tensor, History]:
    """The line through the last two slopes, integrated over steps of any lengths; the first step is Euler's."""
    here = Past(s, x, velocity_fn(x, s))
    return extrapolate(here, s_next, history), (here,)


def extrapolate(here: Past, s_next: float, history: History) -> Tensor:
    """x at s_next from the slopes here and at the node before, if there was one."""
    h = s_next - here.s
    slope = here.slope
    if history:
        before = history[-1]
        slope = slope + (0.5 * h / (here.s - before.s)) * (here.slope - before.slope)
    return here.x + h * slope
