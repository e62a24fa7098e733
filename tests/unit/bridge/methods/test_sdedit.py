from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lsb.bridge.method import Levels
from lsb.bridge.methods.sdedit import Sdedit
from lsb.bridge.mixture import MixtureBridge
from lsb.bridge.schedule import NoiseSchedule
from lsb.bridge.velocity import Domain
from lsb.errors import BridgeError
from tests.unit.bridge.methods.contract import MethodContract, Network, latents, noise
from tests.unit.bridge.methods.problems import LEVELS, denoised, distances, order, points


class TestSdedit(MethodContract):
    methods = (
        Sdedit(),
        Sdedit(nfe=1),
        Sdedit(nfe=5, guidance=7.5, sigma=0.3),
        Sdedit(guidance=2.0, against="negative"),
    )
    refused = (({"nfe": 0}, "nfe"), ({"sigma": 0.0}, "sigma"), ({"guidance": -1.0}, "guidance"))

    def test_it_enters_at_its_sigma_and_leaves_clean(self, levels: Levels) -> None:
        x_0, eps, network = latents(), noise()("start", 0), Network()

        def knows(x_t: Tensor, level: float, domain: Domain) -> Tensor:
            return eps

        method = Sdedit(nfe=5, sigma=0.92)
        torch.testing.assert_close(method.translate(x_0, knows, noise(), levels), x_0, rtol=0, atol=1e-5)
        method.translate(x_0, network, noise(), levels)
        assert network.asked[0] == (0.92, "target")

    def test_guidance_leads_away_from_the_negative_prompt(self, levels: Levels) -> None:
        network, x_0 = Network(), latents()
        method = Sdedit(nfe=1, guidance=3.0, against="negative", sigma=0.5)
        x = x_0 + 0.5 * noise()("start", 0)
        eps_n, eps_1 = network(x, 0.5, "negative"), network(x, 0.5, "target")
        expected = x - 0.5 * (eps_n + 3.0 * (eps_1 - eps_n))
        torch.testing.assert_close(method.translate(x_0, network, noise(), levels), expected)

    @pytest.mark.parametrize("sigma", [0.5, 5.0])
    def test_it_ends_where_the_target_s_flow_does(self, line_mixture: MixtureBridge, sigma: float) -> None:
        """At order 1; whatever the noise, and wherever the source was."""
        x_0, eps = points(), 0.3 * points().flip(0)

        def end(nfe: int) -> Tensor:
            method = Sdedit(nfe=nfe, sigma=sigma)
            return method.translate(x_0, line_mixture.predict, lambda purpose, step: eps, LEVELS)

        counts = (40, 80, 160)
        errors = distances(end, counts, denoised(x_0 + sigma * eps, line_mixture.marginal(1.0), sigma))
        assert order(errors, counts) == pytest.approx(1.0, abs=0.2)
        assert errors[-1] < 0.02


def test_beyond_the_schedule_it_is_refused(schedule: NoiseSchedule) -> None:
    with pytest.raises(BridgeError, match="largest"):
        Sdedit(sigma=99.0).translate(latents(), Network(), noise(), Levels(schedule.sigma_max, schedule))


def test_levels_fall_evenly_in_network_time(schedule: NoiseSchedule) -> None:
    down = Levels(schedule.sigma_max, schedule).falling(2.0, 4)
    assert (down[0], down[-1]) == (2.0, 0.0)
    times = [schedule.network_time(level) for level in down[:-1]]
    assert times == pytest.approx([times[0] * share for share in (1, 0.75, 0.5, 0.25)])


def test_levels_without_a_table_fall_evenly_in_a_rectified_flow_s_time() -> None:
    down = Levels(9.0).falling(3.0, 3)
    assert [level / (1 + level) for level in down] == pytest.approx([0.75, 0.5, 0.25, 0])
