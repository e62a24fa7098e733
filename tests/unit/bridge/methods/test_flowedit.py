from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from lsb.bridge.method import Levels
from lsb.bridge.methods.flowedit import CLOCK, FlowEdit
from lsb.bridge.mixture import MixtureBridge
from lsb.bridge.solvers import SOLVERS
from lsb.bridge.velocity import Domain
from tests.unit.bridge.methods.contract import DIGESTS, MethodContract, latents, noise
from tests.unit.bridge.methods.problems import LEVELS, distances, order, points


class TestFlowEdit(MethodContract):
    methods = (
        FlowEdit(),
        FlowEdit(nfe=1, sigma=0.4, guidance=5.0),
        FlowEdit(nfe=5, n_avg=3, n_min=2, source_guidance=1.5, target_guidance=5.5),
        FlowEdit(nfe=3, n_min=1, target_guidance=3.0),
        FlowEdit(nfe=7, n_min=1, noise="fixed", solver="heun"),
        FlowEdit(nfe=4, n_min=1, noise="fixed", n_avg=2, solver="adams_moulton"),
        FlowEdit(nfe=1, noise="fixed", solver="adams_moulton"),
    )
    refused = (
        ({"nfe": 0}, "nfe"),
        ({"nfe": 3, "solver": "heun", "noise": "fixed"}, "nfe"),
        ({"sigma": 0.0}, "sigma"),
        ({"guidance": 0.0}, "guidance"),
        ({"n_avg": 0}, "n_avg"),
        ({"nfe": 4, "n_min": 4}, "n_min"),
        ({"solver": "adams_moulton"}, "noise"),
    )

    def test_it_is_the_published_form_step_by_step(self, mixture: MixtureBridge) -> None:
        """Written out as in the paper: a rectified flow's velocities, delta, and its time."""
        method = FlowEdit(nfe=7, sigma=1.5, n_avg=2, n_min=2, source_guidance=1.5, target_guidance=4.0)
        X = mixture.marginal(0.0).means
        drawn: dict[int, Tensor] = {}

        def gauss(purpose: str, step: int) -> Tensor:
            seed = torch.Generator().manual_seed(step)
            return drawn.setdefault(step, torch.randn(*X.shape, generator=seed, dtype=torch.float64))

        def predict(x_t: Tensor, level: float, domain: Domain) -> Tensor:
            if domain == "negative":
                return torch.tanh(x_t) * level
            return mixture.predict(x_t, level, domain)

        def velocity(Z: Tensor, t: float, domain: Domain, guidance: float) -> Tensor:
            eps = [predict(Z / (1 - t), t / (1 - t), each) for each in ("negative", domain)]
            each = [(answer - Z) / (1 - t) for answer in eps]
            return each[0] + guidance * (each[1] - each[0])

        T = 7
        times = [0.6 * (T - i) / T for i in range(T + 1)]  # 1.5 / (1 + 1.5) = 0.6
        Z_edit = X.clone()
        seen: list[Tensor] = []
        for i in range(T - 2):
            t, t_next = times[i], times[i + 1]
            V = torch.zeros_like(X)
            for k in range(2):
                Z_src = (1 - t) * X + t * gauss("", 2 * i + k)
                Z_tar = Z_edit + Z_src - X
                V += (velocity(Z_tar, t, "target", 4.0) - velocity(Z_src, t, "source", 1.5)) / 2
            Z_edit = Z_edit + (t_next - t) * V
            seen.append((Z_edit - X) / (1 - t_next))
        t = times[T - 2]
        Z = Z_edit + (1 - t) * X + t * gauss("", 2 * (T - 2)) - X
        for t, t_next in pairwise(times[T - 2 :]):
            Z = Z + (t_next - t) * velocity(Z, t, "target", 4.0)

        asked: list[Tensor] = []

        def spy(x_t: Tensor, level: float, domain: Domain) -> Tensor:
            asked.append(x_t)
            return predict(x_t, level, domain)

        found = method.translate(X, spy, gauss, LEVELS)
        torch.testing.assert_close(found, Z, rtol=0, atol=1e-12)
        # d at each step is what the target's side is asked at, less what the source's is.
        ours = [asked[8 * i] - asked[8 * i + 2] for i in range(T - 2)]
        for mine, published in zip(ours[1:], seen, strict=False):
            torch.testing.assert_close(mine, published, rtol=0, atol=1e-12)

    def test_equal_prompts_change_nothing(self, levels: Levels) -> None:
        def one(x_t: Tensor, level: float, domain: Domain) -> Tensor:
            return torch.tanh(x_t)

        for method in (FlowEdit(guidance=7.0), FlowEdit(noise="fixed", solver="adams_moulton")):
            assert torch.equal(method.translate(latents(), one, noise(), levels), latents())

    @pytest.mark.parametrize("solver", SOLVERS)
    @pytest.mark.parametrize("w", [1.0, 3.0])
    def test_between_two_gaussians_of_one_spread_it_shifts_by_what_it_should(self, solver: str, w: float) -> None:
        """eps_i = sigma (x - m_i) / (s² + sigma²), so d - m_1 + m_0 shrinks by (s² / (s² + sigma²))^(w/2)."""
        s, top, means = 0.5, 1.2, {"source": 0.3, "target": 1.9}

        def predict(x_t: Tensor, level: float, domain: Domain) -> Tensor:
            return level * (x_t - means[domain]) / (s**2 + level**2)

        shift = 1.6 * (1 - (s**2 / (s**2 + top**2)) ** (w / 2))

        def end(nfe: int) -> Tensor:
            method = FlowEdit(nfe=nfe, sigma=top, guidance=w, noise="fixed", solver=solver)
            return method.translate(points(3), predict, lambda purpose, step: points(3), LEVELS)

        counts = (16, 32, 64)
        errors = distances(end, counts, points(3) + shift)
        assert order(errors, counts) > SOLVERS[solver].order - 0.25
        assert errors[-1] < 0.05

    @pytest.mark.parametrize("solver", SOLVERS)
    def test_its_order_on_the_mixture_is_the_solver_s(self, line_mixture: MixtureBridge, solver: str) -> None:
        def end(nfe: int, solver: str = solver) -> Tensor:
            method = FlowEdit(nfe=nfe, sigma=1.0, guidance=1.5, noise="fixed", solver=solver)
            return method.translate(points(), line_mixture.predict, lambda purpose, step: 0.4 * points(), LEVELS)

        counts = (16, 32, 64)
        errors = distances(end, counts, end(200, "adams_moulton"))
        assert order(errors, counts) > SOLVERS[solver].order - 0.35

    def test_noise_is_by_step_and_draw(self) -> None:
        drawn: list[tuple[str, int]] = []

        def spy(purpose: str, step: int) -> Tensor:
            drawn.append((purpose, step))
            return noise()(purpose, step)

        for method, steps in (
            (FlowEdit(nfe=3, n_avg=2, n_min=1), [0, 1, 2, 3, 4]),
            (FlowEdit(nfe=3, n_avg=2, n_min=1, noise="fixed"), [0, 1, 0, 1, 0]),
        ):
            drawn.clear()
            method.translate(latents(), lambda x, level, domain: 0 * x, spy, LEVELS)
            assert drawn == [("step", step) for step in steps]

    def test_more_draws_are_nearer_to_the_mean_over_noise(self, line_mixture: MixtureBridge) -> None:
        x_0 = torch.full((len(DIGESTS), 2, 4, 4), 0.5, dtype=torch.float64)

        def predict(x_t: Tensor, level: float, domain: Domain) -> Tensor:
            return line_mixture.predict(x_t.reshape(-1, 1), level, domain).reshape(x_t.shape)

        spread = [
            float(FlowEdit(nfe=2, n_avg=n_avg).translate(x_0, predict, noise(), LEVELS).std()) for n_avg in (1, 16)
        ]
        assert spread[1] < 0.5 * spread[0]


@pytest.mark.parametrize("t", [0.2, 0.5, 0.9])
def test_its_clock(t: float) -> None:
    s, step = CLOCK.position(t), 1e-6
    assert CLOCK.time(s) == pytest.approx(t)
    assert -s == pytest.approx((1 - t) / t)
    assert CLOCK.rate(s) == pytest.approx((CLOCK.time(s + step) - CLOCK.time(s - step)) / (2 * step))
    theta = math.asin(math.sqrt(t))
    flow_weight = (CLOCK.position(math.sin(theta + step) ** 2) - CLOCK.position(math.sin(theta - step) ** 2)) / -2e-6
    assert flow_weight == pytest.approx(-2 * math.cos(theta) / math.sin(theta) ** 3)
