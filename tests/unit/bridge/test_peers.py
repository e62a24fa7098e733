"""The methods that LSB is compared with, on problems where their answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lsb.bridge.gaussian import GaussianBridge, matrix_root
from lsb.bridge.noise import BatchNoise
from lsb.bridge.peers import PeerSettings, levels, peer_forwards, translate_by_peer
from lsb.bridge.schedule import NoiseSchedule
from lsb.bridge.velocity import Domain
from lsb.errors import BridgeError
from lsb.records import sha256

SHAPE = (4, 4, 4)
DIGESTS = tuple(sha256(str(i).encode()) for i in range(3))
EVERY_PEER = [
    (PeerSettings(method="unchanged"), 0),
    (PeerSettings(method="sdedit", nfe=8), 8),
    (PeerSettings(method="sdedit", nfe=8, guidance=7.5), 16),
    (PeerSettings(method="ddib", nfe=8), 8),
    (PeerSettings(method="ddib", nfe=8, inversion="null", negative="null", guidance=7.5), 12),
]


class Network:
    def __init__(self) -> None:
        self.asked: list[tuple[float, Domain]] = []

    def __call__(self, x_t: Tensor, level: float, domain: Domain) -> Tensor:
        self.asked.append((level, domain))
        return torch.tanh({"source": 1.0, "target": 0.8, "null": 0.9}[domain] * x_t / math.sqrt(1 + level**2))


@pytest.mark.parametrize(("settings", "count"), EVERY_PEER)
def test_forwards_are_what_is_spent(settings: PeerSettings, count: int, schedule: NoiseSchedule) -> None:
    network, noise = Network(), BatchNoise(SHAPE, seed="0", digests=DIGESTS)
    x_0 = noise("vae", 0)
    out = translate_by_peer(x_0, network, settings, noise, schedule)
    assert out.shape == x_0.shape
    assert len(network.asked) == peer_forwards(settings) == count


def test_unchanged_is_the_source(schedule: NoiseSchedule) -> None:
    noise = BatchNoise(SHAPE, seed="0", digests=DIGESTS)
    x_0 = noise("vae", 0)
    assert torch.equal(translate_by_peer(x_0, Network(), PeerSettings(method="unchanged"), noise, schedule), x_0)


def test_ddib_carries_one_gaussian_to_the_other(schedule: NoiseSchedule) -> None:
    """The two flows of a pair of Gaussians are S^½ (S + sigma²)^-½ maps; in the limit their chain is exact."""
    m_0, m_1 = torch.tensor([0.5, -1.0], dtype=torch.float64), torch.tensor([-0.2, 0.7], dtype=torch.float64)
    S_0 = torch.tensor([[0.6, 0.2], [0.2, 0.4]], dtype=torch.float64)
    S_1 = torch.tensor([[0.5, -0.1], [-0.1, 0.9]], dtype=torch.float64)
    bridge = GaussianBridge.between(m_0, S_0, m_1, S_1, 1.0)
    x_0 = m_0 + torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unit = torch.eye(2, dtype=torch.float64)
    top = schedule.sigma_max

    def flow(S: Tensor) -> Tensor:
        return matrix_root(S + top**2 * unit) @ torch.linalg.inv(matrix_root(S))

    latent = m_0 + (x_0 - m_0) @ flow(S_0).T
    expected = m_1 + (latent - m_1) @ torch.linalg.inv(flow(S_1)).T

    def nothing(purpose: str, step: int) -> Tensor:
        raise AssertionError("this method draws no noise")

    errors = []
    for nfe in (500, 1000, 2000):
        settings = PeerSettings(method="ddib", nfe=nfe)
        out = translate_by_peer(x_0, bridge.predict, settings, nothing, schedule)
        errors.append(float((out - expected).abs().max()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.03


def test_ddib_inverts_under_the_prompt_it_is_told(schedule: NoiseSchedule) -> None:
    for inversion in ("source", "null"):
        network, noise = Network(), BatchNoise(SHAPE, seed="0", digests=DIGESTS)
        translate_by_peer(
            noise("vae", 0), network, PeerSettings(method="ddib", nfe=6, inversion=inversion), noise, schedule
        )
        domains = [domain for _, domain in network.asked]
        assert domains == [inversion] * 3 + ["target"] * 3


def test_sdedit_enters_at_its_sigma_and_leaves_clean(schedule: NoiseSchedule) -> None:
    noise = BatchNoise(SHAPE, seed="0", digests=DIGESTS)
    x_0, eps = noise("vae", 0), noise("start", 0)

    def knows(x_t: Tensor, level: float, domain: Domain) -> Tensor:
        return eps

    settings = PeerSettings(method="sdedit", nfe=5, sigma=0.92)
    torch.testing.assert_close(translate_by_peer(x_0, knows, settings, noise, schedule), x_0, rtol=0, atol=1e-5)
    network = Network()
    translate_by_peer(x_0, network, settings, noise, schedule)
    assert network.asked[0] == (0.92, "target")


def test_guidance_leads_away_from_the_negative_prompt(schedule: NoiseSchedule) -> None:
    noise = BatchNoise(SHAPE, seed="0", digests=DIGESTS)
    x_0, network = noise("vae", 0), Network()
    settings = PeerSettings(method="sdedit", nfe=1, guidance=3.0, negative="null", sigma=0.5)
    x = x_0 + 0.5 * noise("start", 0)
    eps_n, eps_1 = network(x, 0.5, "null"), network(x, 0.5, "target")
    expected = x - 0.5 * (eps_n + 3.0 * (eps_1 - eps_n))
    torch.testing.assert_close(translate_by_peer(x_0, network, settings, noise, schedule), expected)


def test_levels_fall_evenly_in_network_time(schedule: NoiseSchedule) -> None:
    down = levels(schedule, 2.0, 4)
    assert down[0] == 2.0
    assert down[-1] == 0.0
    times = [schedule.network_time(level) for level in down[:-1]]
    assert times == pytest.approx([times[0] * share for share in (1, 0.75, 0.5, 0.25)])


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"method": "ddib", "nfe": 7}, "nfe"),
        ({"method": "ddib", "nfe": 0}, "nfe"),
        ({"method": "sdedit", "nfe": 0}, "nfe"),
        ({"method": "sdedit", "sigma": 0.0}, "sigma"),
        ({"method": "sdedit", "guidance": -1.0}, "guidance"),
    ],
)
def test_unusable_settings_are_named(given: dict[str, object], field: str) -> None:
    with pytest.raises(BridgeError, match=field):
        PeerSettings(**given)  # type: ignore[arg-type]


def test_sdedit_beyond_the_schedule_is_refused(schedule: NoiseSchedule) -> None:
    noise = BatchNoise(SHAPE, seed="0", digests=DIGESTS)
    with pytest.raises(BridgeError, match="largest"):
        translate_by_peer(noise("vae", 0), Network(), PeerSettings(method="sdedit", sigma=99.0), noise, schedule)
