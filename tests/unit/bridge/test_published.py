"""Preset `published` against a second, line-by-line reading of the published algorithm in plain float32 torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lsb.bridge.noise import BatchNoise
from lsb.bridge.schedule import NoiseSchedule
from lsb.bridge.settings import BridgeSettings
from lsb.bridge.solve import translate_latents
from lsb.bridge.velocity import Domain
from lsb.records import sha256

SHAPE = (4, 8, 8)
DIGESTS = tuple(sha256(str(i).encode()) for i in range(3))


class TinyNetwork(nn.Module):
    """epsilon(y, k, prompt) with random weights: two convolutions, the integer step and the prompt as biases."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.inwards = 0.15 * torch.randn(16, 4, 3, 3, generator=generator)
        self.outwards = 0.1 * torch.randn(4, 16, 3, 3, generator=generator)
        self.prompts = {"source": torch.randn(16, generator=generator), "target": torch.randn(16, generator=generator)}
        self.times = torch.randn(16, generator=generator)

    @torch.no_grad()
    def forward(self, y: Tensor, k: int, domain: str) -> Tensor:
        bias = 0.3 * self.prompts[domain] + torch.sin(self.times * k / 100)
        hidden = torch.tanh(nn.functional.conv2d(y, self.inwards, padding=1) + bias[:, None, None])
        return y + nn.functional.conv2d(hidden, self.outwards, padding=1)


def second_reading(
    x_0: Tensor, eps: Tensor, network: TinyNetwork, alphas_cumprod: Tensor, tau: float, t0: float, w: float, nfe: int
) -> Tensor:
    """As the paper's code does it, shares nothing with the library."""
    table = torch.cat([torch.ones(1), alphas_cumprod])

    def step_of(alpha_bar: float) -> int:
        upper = int((table >= alpha_bar).sum()) - 1
        share = float((table[upper] - alpha_bar) / (table[upper] - table[upper + 1]))
        return round(upper + share)

    n = nfe - 1
    time = np.linspace(t0, 1.0, n + 1)
    x = (1 - t0) * x_0 + tau * (t0 * (1 - t0)) ** 0.5 * eps
    for i in range(n):
        t = float(time[i])
        k = step_of(1 / (1 + tau**2 * t * (1 - t)))
        a = table[k]
        y = a.sqrt() * x
        eps_0, eps_1 = network(y, k, "source"), network(y, k, "target")
        x_0_hat = (y - (1 - a).sqrt() * eps_0) / a.sqrt()
        x_1_hat = (y - (1 - a).sqrt() * eps_1) / a.sqrt()
        eps_hat = eps_1 if t > 0.5 else eps_0
        slope = w * (x_1_hat - x_0_hat) + tau * (1 - 2 * t) / (2 * (t * (1 - t)) ** 0.5) * eps_hat
        x = x + slope * float(time[i + 1] - time[i])
    y = a.sqrt() * x
    eps_1 = network(y, k, "target")
    x_hat = (y - (1 - a).sqrt() * eps_1) / a.sqrt()
    end = alphas_cumprod[19]
    return end.sqrt() * x_hat + (1 - end).sqrt() * eps_1


@pytest.mark.parametrize("tau", [0.5, 2.3])
@pytest.mark.parametrize("nfe", [4, 8, 16])
def test_agrees_with_a_second_reading(schedule: NoiseSchedule, nfe: int, tau: float) -> None:
    got, expected = both(schedule, nfe, tau)
    assert got.dtype == torch.float32
    assert 0.3 < float(expected.std()) < 30
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("broken", ["unshifted", "interpolated", "end"])
def test_a_deviation_is_found(schedule: NoiseSchedule, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right_time, right_sigma = NoiseSchedule.published_time, NoiseSchedule.published_sigma
    if broken == "unshifted":
        monkeypatch.setattr(NoiseSchedule, "published_time", lambda self, sigma: right_time(self, sigma) - 1)
        monkeypatch.setattr(NoiseSchedule, "published_sigma", lambda self, sigma: right_sigma(self, sigma))
    elif broken == "interpolated":
        monkeypatch.setattr(NoiseSchedule, "published_sigma", lambda self, sigma: sigma)
    else:
        monkeypatch.setattr(NoiseSchedule, "published_end", property(lambda self: self.alphas_cumprod[20]))
    got, expected = both(schedule, 8, 2.3)
    assert float((got - expected).abs().max()) > 1e-4


def both(schedule: NoiseSchedule, nfe: int, tau: float) -> tuple[Tensor, Tensor]:
    network = TinyNetwork()
    x_0 = BatchNoise(SHAPE, seed="latent", digests=DIGESTS)("vae", 0)
    noise = BatchNoise(SHAPE, seed="0", digests=DIGESTS)

    def predict(x_t: Tensor, sigma: float, domain: Domain) -> Tensor:
        y = x_t / (1 + sigma**2) ** 0.5
        return network(y, schedule.published_time(sigma), domain)

    settings = BridgeSettings(preset="published", nfe=nfe, tau=tau)
    got = translate_latents(x_0, predict, settings, noise, schedule)
    table = torch.tensor(schedule.alphas_cumprod, dtype=torch.float32)
    expected = second_reading(x_0, noise("start", 0), network, table, tau, settings.t0, settings.guidance, nfe)
    return got, expected
