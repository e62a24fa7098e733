"""FlowEdit: the difference of two flows, from the source itself; no inversion.

    sigma    noise level, falling from `sigma` to 0; t_pub = sigma / (1 + sigma) is a rectified flow's time
    X        source latent
    d        what is added to it, 0 at first; the published delta is (1 - t_pub) d
    N        unit Gaussian noise, new for each step and draw, or the same all along
    w        `guidance`

    dd/dsigma = w E_N[ eps_1(X + sigma N + d, sigma) - eps_0(X + sigma N, sigma) ]          result X + d at sigma = 0

Source: V. Kulikov et al., "FlowEdit: Inversion-Free Text-Based Editing Using Pre-Trained Flow Models", 2024,
arXiv:2412.08629. There the network gives a rectified flow's velocity, (eps - y) / (1 - t_pub) at y = (1 - t_pub) x, and
delta is integrated in t_pub. The two are the same step by step: d absorbs all that is linear in the state. Differs from
it: a strength w, with which one prompt a side is asked where the paper guides each side away from the empty text (that
is `source_guidance` and `target_guidance`); the noise may be fixed, so that solvers of a higher order may be used; and
levels are even in t_pub for every network. `n_avg` and `n_min` are the paper's.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from lsb.bridge.clock import Clock
from lsb.bridge.flow import Answers, Flow
from lsb.bridge.grid import Grid
from lsb.bridge.method import Levels, Method
from lsb.bridge.methods.guided import guided
from lsb.bridge.solve import integrate
from lsb.bridge.solvers import SOLVERS
from lsb.bridge.solvers.solver import History

if TYPE_CHECKING:
    from torch import Tensor

    from lsb.bridge.noise import Noise
    from lsb.bridge.velocity import Domain, Predict

    SolverName = str
else:
    SolverName = Literal[tuple(SOLVERS)]


def _minus_one(_: float) -> float:
    return -1.0


# s = -sigma, which rises, and t = 1 / (1 + sigma), which ends at 1.
CLOCK = Clock("sigma", lambda t: 1.0 - 1.0 / t, lambda s: 1.0 / (1.0 - s), lambda s: (1.0 - s) ** -2, _minus_one)


class FlowEdit(Method):
    """FlowEdit: the source is moved by the difference of the two prompts' flows. Forwards: 2 for each of `nfe` and of
    `n_avg`, one more for each side that is guided.
    """

    name: Literal["flowedit"] = Field(default="flowedit", description="The method.")
    nfe: int = Field(default=8, ge=1, description="Evaluations of the difference, and the last `n_min` steps.")
    sigma: float = Field(
        default=1.0,
        gt=0,
        description="Largest noise level, in units of the scaled latents. A rectified flow's time t is t / (1 - t).",
    )
    guidance: float = Field(
        default=1.0, gt=0, description="Strength w of the difference of the two prompts, a factor. The paper's is 1."
    )
    source_guidance: float = Field(
        default=1.0,
        gt=0,
        description="Strength of the source's prompt against `prompts.negative` on the source's side, a factor. The "
        "paper's is 1.5 or 3.5. 1 asks the source's alone.",
    )
    target_guidance: float = Field(
        default=1.0,
        gt=0,
        description="The same of the target's on its side, a factor. The paper's is 5.5 or 13.5.",
    )
    n_avg: int = Field(default=1, ge=1, description="Noises over which each evaluation is averaged, a factor of cost.")
    n_min: int = Field(
        default=0,
        ge=0,
        description="Steps at the end that sample under the target's prompt alone, without the source. Below `nfe`.",
    )
    noise: Literal["step", "fixed"] = Field(
        default="step", description="`step`: new noise for each step, as published. `fixed`: the same for all."
    )
    solver: SolverName = Field(
        default="euler",
        description="As in `bridge`. Another one than `euler` needs `noise: fixed`, and many steps where `guidance` is "
        "strong; `heun` needs an even `nfe`.",
    )

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        solver = SOLVERS[self.solver]
        self._require(self.n_min < self.nfe, "n_min", f"below nfe, {self.nfe}")
        fixed = solver.stochastic or self.noise == "fixed"
        self._require(fixed, "noise", f"fixed with solver {self.solver}")
        a_step = solver.evaluations
        last = "" if not self.n_min else f", the last {self.n_min} steps left out"
        self._require((self.nfe - self.n_min) % a_step == 0, "nfe", f"a multiple of {a_step} with {self.solver}{last}")
        return self

    @property
    def forwards(self) -> int:
        at_end = 1 if self.target_guidance == 1.0 else 2
        each = at_end + (1 if self.source_guidance == 1.0 else 2)
        return (self.nfe - self.n_min) * self.n_avg * each + self.n_min * at_end

    @property
    def largest_sigma(self) -> float:
        return self.sigma

    @property
    def asks(self) -> frozenset[Domain]:
        plain: frozenset[Domain] = frozenset({"source", "target"})
        return plain if self.source_guidance == self.target_guidance == 1.0 else plain | {"negative"}

    @property
    def levels(self) -> tuple[float, ...]:
        """All noise levels, falling to 0, even in t_pub."""
        steps = (self.nfe - self.n_min) // SOLVERS[self.solver].evaluations + self.n_min
        highest = self.sigma / (1.0 + self.sigma)
        times = [highest * (steps - step) / steps for step in range(1, steps + 1)]
        return (self.sigma, *(time / (1.0 - time) for time in times))

    def translate(self, x_0: Tensor, predict: Predict, noise: Noise, levels: Levels) -> Tensor:
        flow = FlowEditFlow(x_0, predict, noise, self)
        solver, down = SOLVERS[self.solver], self.levels
        turn = len(down) - 1 - self.n_min
        nodes = tuple(-level for level in down[: turn + 1])
        d = x_0 - x_0
        if solver.finish is None:
            d, _ = integrate(d, Grid(CLOCK, nodes), solver.step, flow)
        else:
            history: History = ()
            if turn > 1:
                d, history = integrate(d, Grid(CLOCK, nodes[:-1]), solver.step, flow)
            d, _ = solver.finish(d, nodes[-2], nodes[-1], flow, history)
        if self.n_min == 0:
            return x_0 + d
        x = x_0 + down[turn] * flow.drawn(0) + d
        for level, level_next in pairwise(down[turn:]):
            eps = guided(predict, x, level, self.target_guidance, "target", "negative")
            x = x + (level_next - level) * eps
        return x


class FlowEditFlow(Flow):
    """dd/ds in s = -sigma. Nothing is linear in d, so rho is 1 and the one answer is E[eps_1 - eps_0]."""

    def __init__(self, x_0: Tensor, predict: Predict, noise: Noise, settings: FlowEdit) -> None:
        self.clock = CLOCK
        self._x_0, self._predict, self._noise, self._settings = x_0, predict, noise, settings
        self._evaluations = 0

    def slope(self, x: Tensor, s: float) -> Tensor:
        return -self._settings.guidance * self.answers(x, s)[0]

    def rho(self, s: float) -> float:
        return 1.0

    def answers(self, x: Tensor, s: float) -> Answers:
        level, settings, predict = -s, self._settings, self._predict
        total = x - x
        for draw in range(settings.n_avg):
            x_src = self._x_0 + level * self.drawn(draw)
            eps_1 = guided(predict, x_src + x, level, settings.target_guidance, "target", "negative")
            eps_0 = guided(predict, x_src, level, settings.source_guidance, "source", "negative")
            total = total + (eps_1 - eps_0)
        self._evaluations += 1
        return (total / settings.n_avg,)

    def weights(self, theta: float, *, late: bool) -> tuple[float, ...]:
        """t = sin²(theta) = 1 / (1 + sigma), so sigma = cot²(theta)."""
        return (-2.0 * self._settings.guidance * math.cos(theta) / math.sin(theta) ** 3,)

    def drawn(self, draw: int) -> Tensor:
        """The noise of a draw of the evaluation that comes next."""
        first = 0 if self._settings.noise == "fixed" else self._evaluations * self._settings.n_avg
        return self._noise("step", first + draw).to(dtype=self._x_0.dtype, device=self._x_0.device)
