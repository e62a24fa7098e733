"""The driver: where an image enters, what is counted, where it ends, and that a batch's order is of no account."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lsb.bridge.gaussian import GaussianBridge
from lsb.bridge.noise import BatchNoise
from lsb.bridge.schedule import NoiseSchedule
from lsb.bridge.settings import BridgeSettings, NoisePredictor
from lsb.bridge.solve import enter, translate_latents
from lsb.bridge.velocity import Domain, LsbPredictors, sigma, sigma_prime
from lsb.errors import BridgeError
from lsb.records import sha256

SHAPE = (4, 8, 8)
DIGESTS = tuple(sha256(str(i).encode()) for i in range(4))


class Network:
    """A nonlinear stand-in that notes how it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, Domain]] = []

    def __call__(self, x_t: Tensor, level: float, domain: Domain) -> Tensor:
        self.asked.append((level, domain))
        strength = 1.0 if domain == "source" else 0.8
        return torch.tanh(strength * x_t / math.sqrt(1 + level**2))


def latents(digests: tuple[str, ...] = DIGESTS) -> Tensor:
    return BatchNoise(SHAPE, seed="latent", digests=digests)("vae", 0)


def noise(digests: tuple[str, ...] = DIGESTS) -> BatchNoise:
    return BatchNoise(SHAPE, seed="0", digests=digests)


EVERY_PATH = [
    BridgeSettings(),
    BridgeSettings(preset="published"),
    BridgeSettings(nfe=2),
    BridgeSettings(solver="heun", nfe=7),
    BridgeSettings(solver="adams_moulton", grid="theta", nfe=4),
    BridgeSettings(grid="logit", noise="mix", start="centred"),
    BridgeSettings(grid="tuned", nfe=4, times=(0.2, 0.54, 0.82, 0.98)),
    BridgeSettings(solver="adams_moulton", grid="tuned", nfe=4, times=(0.2, 0.4, 0.84, 0.93), noise="mix"),
    BridgeSettings(gamma=1.0, grid="theta"),
    BridgeSettings(partial=0.5),
    BridgeSettings(partial=0.5, noise="mix", nfe=4),
    BridgeSettings(partial=0.5, noise="mix", nfe=4, solver="adams_moulton"),
]


@pytest.mark.parametrize("settings", EVERY_PATH, ids=range(len(EVERY_PATH)))
def test_forwards_are_what_is_spent(settings: BridgeSettings, schedule: NoiseSchedule) -> None:
    network = Network()
    translate_latents(latents(), network, settings, noise(), schedule)
    assert len(network.asked) == settings.forwards


def test_eight_evaluations_are_fifteen_forwards() -> None:
    assert BridgeSettings().forwards == 15
    assert BridgeSettings(preset="published").forwards == 15
    assert BridgeSettings(nfe=4, solver="adams_moulton").forwards == 8
    assert BridgeSettings(nfe=7, solver="heun").forwards == 13
    assert BridgeSettings(nfe=4, partial=0.5, noise="mix").forwards == 8


@pytest.mark.parametrize("settings", EVERY_PATH, ids=range(len(EVERY_PATH)))
def test_place_in_the_batch_changes_no_bit(settings: BridgeSettings, schedule: NoiseSchedule) -> None:
    order = [2, 0, 3, 1]
    digests = tuple(DIGESTS[i] for i in order)
    whole = translate_latents(latents(), Network(), settings, noise(), schedule)
    shuffled = translate_latents(latents(digests), Network(), settings, noise(digests), schedule)
    assert torch.equal(shuffled, whole[order])
    assert whole.dtype == torch.float32


def test_where_the_image_enters() -> None:
    eps, x_0 = noise()("start", 0), latents()
    spread = sigma(0.3, 0.7)
    published = BridgeSettings(t0=0.3, tau=0.7)
    torch.testing.assert_close(enter(x_0, published, noise()), 0.7 * x_0 + spread * eps)
    centred = BridgeSettings(t0=0.3, tau=0.7, start="centred")
    torch.testing.assert_close(enter(x_0, centred, noise()), x_0 + spread * eps)


