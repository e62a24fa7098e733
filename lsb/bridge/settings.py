"""The bridge's settings, and the preset of the paper."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from lsb.errors import BridgeError

Preset = Literal["default", "published"]
NoisePredictor = Literal["switch", "mix"]
Start = Literal["published", "centred"]
SolverName = Literal["euler", "heun", "adams_moulton"]
GridName = Literal["uniform", "theta", "logit", "tuned"]

EVALUATIONS_PER_STEP: dict[str, int] = {"euler": 1, "heun": 2, "adams_moulton": 1}


class BridgeSettings(BaseModel):
    """What fixes the path of an image, apart from model and prompts. Part of the transform id.

    Defaults are the paper's: tau 2.3, t0 0.2, guidance 11, NFE 8 (for 64x64 latents).

    Attributes:
        preset: `published` is the paper's code to the letter and fixes everything but tau, t0, guidance and nfe.
        tau: standard deviation of the reference Brownian motion, above 0 (the paper's sqrt(tau)).
        t0: where on the bridge the image enters, within (0, 1).
        t_end: where the ODE ends, within (t0, 1); from there one clean prediction. Unused by `published`.
        guidance: w, the strength of the difference of the two prompts, above 0.
        nfe: network evaluations, the last one included, of two prompts each; the last one of `euler` and `heun` asks
            the target's alone. `heun` needs an odd number.
        noise: eps_hat is eps_0 up to t = 1/2 and then eps_1 (`switch`), or (1-t) eps_0 + t eps_1 (`mix`).
        start: (1-t0) x_0 + sigma eps (`published`), or x_0 + sigma eps (`centred`).
        solver: `euler`; `heun` (order 2, two evaluations a step); `adams_moulton` (order 3, one evaluation a step),
            which reuses earlier evaluations.
        grid: steps uniform in t; in theta, t = sin²(theta), with the ODE that has no singular ends; in logit t;
            or `tuned`: at `times`, integrated in t.
        times: of the `tuned` grid: t0 = first < ... < last = t_end, one more than there are steps. The last evaluation
            of `adams_moulton` may come before t_end.
        gamma: 0 is the ODE, 1 the bridge's SDE, between them the stochastic family; only with `euler`.
        partial: stop at this t, within (t0, t_end], and return the clean part x_t - sigma(t) eps_hat.

    Raises:
        BridgeError: a value outside what is allowed; `field` names it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Preset = "default"
    tau: float = 2.3
    t0: float = 0.2
    t_end: float = 0.98
    guidance: float = 11.0
    nfe: int = 8
    noise: NoisePredictor = "switch"
    start: Start = "published"
    solver: SolverName = "euler"
    grid: GridName = "uniform"
    times: tuple[float, ...] | None = None
    gamma: float = 0.0
    partial: float | None = None

    @property
    def t_n(self) -> float:
        """Where the ODE ends."""
        return self.t_end if self.partial is None else self.partial

    @property
    def steps(self) -> int:
        """Steps of the ODE: one evaluation of `nfe` is kept for the end."""
        return (self.nfe - 1) // EVALUATIONS_PER_STEP[self.solver]

    @model_validator(mode="after")
    def _check(self) -> BridgeSettings:
        _require(math.isfinite(self.tau) and self.tau > 0, "tau", self.tau, "a finite number above 0")
        _require(0 < self.t0 < 1, "t0", self.t0, "within (0, 1)")
        _require(math.isfinite(self.guidance) and self.guidance > 0, "guidance", self.guidance, "above 0 and finite")
        _require(self.nfe >= 2, "nfe", self.nfe, "at least 2")
        _require(0 <= self.gamma <= 1, "gamma", self.gamma, "within [0, 1]")
        if self.preset == "published":
            self._check_published()
            return self
        _require(self.t0 < self.t_end < 1, "t_end", self.t_end, f"within (t0, 1) = ({self.t0}, 1)")
        if self.partial is not None:
            allowed = f"within (t0, t_end] = ({self.t0}, {self.t_end}]"
            _require(self.t0 < self.partial <= self.t_end, "partial", self.partial, allowed)
        if self.gamma > 0:
            _require(self.solver == "euler", "solver", self.solver, "euler where gamma is above 0")
        if EVALUATIONS_PER_STEP[self.solver] == 2:
            odd = f"odd with {self.solver}: two evaluations a step and one at the end"
            _require(self.nfe % 2 == 1, "nfe", self.nfe, odd)
        self._check_times()
        return self

    def _check_published(self) -> None:
        for name in ("noise", "start", "solver", "grid", "times", "gamma", "partial"):
            fixed = type(self).model_fields[name].default
            _require(getattr(self, name) == fixed, name, getattr(self, name), f"{fixed!r} with preset published")

    def _check_times(self) -> None:
        if self.grid != "tuned":
            _require(self.times is None, "times", self.times, "left out unless grid is tuned")
            return
        times = self.times
        count = self.steps + 1
        if times is None or len(times) != count:
            raise BridgeError(f"times is {times}; it must hold {count} values for nfe {self.nfe}", field="times")
        rising = all(early < late for early, late in pairwise(times))
        arrives = math.isclose(times[-1], self.t_n) or (self.solver == "adams_moulton" and times[-1] < self.t_n)
        ends = math.isclose(times[0], self.t0) and arrives
        _require(rising and ends, "times", times, f"rising from {self.t0} to {self.t_n}")


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise BridgeError(f"{name} is {value!r}; it must be {allowed}", field=name, value=value)
