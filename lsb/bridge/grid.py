"""Where the solver steps: a clock and its nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from lsb.bridge.clock import LOGIT, THETA, TIME, Clock
from lsb.errors import BridgeError

if TYPE_CHECKING:
    from lsb.bridge.settings import BridgeSettings

CLOCKS: dict[str, Clock] = {"uniform": TIME, "theta": THETA, "logit": LOGIT, "tuned": TIME}


@dataclass(frozen=True)
class Grid:
    """Nodes s_0 < s_1 < ... < s_n in a clock's variable.

    Raises:
        BridgeError: fewer than two nodes, or not rising.
    """

    clock: Clock
    nodes: tuple[float, ...]

    def __post_init__(self) -> None:
        finite = all(math.isfinite(node) for node in self.nodes)
        if len(self.nodes) < 2 or not finite or any(late <= early for early, late in pairwise(self.nodes)):
            raise BridgeError(f"grid nodes {self.nodes} must be at least two rising finite numbers")

    @property
    def times(self) -> tuple[float, ...]:
        """The nodes as t."""
        return tuple(self.clock.time(node) for node in self.nodes)


def even(clock: Clock, t_first: float, t_last: float, steps: int) -> Grid:
    """`steps` equal steps of the clock's variable between two times."""
    first, last = clock.position(t_first), clock.position(t_last)
    inner = [first + (last - first) * index / steps for index in range(1, steps)]
    return Grid(clock, (first, *inner, last))


def grid_of(settings: BridgeSettings) -> Grid:
    """The grid that the settings ask for; the published one runs onto t = 1, where nothing is evaluated."""
    if settings.preset == "published":
        return even(TIME, settings.t0, 1.0, settings.nfe - 1)
    clock = CLOCKS[settings.grid]
    if settings.times is not None:
        return Grid(clock, tuple(clock.position(t) for t in settings.times))
    return even(clock, settings.t0, settings.t_n, settings.steps)