def test_one_step_by_hand() -> None:
    settings = BridgeSettings(nfe=2, tau=0.8, guidance=3.0)
    network, x_0 = Network(), latents().double()
    x = 0.8 * x_0 + sigma(0.2, 0.8) * noise()("start", 0)
    level = sigma(0.2, 0.8)
    eps_0, eps_1 = network(x, level, "source"), network(x, level, "target")
    x = x + (0.98 - 0.2) * (3.0 * level * (eps_0 - eps_1) + 0.8 * 0.6 / (2 * 0.4) * eps_0)
    level = sigma(0.98, 0.8)
    expected = x - level * network(x, level, "target")
    torch.testing.assert_close(translate_latents(x_0, network, settings, noise()), expected)


def test_default_asks_the_network_at_the_true_sigma() -> None:
    network = Network()
    translate_latents(latents(), network, BridgeSettings(nfe=3, tau=0.8), noise())
    levels = [level for level, _ in network.asked]
    expected = [sigma(t, 0.8) for t in (0.2, 0.2, 0.59, 0.59, 0.98)]
    assert levels == pytest.approx(expected)
    assert [domain for _, domain in network.asked] == ["source", "target", "source", "target", "target"]


def test_published_asks_only_at_sigmas_of_its_table(schedule: NoiseSchedule) -> None:
    network = Network()
    translate_latents(latents(), network, BridgeSettings(preset="published"), noise(), schedule)
    for level, _ in network.asked:
        assert schedule.published_sigma(level) == level


def test_partial_translation_returns_the_clean_part() -> None:
    """With a full path of the same steps up to t, x_t - sigma(t) eps_hat."""
    settings = BridgeSettings(partial=0.6, noise="mix", tau=0.8, guidance=2.0, nfe=4)
    full = BridgeSettings(t_end=0.6, noise="mix", tau=0.8, guidance=2.0, nfe=4)
    network, x_0 = Network(), latents().double()
    got = translate_latents(x_0, network, settings, noise())
    last: list[Tensor] = []

    def spy(x_t: Tensor, level: float, domain: Domain) -> Tensor:
        last.append(x_t)
        return network(x_t, level, domain)

    translate_latents(x_0, spy, full, noise())
    expected = last[-1] - sigma(0.6, 0.8) * LsbPredictors(network, 0.8, "mix")(last[-1], 0.6).eps_hat
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("noise_predictor", ["mix", "switch"])
@pytest.mark.parametrize("partial", [None, 0.9])
def test_multistep_path_by_hand(noise_predictor: NoisePredictor, partial: float | None) -> None:
    """Two evaluations, the last one before the end, written out in t with a plain sum for the integrals."""
    tau, w, end = 0.8, 3.0, partial or 0.98
    times = (0.2, 0.7)
    settings = BridgeSettings(
        solver="adams_moulton", grid="tuned", times=times, nfe=2, tau=tau, guidance=w, noise=noise_predictor,
        partial=partial,
    )  # fmt: skip
    network, x_0 = Network(), latents().double()

    def answers(x: Tensor, t: float) -> list[Tensor]:
        level = sigma(t, tau)
        rho = math.sqrt(1 + level**2)
        return [rho * network(x, level, domain) - level * x / rho for domain in ("source", "target")]

    def share_1(t: float) -> float:
        return t if noise_predictor == "mix" else float(t > 0.5)

    def carried(y: Tensor, first: float, last: float, v: Callable[[float], list[Tensor]]) -> Tensor:
        count = 4000
        for index in range(count):
            t = first + (last - first) * (index + 0.5) / count
            level, kick = sigma(t, tau), sigma_prime(t, tau)
            v_0, v_1 = v(t)
            slope = w * level * (v_0 - v_1) + kick * ((1 - share_1(t)) * v_0 + share_1(t) * v_1)
            y = y + slope / (1 + level**2) * (last - first) / count
        return y

    def rho(t: float) -> float:
        return math.sqrt(1 + sigma(t, tau) ** 2)

    x = 0.8 * x_0 + sigma(0.2, tau) * noise()("start", 0)
    first = answers(x, times[0])
    predicted = carried(x / rho(times[0]), *times, lambda t: first)
    second = answers(rho(times[1]) * predicted, times[1])

    def line(t: float) -> list[Tensor]:
        share = (t - times[0]) / (times[1] - times[0])
        return [one + share * (two - one) for one, two in zip(first, second, strict=True)]

    y = carried(carried(x / rho(times[0]), *times, line), times[1], end, line)
    v_0, v_1 = line(end)
    v = v_1 if partial is None else (1 - share_1(end)) * v_0 + share_1(end) * v_1
    level = sigma(end, tau)
    expected = y / rho(end) - level / rho(end) * v  # sqrt(alpha_bar) y - sqrt(1 - alpha_bar) v
    torch.testing.assert_close(translate_latents(x_0, network, settings, noise()), expected, rtol=1e-5, atol=1e-5)


