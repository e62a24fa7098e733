from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lsb.bridge.gaussian import GaussianBridge, matrix_root
from lsb.bridge.method import Levels
from lsb.bridge.methods.ddib import Ddib
from lsb.bridge.mixture import MixtureBridge
from tests.unit.bridge.methods.contract import MethodContract, Network, latents, noise
from tests.unit.bridge.methods.problems import LEVELS, denoised, distances, order, points


def nothing(purpose: str, step: int) -> Tensor:
    raise AssertionError("this method draws no noise")


class TestDdib(MethodContract):
    methods = (
        Ddib(),
        Ddib(nfe=2),
        Ddib(nfe=8, sigma=0.5),
        Ddib(nfe=8, inversion="negative", against="negative", guidance=7.5),
    )
    refused = (({"nfe": 7}, "nfe"), ({"nfe": 0}, "nfe"), ({"sigma": -1.0}, "sigma"), ({"guidance": 0.0}, "guidance"))
    draws = False

    def test_it_carries_one_gaussian_to_the_other(self, gaussian: GaussianBridge) -> None:
        """The two flows of a pair of Gaussians are S^½ (S + sigma²)^-½ maps; in the limit their chain is exact."""
        bridge, top = gaussian, 3.0
        dimension = len(bridge.m_0)
        x_0 = bridge.m_0 + torch.randn(5, dimension, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        unit = torch.eye(dimension, dtype=torch.float64)

        def flow(S: Tensor) -> Tensor:
            return matrix_root(S + top**2 * unit) @ torch.linalg.inv(matrix_root(S))

        latent = bridge.m_0 + (x_0 - bridge.m_0) @ flow(bridge.S_0).T
        exact = bridge.m_1 + (latent - bridge.m_1) @ torch.linalg.inv(flow(bridge.S_1)).T

        def end(nfe: int) -> Tensor:
            return Ddib(nfe=nfe, sigma=top).translate(x_0, bridge.predict, nothing, LEVELS)

        counts = (100, 200, 400)
        errors = distances(end, counts, exact)
        assert order(errors, counts) == pytest.approx(1.0, abs=0.15)
        assert errors[-1] < 0.1

    def test_it_carries_one_mixture_to_the_other(self, line_mixture: MixtureBridge) -> None:
        """Up the source's flow and down the target's, each of which keeps the quantiles."""
        x_0, top = points(), 3.0
        p_0, p_1 = line_mixture.marginal(0.0), line_mixture.marginal(1.0)
        exact = denoised(p_0.noised(top).quantile(p_0.distribution(x_0[:, 0]))[:, None], p_1, top)

        def end(nfe: int) -> Tensor:
            return Ddib(nfe=nfe, sigma=top).translate(x_0, line_mixture.predict, nothing, LEVELS)

        counts = (100, 200, 400)
        errors = distances(end, counts, exact)
        assert order(errors, counts) == pytest.approx(1.0, abs=0.2)
        assert errors[-1] < 0.1

    def test_one_prompt_for_both_ways_gives_the_source_back(self, line_mixture: MixtureBridge) -> None:
        """What is left of it is the solver's error."""

        def source_alone(x_t: Tensor, level: float, domain: object) -> Tensor:
            return line_mixture.predict(x_t, level, "source")

        errors = distances(
            lambda nfe: Ddib(nfe=nfe, sigma=1.0).translate(points(), source_alone, nothing, LEVELS),
            (50, 100, 200),
            points(),
        )
        assert errors[0] > errors[1] > errors[2]
        assert errors[2] < 0.05

    def test_it_inverts_under_the_prompt_it_is_told(self, levels: Levels) -> None:
        for inversion in ("source", "negative"):
            network = Network()
            Ddib(nfe=6, inversion=inversion).translate(latents(), network, noise(), levels)
            assert [domain for _, domain in network.asked] == [inversion] * 3 + ["target"] * 3
