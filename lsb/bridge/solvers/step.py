"""What a solver is: a pure step.

`step(x, s, s_next, velocity_fn, history)` carries x from s to s_next and returns it with the history that the next
step may use. Only `velocity_fn` calls the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor


class VelocityFn(Protocol):
    """dx/ds at (x, s), of x's shape."""

    def __call__(self, x: Tensor, s: float, /) -> Tensor: ...


@dataclass(frozen=True)
class Past:
    """An earlier node: where it was, the state there, and the slope found."""

    s: float
    x: Tensor
    slope: Tensor


# Oldest first; a solver keeps no more than it needs.
History: TypeAlias = tuple[Past, ...]


class Step(Protocol):
    """One step of a solver."""

    def __call__(
        self, x: Tensor, s: float, s_next: float, velocity_fn: VelocityFn, history: History, /
    ) -> tuple[Tensor, History]: ...
