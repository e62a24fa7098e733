"""Times of the `tuned` grid for one job: where a few evaluations are best spent on its model, prompts and settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from lsb.bridge.clock import THETA
from lsb.bridge.grid import even
from lsb.bridge.settings import BridgeSettings
from lsb.bridge.solvers import SOLVERS
from lsb.errors import BridgeError

_LEAST_GAP = 0.01
_WARPS = (0.7, 1.0, 1.4)
_LAST = (0.94, 0.99)
_FIRST_STEP, _LAST_STEP = 0.08, 0.004


def tune(settings: BridgeSettings, error: Callable[[BridgeSettings], float], trials: int = 100) -> BridgeSettings:
    """The settings with the times that make `error` smallest, found by a pattern search.

    Args:
        settings: the path; its solver and nfe say how many times there are, its grid and times do not matter.
        error: of a path, NaN or infinity where it has none; best the RMS distance to a fine-step solution on some tens
            of latents of the job's own domain, other ones than those on which the result is to be judged.
        trials: how many paths are tried at most, at least 1.

    Raises:
        BridgeError: the solver's last evaluation cannot stand before the end, as the search tries; or no path that was
            tried has an error.
    """
    if SOLVERS[settings.solver].finish is None:
        allowed = ", ".join(name for name, solver in SOLVERS.items() if solver.finish is not None)
        raise BridgeError(f"times are not tuned for solver {settings.solver}; use {allowed}", field="solver")
    asked = 0

    def cost(times: tuple[float, ...]) -> float:
        """Infinite where the path is not to be tried, or has no error."""
        nonlocal asked
        if any(late - early < _LEAST_GAP for early, late in pairwise(times)) or times[-1] > settings.t_n:
            return math.inf
        if asked >= trials:
            return math.inf
        asked += 1
        found = error(_with(settings, times))
        return math.inf if math.isnan(found) else found

    found = [(cost(times), times) for times in _starts(settings)]
    for best, times in sorted(found)[:2]:
        step = _FIRST_STEP
        while step > _LAST_STEP and asked < trials and best < math.inf:
            moves = [
                (*times[:index], times[index] + sign * step, *times[index + 1 :])
                for index in range(1, len(times))
                for sign in (1, -1)
            ]
            better, moved = min((cost(move), move) for move in moves)
            if better < best:
                best, times = better, moved
            else:
                step /= 2
        found.append((best, times))
    best, times = min(found)
    if best == math.inf:
        raise BridgeError(f"no times were found: none of {asked} paths has an error", field="times")
    return _with(settings, times)


def _with(settings: BridgeSettings, times: tuple[float, ...]) -> BridgeSettings:
    changed = {"grid": "tuned", "times": times}
    return BridgeSettings.model_validate(settings.model_dump() | changed)


def _starts(settings: BridgeSettings) -> list[tuple[float, ...]]:
    """Steps even in theta, drawn towards either end, the last evaluation a little before the end."""
    starts = []
    for warp in _WARPS:
        for last in _LAST:
            t_last = settings.t0 + (settings.t_n - settings.t0) * last
            nodes = even(THETA, settings.t0, t_last, settings.steps).nodes
            first, length = nodes[0], nodes[-1] - nodes[0]
            warped = [first + length * ((node - first) / length) ** warp for node in nodes[1:]]
            starts.append((settings.t0, *(THETA.time(node) for node in warped)))
    return starts
