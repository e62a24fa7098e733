from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from lsb.bridge.method import Levels
from lsb.bridge.methods.cyclediffusion import CycleDiffusion
from lsb.bridge.methods.flowedit import FlowEdit
from lsb.bridge.mixture import MixtureBridge
from lsb.bridge.velocity import Domain
from tests.unit.bridge.methods.contract import MethodContract, latents, noise
from tests.unit.bridge.methods.problems import LEVELS, distances, order, points


def gauss(purpose: str, step: int) -> Tensor:
    """Another one for each purpose and step."""
    seed = torch.Generator().manual_seed(1 + step if purpose == "step" else 0)
    return torch.randn(17, 1, generator=seed, dtype=torch.float64)


def shift_errors(eta: float, counts: tuple[int, ...]) -> list[float]:
    """Against 1 - (s² / (s² + sigma²))^((1 + eta²) / 2) of the way from one mean to the other."""
    s, top, means = 0.5, 1.2, {"source": 0.3, "target": 1.9}

    def predict(x_t: Tensor, level: float, domain: Domain) -> Tensor:
        return level * (x_t - means[domain]) / (s**2 + level**2)

    def end(nfe: int) -> Tensor:
        return CycleDiffusion(nfe=nfe, sigma=top, eta=eta).translate(points(), predict, gauss, LEVELS)

    shift = 1.6 * (1 - (s**2 / (s**2 + top**2)) ** ((1 + eta**2) / 2))
    return distances(end, counts, points() + shift)


class TestCycleDiffusion(MethodContract):
    methods = (
        CycleDiffusion(),
        CycleDiffusion(nfe=1, eta=1.0),
        CycleDiffusion(nfe=5, sigma=0.4, eta=0.0, guidance=3.0),
        CycleDiffusion(nfe=4, guidance=3.0, against="negative"),
    )
    refused = (
        ({"nfe": 0}, "nfe"),
        ({"sigma": 0.0}, "sigma"),
        ({"eta": 1.5}, "eta"),
        ({"eta": -0.1}, "eta"),
        ({"guidance": 0.0}, "guidance"),
    )

    def test_equal_prompts_give_the_source_back_to_the_bit(self, levels: Levels) -> None:
        def one(x_t: Tensor, level: float, domain: Domain) -> Tensor:
            return torch.tanh(x_t)

        for eta in (0.0, 0.1, 1.0):
            assert torch.equal(CycleDiffusion(eta=eta).translate(latents(), one, noise(), levels), latents())

    @pytest.mark.parametrize("eta", [0.1, 1.0])
    def test_it_is_the_published_form(self, line_mixture: MixtureBridge, eta: float) -> None:
        """Written out in a variance-preserving network's variables: encode all noise first, then replay it."""
        method = CycleDiffusion(nfe=5, sigma=1.4, eta=eta, guidance=2.0)
        x_0 = points()
        alphas = [1 / (1 + level**2) for level in LEVELS.falling(1.4, 5)]

        def eps(y: Tensor, alpha: float, domain: Domain) -> Tensor:
            return line_mixture.predict(y / alpha**0.5, ((1 - alpha) / alpha) ** 0.5, domain)

        def deviation(alpha: float, after: float) -> float:
            return eta * ((1 - after) / (1 - alpha) * (1 - alpha / after)) ** 0.5

        def mean(y: Tensor, found: Tensor, alpha: float, after: float) -> Tensor:
            clean = (y - (1 - alpha) ** 0.5 * found) / alpha**0.5
            return after**0.5 * clean + (1 - after - deviation(alpha, after) ** 2) ** 0.5 * found

        ys = [alphas[0] ** 0.5 * x_0 + (1 - alphas[0]) ** 0.5 * gauss("start", 0)]
        for step, (alpha, after) in enumerate(pairwise(alphas)):
            true = (ys[-1] - alpha**0.5 * x_0) / (1 - alpha) ** 0.5
            ys.append(mean(ys[-1], true, alpha, after) + deviation(alpha, after) * gauss("step", step))
        recorded = [
            (y_next - mean(y, eps(y, alpha, "source"), alpha, after)) / (deviation(alpha, after) or 1.0)
            for (y, y_next), (alpha, after) in zip(pairwise(ys), pairwise(alphas), strict=True)
        ]
        y = ys[0]
        for known, (alpha, after) in zip(recorded, pairwise(alphas), strict=True):
            eps_0, eps_1 = eps(y, alpha, "source"), eps(y, alpha, "target")
            y = mean(y, eps_0 + 2.0 * (eps_1 - eps_0), alpha, after) + (deviation(alpha, after) or 1.0) * known
        found = method.translate(x_0, line_mixture.predict, gauss, LEVELS)
        torch.testing.assert_close(found, y, rtol=0, atol=1e-12)

    def test_without_noise_of_its_own_it_is_flowedit_with_one_fixed_noise(self, line_mixture: MixtureBridge) -> None:
        def fixed(purpose: str, step: int) -> Tensor:
            return 0.4 * points()

        cycle = CycleDiffusion(nfe=6, sigma=0.9, eta=0.0).translate(points(), line_mixture.predict, fixed, LEVELS)
        flow = FlowEdit(nfe=6, sigma=0.9, noise="fixed").translate(points(), line_mixture.predict, fixed, LEVELS)
        torch.testing.assert_close(cycle, flow, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("eta", [0.0, 0.5, 0.8])
    def test_between_two_gaussians_of_one_spread_it_shifts_by_what_it_should(self, eta: float) -> None:
        """As FlowEdit with w = 1 + eta²: so much stronger is the sampler's pull to the mean, noise replayed or not."""
        counts = (32, 64, 128)
        errors = shift_errors(eta, counts)
        assert order(errors, counts) == pytest.approx(1.0, abs=0.2)
        assert errors[-1] < 0.02

    def test_as_ddpm_it_shifts_so_in_any_number_of_steps(self) -> None:
        """1 + (next² - level²) / (s² + level²) telescopes."""
        assert max(shift_errors(1.0, (1, 2, 5))) < 1e-12

    def test_its_noise_is_by_step(self) -> None:
        drawn: list[tuple[str, int]] = []

        def spy(purpose: str, step: int) -> Tensor:
            drawn.append((purpose, step))
            return noise()(purpose, step)

        CycleDiffusion(nfe=3).translate(latents(), lambda x, level, domain: 0 * x, spy, LEVELS)
        assert drawn == [("start", 0), ("step", 0), ("step", 1)]
