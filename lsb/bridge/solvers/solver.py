"""What a solver is: a pure step, and what the rest has to know of it.

`step(x, s, s_next, flow, history)` carries x from s to s_next and returns it with the history that the next step may
use. Only `flow` asks the network. Nothing here, and in a solver's file, needs torch before a step is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    from lsb.bridge.flow import Answers, Flow


@dataclass(frozen=True)
class Past:
    """An earlier node: where it was, the state y there, and the answers found."""

    s: float
    y: Tensor
    answers: Answers


# Oldest first; a solver keeps no more than it needs.
History: TypeAlias = tuple[Past, ...]


class Step(Protocol):
    """One step of a solver."""

    def __call__(
        self, x: Tensor, s: float, s_next: float, flow: Flow, history: History, /
    ) -> tuple[Tensor, History]: ...


class Finish(Protocol):
    """A last evaluation at s, the last node, of a solver that has a use for it: x at s_end >= s, and answers there."""

    def __call__(
        self, x: Tensor, s: float, s_end: float, flow: Flow, history: History, /
    ) -> tuple[Tensor, Answers]: ...


@dataclass(frozen=True)
class Solver:
    """One way to integrate the ODE.

    Attributes:
        order: the error of a path falls with this power of the step.
        evaluations: how often a step asks `flow`, at least 1.
        step: carries the state on.
        finish: how the path ends. Without one, the last evaluation asks the target's prompt alone, for the clean
            prediction at the end. With one, it asks both, and may stand before the end.
        stochastic: whether noise may be added after each step, so that `gamma` may be above 0.
    """

    order: int
    evaluations: int
    step: Step
    finish: Finish | None = None
    stochastic: bool = False
