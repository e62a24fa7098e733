"""Every method on a problem whose networks are exact: two mixtures in the plane, a bridge of tau 1 between them."""

from __future__ import annotations

import math
from typing import NamedTuple

import optuna
import torch
from bridge_problems import MEASURED, TUNED, draws, mixture_bridge, sliced_distance
from quality_methods import CANDIDATES, Candidate, Settings
from torch import Tensor

from lsb.bridge.method import Levels, Method
from lsb.bridge.mixture import MixtureBridge
from lsb.errors import BridgeError

TAU, TRIALS = 1.0, 30
SOME = {"tau": 0.5, "t0": 0.1, "guidance": 2.0, "sigma": 0.5, "eta": 0.5, "noise": "fixed"}  # to see what is possible
LEVELS = Levels(sigma_max=80.0)


class Point(NamedTuple):
    """A method at one cost: sliced Wasserstein-2 distance of its results to p_1, and how far it moves points (RMS)."""

    method: str
    forwards: int
    distance: float
    moved: float


class Draws:
    """Sources, and a noise of their own for each purpose and step."""

    def __init__(self, bridge: MixtureBridge, seed: int, count: int) -> None:
        uniform, normal, self._eps = draws(seed, count)
        self.start = bridge.marginal(0.0).sample(uniform, normal)
        self._seed = seed

    def noise(self, purpose: str, step: int, /) -> Tensor:
        if (purpose, step) == ("start", 0):
            return self._eps
        generator = torch.Generator().manual_seed(1000 * self._seed + step)
        return torch.randn(self._eps.shape, generator=generator, dtype=torch.float64)


def mixture_points(costs: tuple[int, ...], trials: int = TRIALS) -> list[Point]:
    """Each method at each cost that it can have, with the settings that are best on other draws of the sources."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        bridge = mixture_bridge(TAU)
        return [
            point
            for candidate in CANDIDATES
            for cost in costs
            if (point := _best(bridge, candidate, cost, trials)) is not None
        ]
    finally:
        torch.set_default_dtype(default)


def _best(bridge: MixtureBridge, candidate: Candidate, cost: int, trials: int) -> Point | None:
    goal = sliced_distance(bridge.marginal(1.0))
    tuning, measured = Draws(bridge, *TUNED), Draws(bridge, *MEASURED)
    few = tuning.start[: MEASURED[1]]  # the goal has the quantiles of so many points

    def settings_of(trial: optuna.trial.Trial | optuna.trial.FrozenTrial) -> Settings:
        return candidate.suggest(trial, None)  # type: ignore[arg-type]

    def error(trial: optuna.trial.Trial) -> float:
        method = candidate.at(settings_of(trial), cost)
        if method is None:
            return math.inf
        return goal(_made(method, few, tuning, bridge))

    if candidate.at(settings_of(optuna.trial.FixedTrial(SOME)), cost) is None:
        return None
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(error, n_trials=trials)
    method = candidate.at(settings_of(study.best_trial), cost)
    assert method is not None
    end = _made(method, measured.start, measured, bridge)
    moved = float((end - measured.start).square().sum(1).mean().sqrt())
    return Point(candidate.name, method.forwards, goal(end), moved)


def _made(method: Method, start: Tensor, drawn: Draws, bridge: MixtureBridge) -> Tensor:
    def noise(purpose: str, step: int, /) -> Tensor:
        return drawn.noise(purpose, step)[: len(start)]

    try:
        return method.translate(start, bridge.predict, noise, LEVELS)
    except BridgeError:
        return torch.full_like(start, math.nan)
