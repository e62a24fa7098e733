"""The bridge's settings, and the preset of the paper (Kim, Kim and Ye 2024, see `lsb.bridge.velocity`)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from lsb.bridge.method import Levels, Method
from lsb.bridge.solve import translate_latents
from lsb.bridge.solvers import SOLVERS

Preset = Literal["default", "published"]
NoisePredictor = Literal["switch", "mix"]
Start = Literal["published", "centred"]
GridName = Literal["uniform", "theta", "logit", "tuned"]
LATENT_SIDE = 64  # of the paper's model
if TYPE_CHECKING:
    from torch import Tensor

    from lsb.bridge.noise import Noise
    from lsb.bridge.velocity import Domain, Predict

    SolverName = str
else:
    SolverName = Literal[tuple(SOLVERS)]


class BridgeSettings(Method):
    """What fixes the path of an image, apart from model and prompts. Part of the transform id.

    Defaults are the paper's, for latents of 64 x 64. What the letters mean: docs/mathematics.md.

    Raises:
        BridgeError: a value outside what is allowed; `field` names it.
    """

    section: ClassVar[str] = "bridge"
    strength: ClassVar[str] = "tau"
    dials: ClassVar[tuple[str, ...]] = ("tau", "t0", "guidance")

    preset: Preset = Field(
        default="default",
        description="`published` is the paper's code to the letter. It fixes all but `tau`, `t0`, `guidance`, `nfe`.",
    )
    tau: float = Field(
        default=2.3,
        gt=0,
        description="Standard deviation of the reference Brownian motion, in units of the scaled latents. The paper's "
        "sqrt(tau). At most twice the largest sigma of the model's schedule.",
    )
    t0: float = Field(
        default=0.2, gt=0, lt=1, description="Time on the bridge, from 0 to 1, at which the image enters."
    )
    t_end: float = Field(
        default=0.98,
        gt=0,
        le=1,
        description="Time at which the ODE ends, above `t0` and below 1. From there one clean prediction. Unused by "
        "`published`.",
    )
    guidance: float = Field(
        default=11.0, gt=0, description="Strength w of the difference of the two prompts, a factor."
    )
    nfe: int = Field(
        default=8,
        ge=2,
        description="Evaluations of the network, the last one included, of two prompts each. The last one of `euler` "
        "and `heun` asks the target's alone. `heun` needs an odd number, `published` at least 3.",
    )
    noise: NoisePredictor = Field(
        default="switch",
        description="`switch`: eps_hat is eps_0 up to t = 1/2, then eps_1. `mix`: (1-t) eps_0 + t eps_1.",
    )
    start: Start = Field(
        default="published",
        description="Where the path starts. `published`: (1-t0) x_0 + sigma eps; `centred`: x_0 + sigma eps.",
    )
    solver: SolverName = Field(
        default="euler",
        description="`euler`; `heun` (order 2, two evaluations a step); `adams_moulton` (order 3, one a step). The "
        "last one reuses earlier evaluations.",
    )
    grid: GridName = Field(
        default="uniform",
        description="Steps even in t (`uniform`), in `theta` or in `logit` t, or `tuned`. In theta, t = sin²(theta), "
        "the ODE has no singular ends. `tuned`: at `times`, integrated in t.",
    )
    times: tuple[float, ...] | None = Field(
        default=None,
        description="Times of the `tuned` grid, rising from `t0` to `t_end`, one more than there are steps. With "
        "`adams_moulton` the last one may come before `t_end`.",
    )
    gamma: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the SDE's noise: 0 is the ODE, 1 the bridge's SDE. Above 0 only with `euler`.",
    )
    partial: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Time at which to stop, above `t0` and at most `t_end`. What is returned then is the clean part "
        "x_t - sigma(t) eps_hat.",
    )

    @classmethod
    def tau_for(cls, latent_side: int) -> float:
        """The paper's tau for latents of another size than its 64 x 64, of models of the same pictures at it.

        The square root of the area's share, as in `lsb.pictures.geometry.sigma_scale`: in a latent of fewer pixels the
        same noise hides more of what it shows.
        """
        tau: float = cls.model_fields["tau"].default
        return round(tau * latent_side / LATENT_SIDE, 6)

    def _at_default(self, name: str) -> bool:
        """The paper's tau counts for latents of any size."""
        if name != "tau":
            return super()._at_default(name)
        return self.tau == self.tau_for(max(1, round(self.tau / self.tau_for(1))))

    @property
    def t_n(self) -> float:
        """Where the ODE ends."""
        return self.t_end if self.partial is None else self.partial

    @property
    def steps(self) -> int:
        """Steps of the ODE: one evaluation of `nfe` is kept for the end."""
        return (self.nfe - 1) // SOLVERS[self.solver].evaluations

    @property
    def forwards(self) -> int:
        """Two an evaluation, but one for a last one that only cleans (NFE 8 of Euler: 15)."""
        solver = SOLVERS[self.solver]
        evaluations = self.steps * solver.evaluations
        if solver.finish is not None:
            return 2 * (evaluations + 1)
        last = 2 if self.partial is not None and self.noise == "mix" else 1
        return 2 * evaluations + last

    @property
    def largest_sigma(self) -> float:
        t_widest = max(self.t0, 0.5)
        return self.tau * math.sqrt(t_widest * (1.0 - t_widest))

    @property
    def asks(self) -> frozenset[Domain]:
        return frozenset({"source", "target"})

    def translate(self, x_0: Tensor, predict: Predict, noise: Noise, levels: Levels) -> Tensor:
        return translate_latents(x_0, predict, self, noise, levels.schedule)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.preset == "published":
            self._check_published()
            return self
        self._require(self.t0 < self.t_end < 1, "t_end", f"within (t0, 1) = ({self.t0}, 1)")
        if self.partial is not None:
            allowed = f"within (t0, t_end] = ({self.t0}, {self.t_end}]"
            self._require(self.t0 < self.partial <= self.t_end, "partial", allowed)
        if self.gamma > 0:
            stochastic = " or ".join(name for name, solver in SOLVERS.items() if solver.stochastic)
            self._require(SOLVERS[self.solver].stochastic, "solver", f"{stochastic} where gamma is above 0")
        a_step = SOLVERS[self.solver].evaluations
        which = "odd" if a_step == 2 else f"one more than a multiple of {a_step}"
        allowed = f"{which} with {self.solver}: {a_step} evaluations a step and one at the end"
        self._require(self.nfe > a_step and (self.nfe - 1) % a_step == 0, "nfe", allowed)
        self._check_times()
        return self

    def _check_published(self) -> None:
        for name in ("noise", "start", "solver", "grid", "times", "gamma", "partial"):
            fixed = type(self).model_fields[name].default
            self._require(getattr(self, name) == fixed, name, f"{fixed!r} with preset published")
        self._require(self.nfe > 2, "nfe", "at least 3 with preset published, whose code integrates backwards with 2")

    def _check_times(self) -> None:
        if self.grid != "tuned":
            self._require(self.times is None, "times", "left out unless grid is tuned")
            return
        times = self.times
        count = self.steps + 1
        if times is None or len(times) != count:
            raise self._refusal(f"times is {times}; it must hold {count} values for nfe {self.nfe}", "times")
        rising = all(early < late for early, late in pairwise(times))
        arrives = math.isclose(times[-1], self.t_n) or (
            SOLVERS[self.solver].finish is not None and times[-1] < self.t_n
        )
        ends = math.isclose(times[0], self.t0) and arrives
        self._require(rising and ends, "times", f"rising from {self.t0} to {self.t_n}")
