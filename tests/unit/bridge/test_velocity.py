"""LSB's predictor set and its noise predictors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lsb.bridge.settings import BridgeSettings, NoisePredictor
from lsb.bridge.solve import translate_latents
from lsb.bridge.velocity import Domain, LsbPredictors, sigma, sigma_prime, velocity

TAU = 0.9


def network(x_t: Tensor, level: float, domain: Domain) -> Tensor:
    return torch.tanh(x_t / (1 + level)) if domain == "source" else torch.sin(x_t) * level


@pytest.fixture
def x_t() -> Tensor:
    return torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def identity_gap(predictors: LsbPredictors, x_t: Tensor, t: float) -> float:
    found = predictors(x_t, t)
    total = (1 - t) * found.x_0_hat + t * found.x_1_hat + sigma(t, TAU) * found.eps_hat
    return float((total - x_t).abs().max())


def test_mix_keeps_the_identity_and_switch_breaks_it(x_t: Tensor) -> None:
    for t in (0.2, 0.5, 0.8):
        assert identity_gap(LsbPredictors(network, TAU, "mix"), x_t, t) < 1e-12
        assert identity_gap(LsbPredictors(network, TAU, "switch"), x_t, t) > 1e-3


def test_switch_changes_after_one_half(x_t: Tensor) -> None:
    predictors = LsbPredictors(network, TAU, "switch")
    for t, domain in ((0.2, "source"), (0.5, "source"), (0.500001, "target"), (0.9, "target")):
        expected = network(x_t, sigma(t, TAU), domain)  # type: ignore[arg-type]
        torch.testing.assert_close(predictors(x_t, t).eps_hat, expected)


def test_velocity_is_written_in_the_two_noises(x_t: Tensor) -> None:
    """v = w sigma (eps_0 - eps_1) + sigma' eps_hat."""
    t, w = 0.3, 4.0
    level = sigma(t, TAU)
    eps_0, eps_1 = network(x_t, level, "source"), network(x_t, level, "target")
    expected = w * level * (eps_0 - eps_1) + sigma_prime(t, TAU) * eps_0
    got = velocity(LsbPredictors(network, TAU, "switch")(x_t, t), t, TAU, w)
    torch.testing.assert_close(got, expected)


def test_sigma_prime_is_the_derivative() -> None:
    for t in (0.1, 0.5, 0.9):
        numeric = (sigma(t + 1e-6, TAU) - sigma(t - 1e-6, TAU)) / 2e-6
        assert sigma_prime(t, TAU) == pytest.approx(numeric, abs=1e-6)
    assert sigma(0.5, TAU) == pytest.approx(TAU / 2)


def test_forwards_are_counted(x_t: Tensor) -> None:
    predictors = LsbPredictors(network, TAU, "mix")
    predictors(x_t, 0.3)
    assert predictors.forwards == 2
    predictors.clean(x_t, 0.3)
    assert predictors.forwards == 4
    switched = LsbPredictors(network, TAU, "switch")
    switched.clean(x_t, 0.3)
    assert switched.forwards == 1


def test_clean_part_uses_the_noise_predictor_of_the_settings(x_t: Tensor) -> None:
    for t, noise in ((0.3, "switch"), (0.8, "switch"), (0.3, "mix")):
        predictors = LsbPredictors(network, TAU, noise)  # type: ignore[arg-type]
        expected = x_t - sigma(t, TAU) * predictors(x_t, t).eps_hat
        torch.testing.assert_close(predictors.clean(x_t, t), expected)


def test_predictions_are_cast_to_the_state(x_t: Tensor) -> None:
    def half(x: Tensor, level: float, domain: Domain) -> Tensor:
        return network(x, level, domain).to(torch.bfloat16)

    assert LsbPredictors(half, TAU, "mix")(x_t, 0.3).x_0_hat.dtype == torch.float64


def guidance_at(t: float, w: float, noise: NoisePredictor) -> float:
    """s of docs/mathematics.md: dx/dsigma = eps_0 + s (eps_1 - eps_0)."""
    share_1 = t if noise == "mix" else float(t > 0.5)
    return share_1 + 2 * w * t * (1 - t) / (2 * t - 1)


@pytest.mark.parametrize("noise", ["switch", "mix"])
@pytest.mark.parametrize("w", [1.0, 11.0])
def test_it_is_a_schedule_of_guidance(x_t: Tensor, noise: NoisePredictor, w: float) -> None:
    for t in (0.01, 0.2, 0.45, 0.55, 0.8, 0.99):
        for tau in (0.1, 2.3):  # of which s knows nothing
            slope = velocity(LsbPredictors(network, tau, noise)(x_t, t), t, tau, w) / sigma_prime(t, tau)
            eps_0, eps_1 = (network(x_t, sigma(t, tau), domain) for domain in ("source", "target"))
            expected = eps_0 + guidance_at(t, w, noise) * (eps_1 - eps_0)
            torch.testing.assert_close(slope, expected, rtol=1e-12, atol=1e-12)


def test_the_mean_guidance_over_sigma_follows_from_w_alone() -> None:
    """In theta, where neither s dsigma nor anything else is singular."""
    places, shares = np.polynomial.legendre.leggauss(40)
    for first, last, mean in ((0.0, math.pi / 4, -11 * math.pi / 8), (math.pi / 4, math.pi / 2, 1 + 11 * math.pi / 8)):
        theta = first + (last - first) * (places + 1) / 2
        t, rise = np.sin(theta) ** 2, np.cos(2 * theta) * (last - first) / 2  # of sigma / tau
        s = np.array([guidance_at(each, 11.0, "switch") for each in t])
        assert float((s * rise * shares).sum() / (rise * shares).sum()) == pytest.approx(mean)


@pytest.mark.parametrize(("noise", "length"), [("switch", math.pi / 8 * 10 + 0.5), ("mix", math.pi / 8 * 11)])
def test_where_the_prompts_disagree_by_the_same_it_is_one_step(noise: NoisePredictor, length: float) -> None:
    eps: dict[str, float] = {"source": 0.7, "target": -0.4}
    settings = BridgeSettings(
        tau=0.1, guidance=10, t0=1e-5, t_end=1 - 1e-5, start="centred", grid="theta", noise=noise, nfe=300
    )
    x_0 = torch.linspace(-1, 1, 5, dtype=torch.float64)
    found = translate_latents(
        x_0, lambda x, level, domain: torch.full_like(x, eps[domain]), settings, lambda purpose, step: 0 * x_0
    )
    torch.testing.assert_close(found, x_0 + length * 0.1 * 1.1, rtol=0, atol=2e-3)
