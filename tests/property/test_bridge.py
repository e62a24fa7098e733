"""What holds for any setting of the bridge."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lsb.bridge.gaussian import GaussianBridge
from lsb.bridge.grid import grid_of
from lsb.bridge.noise import BatchNoise, unit_noise
from lsb.bridge.schedule import NoiseSchedule
from lsb.bridge.settings import BridgeSettings
from lsb.bridge.solve import translate_latents
from lsb.bridge.solvers import SOLVERS
from lsb.bridge.velocity import Domain, LsbPredictors, sigma
from lsb.records import sha256

times = st.floats(0.01, 0.99)
taus = st.floats(0.05, 5.0)


@st.composite
def schedules(draw: st.DrawFn) -> NoiseSchedule:
    first, last = draw(st.floats(1e-4, 5e-3)), draw(st.floats(6e-3, 0.05))
    betas = np.linspace(first**0.5, last**0.5, draw(st.integers(50, 1000))) ** 2
    return NoiseSchedule.of(np.cumprod(1 - betas))


@st.composite
def bridge_settings(draw: st.DrawFn) -> BridgeSettings:
    t0 = draw(st.floats(0.01, 0.5))
    t_end = draw(st.floats(0.6, 0.99))
    solver = draw(st.sampled_from(list(SOLVERS)))
    steps = draw(st.integers(1, 6))
    nfe = SOLVERS[solver].evaluations * steps + 1
    grid = draw(st.sampled_from(["uniform", "theta", "logit", "tuned"]))
    tuned = tuple(float(t) for t in np.linspace(t0, t_end, steps + 1)) if grid == "tuned" else None
    return BridgeSettings(
        tau=draw(taus),
        t0=t0,
        t_end=t_end,
        guidance=draw(st.floats(0.5, 15.0)),
        nfe=nfe,
        noise=draw(st.sampled_from(["switch", "mix"])),
        start=draw(st.sampled_from(["published", "centred"])),
        solver=solver,
        grid=grid,
        times=tuned,
        gamma=draw(st.sampled_from([0.0, 0.5, 1.0])) if SOLVERS[solver].stochastic else 0.0,
        partial=None if tuned else draw(st.sampled_from([None, 0.55])),
    )


@given(schedules(), st.floats(0, 1))
@settings(derandomize=True, max_examples=60)
def test_sigma_to_time_to_sigma(schedule: NoiseSchedule, place: float) -> None:
    level = schedule.sigma_min ** (1 - place) * schedule.sigma_max**place
    assume(level >= schedule.sigma_min)
    assert math.isclose(schedule.sigma_of(schedule.network_time(level)), level, rel_tol=1e-6)


@given(schedules(), st.floats(0, 1))
@settings(derandomize=True, max_examples=60)
def test_published_sigma_is_the_nearest_entry(schedule: NoiseSchedule, place: float) -> None:
    level = schedule.sigma_max * place
    table = [1.0, *schedule.alphas_cumprod]
    wanted = 1 / (1 + level**2)
    chosen = table[schedule.published_time(level)]
    assert abs(chosen - wanted) == min(abs(entry - wanted) for entry in table)
    assert schedule.published_time(schedule.published_sigma(level)) == schedule.published_time(level)


@given(bridge_settings())
@settings(derandomize=True, max_examples=60)
def test_any_path_spends_what_it_says_and_rises(chosen: BridgeSettings) -> None:
    asked: list[float] = []

    def network(x_t: Tensor, level: float, domain: Domain) -> Tensor:
        asked.append(level)
        return 0.1 * torch.tanh(x_t)

    noise = BatchNoise((1, 2, 2), seed="0", digests=[sha256(b"a")])
    out = translate_latents(torch.zeros(1, 1, 2, 2), network, chosen, noise)
    assert len(asked) == chosen.forwards
    assert all(0 < level <= chosen.tau / 2 * (1 + 1e-9) for level in asked)
    assert bool(torch.isfinite(out).all())
    grid = grid_of(chosen).times
    assert math.isclose(grid[0], chosen.t0, rel_tol=1e-9)
    assert math.isclose(grid[-1], chosen.t_n, rel_tol=1e-9)
    assert all(early < late for early, late in pairwise(grid))


@given(st.permutations(range(5)), st.text(max_size=8))
@settings(derandomize=True, max_examples=30)
def test_noise_follows_the_image(order: list[int], seed: str) -> None:
    digests = [sha256(str(index).encode()) for index in range(5)]
    batch = BatchNoise((2, 3), seed=seed, digests=[digests[index] for index in order])("start", 0)
    for row, index in enumerate(order):
        assert torch.equal(batch[row], unit_noise((2, 3), seed=seed, digest=digests[index], purpose="start"))


@given(times, taus, st.integers(0, 2**31))
@settings(derandomize=True, max_examples=40)
def test_mix_keeps_the_identity(t: float, tau: float, seed: int) -> None:
    x_t = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def network(x: Tensor, level: float, domain: Domain) -> Tensor:
        return torch.tanh(x) if domain == "source" else torch.cos(x + level)

    found = LsbPredictors(network, tau, "mix")(x_t, t)
    total = (1 - t) * found.x_0_hat + t * found.x_1_hat + sigma(t, tau) * found.eps_hat
    torch.testing.assert_close(total, x_t, rtol=1e-10, atol=1e-10)


@given(st.floats(0.3, 4.0), st.integers(1, 4), st.integers(0, 2**31))
@settings(derandomize=True, max_examples=40)
def test_static_bridge_s_precision(tau: float, dimension: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def covariance() -> Tensor:
        factor = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)
        return factor @ factor.T / dimension + 0.2 * torch.eye(dimension, dtype=torch.float64)

    mean = torch.zeros(dimension, dtype=torch.float64)
    bridge = GaussianBridge.between(mean, covariance(), mean, covariance(), tau)
    block = bridge.joint_precision()[:dimension, dimension:]
    torch.testing.assert_close(block, -torch.eye(dimension, dtype=torch.float64) / tau**2, rtol=0, atol=1e-8)
