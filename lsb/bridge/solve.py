"""Latents across the bridge: where they enter, the one loop over all steps, and the clean prediction at the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

from lsb.bridge.flow import Flow, LsbFlow
from lsb.bridge.grid import Grid, grid_of
from lsb.bridge.schedule import NoiseSchedule
from lsb.bridge.solvers import SOLVERS
from lsb.bridge.solvers.solver import History, Step
from lsb.bridge.velocity import LsbPredictors, Predict, sigma
from lsb.errors import BridgeError

if TYPE_CHECKING:
    from torch import Tensor

    from lsb.bridge.noise import Noise
    from lsb.bridge.settings import BridgeSettings


def translate_latents(
    x_0: Tensor,
    predict: Predict,
    settings: BridgeSettings,
    noise: Noise,
    schedule: NoiseSchedule | None = None,
) -> Tensor:
    """Target latents x_1 of source latents x_0, both (B, C, h, w); the state keeps x_0's dtype and device.

    Args:
        x_0: scaled latents; the VAE's mode, or its sample with preset `published`.
        predict: the network, `predict(x_t, sigma, domain)`; called `settings.forwards` times.
        settings: the path.
        noise: unit Gaussian noise by purpose and step.
        schedule: the network's; needed by preset `published`, which asks the network only at sigmas of its table
            (so that an adapter finds the integer step by `schedule.published_time(sigma)`).

    Raises:
        BridgeError: preset `published` without a schedule, or a sigma outside it.
    """
    grid, solver = grid_of(settings), SOLVERS[settings.solver]
    published = settings.preset == "published"
    if published and schedule is None:
        raise BridgeError("preset published needs the network's noise schedule and got none; use preset default")
    snap = schedule.published_sigma if published and schedule is not None else None
    predictors = LsbPredictors(predict, settings.tau, settings.noise, snap)
    flow = LsbFlow(predictors, grid.clock, settings.tau, settings.guidance, settings.gamma)
    x, history = integrate(
        enter(x_0, settings, noise),
        grid,
        solver.step,
        flow,
        kicks(grid, settings.tau, settings.gamma, noise),
    )
    if solver.finish is not None:
        end = grid.clock.position(settings.t_n)
        x, answers = solver.finish(x, grid.nodes[-1], end, flow, history)
        return (flow.clean if settings.partial is None else flow.clean_part)(x, end, answers)
    if published and schedule is not None:
        # The ODE's last step ends on t = 1; the network is asked once more at the sigma of that step's beginning.
        t_last = grid.times[-2]
        eps_1 = predictors.eps(x, t_last, "target")
        alpha_bar = schedule.published_end
        return math.sqrt(alpha_bar) * (x - predictors.level(t_last) * eps_1) + math.sqrt(1.0 - alpha_bar) * eps_1
    if settings.partial is not None:
        return predictors.clean(x, settings.partial)
    return x - predictors.level(settings.t_n) * predictors.eps(x, settings.t_n, "target")


def enter(x_0: Tensor, settings: BridgeSettings, noise: Noise) -> Tensor:
    """Where the image enters the bridge: (1-t0) x_0 + sigma(t0) eps, or x_0 + sigma(t0) eps when `centred`."""
    scale = 1.0 if settings.start == "centred" else 1.0 - settings.t0
    eps = noise("start", 0).to(dtype=x_0.dtype, device=x_0.device)
    return scale * x_0 + sigma(settings.t0, settings.tau) * eps


def kicks(grid: Grid, tau: float, gamma: float, noise: Noise) -> Callable[[Tensor, int], Tensor] | None:
    """The stochastic family's gamma tau dW of each step, added after it; None for the ODE."""
    if gamma == 0.0:
        return None
    times = grid.times

    def kick(x: Tensor, step: int) -> Tensor:
        spread = gamma * tau * math.sqrt(times[step + 1] - times[step])
        return x + spread * noise("step", step).to(dtype=x.dtype, device=x.device)

    return kick


def integrate(
    x: Tensor,
    grid: Grid,
    step: Step,
    flow: Flow,
    kick: Callable[[Tensor, int], Tensor] | None = None,
) -> tuple[Tensor, History]:
    """The driver: every solver, grid and predictor set runs through this loop."""
    history: History = ()
    for index, (s, s_next) in enumerate(pairwise(grid.nodes)):
        x, history = step(x, s, s_next, flow, history)
        if kick is not None:
            x = kick(x, index)
    return x, history
