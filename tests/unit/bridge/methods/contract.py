"""What every method promises. A method's test inherits from MethodContract and says `methods` and `refused`."""

from __future__ import annotations

import math
import pickle
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from lsb.bridge.method import Levels, Method
from lsb.bridge.noise import BatchNoise
from lsb.bridge.schedule import NoiseSchedule
from lsb.bridge.velocity import Domain
from lsb.errors import BridgeError
from lsb.records import sha256

SHAPE = (2, 4, 4)
DIGESTS = tuple(sha256(str(number).encode()) for number in range(4))
PROMPTS: dict[Domain, float] = {"source": 1.0, "target": 0.8, "negative": 0.9}


class Network:
    """A nonlinear stand-in that notes how it was asked; it answers in float32."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, Domain]] = []

    def __call__(self, x_t: Tensor, level: float, domain: Domain) -> Tensor:
        self.asked.append((level, domain))
        return torch.tanh(PROMPTS[domain] * x_t / math.sqrt(1 + level**2)).float()


def latents(digests: tuple[str, ...] = DIGESTS) -> Tensor:
    return BatchNoise(SHAPE, seed="latent", digests=digests)("vae", 0)


def noise(digests: tuple[str, ...] = DIGESTS, seed: str = "0") -> BatchNoise:
    return BatchNoise(SHAPE, seed=seed, digests=digests)


class MethodContract:
    methods: ClassVar[tuple[Method, ...]]  # settings of every kind
    refused: ClassVar[
        tuple[tuple[dict[str, Any], str], ...]
    ]  # settings that are not allowed, and the field that is named
    draws = True  # noise

    @pytest.fixture(params=["table", "none"])
    def levels(self, request: pytest.FixtureRequest, schedule: NoiseSchedule) -> Levels:
        """Those of a network with a table of noise levels, and of one without."""
        return Levels(schedule.sigma_max, schedule) if request.param == "table" else Levels(20.0)

    def test_what_is_asked_is_what_is_said(self, levels: Levels) -> None:
        for method in self.methods:
            network = Network()
            out = method.translate(latents(), network, noise(), levels)
            assert bool(torch.isfinite(out).all())
            assert out.shape == latents().shape
            assert len(network.asked) == method.forwards
            assert {domain for _, domain in network.asked} == method.asks
            most = method.largest_sigma or levels.sigma_max
            assert max(level for level, _ in network.asked) <= most * (1 + 1e-12)

    def test_a_batch_is_its_pictures_one_by_one_to_the_bit(self, levels: Levels) -> None:
        for method in self.methods:
            whole = method.translate(latents(), Network(), noise(), levels)
            for row, digest in enumerate(DIGESTS):
                alone = method.translate(latents((digest,)), Network(), noise((digest,)), levels)
                assert torch.equal(alone[0], whole[row])

    def test_noise_is_of_the_seed_alone(self, levels: Levels) -> None:
        for method in self.methods:
            first, again, other = (
                method.translate(latents(), Network(), noise(seed=seed), levels) for seed in ("0", "0", "1")
            )
            assert torch.equal(first, again)
            assert torch.equal(first, other) is not self.draws

    def test_the_state_keeps_its_type(self, levels: Levels) -> None:
        for method in self.methods:
            for dtype in (torch.float32, torch.float64):
                assert method.translate(latents().to(dtype), Network(), noise(), levels).dtype == dtype

    def test_levels_scale_together(self, levels: Levels) -> None:
        for method in self.methods:
            network = Network()
            method.scaled(0.5).translate(latents(), network, noise(), levels)
            assert method.scaled(0.5).forwards == method.forwards == len(network.asked)
            if method.largest_sigma is not None:
                assert method.scaled(0.5).largest_sigma == pytest.approx(method.largest_sigma / 2)

    def test_a_row_can_name_it(self) -> None:
        fields = type(self.methods[0]).model_fields
        assert fields["nfe"].annotation is int
        assert all(fields[name].annotation is float for name in {"tau", "t0", "guidance"} & fields.keys())

    def test_settings_survive_the_way_through_json(self) -> None:
        for method in self.methods:
            assert type(method).model_validate(method.model_dump(mode="json")) == method

    def test_a_setting_outside_what_is_allowed_is_named_in_one_line(self) -> None:
        kind = type(self.methods[0])
        for given, field in self.refused:
            with pytest.raises(BridgeError, match=field) as caught:
                kind.model_validate(given)
            assert "\n" not in str(caught.value)
            assert pickle.loads(pickle.dumps(caught.value)).place == (kind.section, field)  # noqa: S301
