"""What a solver is: a pure step.

`step(x, s, s_next, flow, history)` carries x from s to s_next and returns it with the history that the next step may
use. Only `flow` asks the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

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