def test_partial_translation_near_the_start_gives_the_source_back(gaussian: GaussianBridge) -> None:
    """At t just above t0 the clean part is the source's own denoising: nothing has been translated yet."""
    x_0 = gaussian.m_0 + torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def start(purpose: str, step: int) -> Tensor:
        return torch.randn(6, 3, generator=torch.Generator().manual_seed(1))

    settings = BridgeSettings(t0=0.1, partial=0.100001, tau=0.5, guidance=1.0, nfe=2, start="centred")
    got = translate_latents(x_0, gaussian.predict, settings, start)
    level = sigma(0.1, 0.5)
    x_t = x_0 + level * start("start", 0)
    torch.testing.assert_close(got, x_t - level * gaussian.predict(x_t, level, "source"), rtol=0, atol=1e-4)


def test_stochastic_steps_draw_one_noise_each() -> None:
    drawn: list[tuple[str, int]] = []
    batch = noise()

    def spy(purpose: str, step: int) -> Tensor:
        drawn.append((purpose, step))
        return batch(purpose, step)

    translate_latents(latents(), Network(), BridgeSettings(gamma=0.5, nfe=4), spy)
    assert drawn == [("start", 0), ("step", 0), ("step", 1), ("step", 2)]
    drawn.clear()
    translate_latents(latents(), Network(), BridgeSettings(nfe=4), spy)
    assert drawn == [("start", 0)]


def test_stochastic_step_by_hand() -> None:
    settings = BridgeSettings(nfe=2, tau=0.8, guidance=3.0, gamma=0.7)
    network, x_0 = Network(), latents().double()
    level = sigma(0.2, 0.8)
    x = 0.8 * x_0 + level * noise()("start", 0)
    eps_0, eps_1 = network(x, level, "source"), network(x, level, "target")
    drift = 3.0 * level * (eps_0 - eps_1) + 0.8 * 0.6 / (2 * 0.4) * eps_0 - 0.5 * 0.49 * 0.8 / 0.4 * eps_0
    x = x + 0.78 * drift + 0.7 * 0.8 * math.sqrt(0.78) * noise()("step", 0)
    level = sigma(0.98, 0.8)
    expected = x - level * network(x, level, "target")
    torch.testing.assert_close(translate_latents(x_0, network, settings, noise()), expected)


def test_published_needs_the_schedule() -> None:
    with pytest.raises(BridgeError, match="schedule"):
        translate_latents(latents(), Network(), BridgeSettings(preset="published"), noise())


def test_published_refuses_a_tau_beyond_the_schedule() -> None:
    small = NoiseSchedule.of([0.999**k for k in range(1, 200)])
    with pytest.raises(BridgeError, match="largest tau"):
        translate_latents(latents(), Network(), BridgeSettings(preset="published"), noise(), small)
