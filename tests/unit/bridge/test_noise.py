"""Noise depends on seed, image, purpose and step, and is unit Gaussian."""

from __future__ import annotations

import math

import pytest
import torch

from lsb.bridge.noise import BatchNoise, unit_noise
from lsb.records import sha256

SHAPE = (4, 64, 64)
DIGEST = sha256(b"an image")
GOLDEN = [-0.2099641, -0.2098981, 0.4187647, 1.0367676]


def test_statistics() -> None:
    x = torch.cat(
        [unit_noise(SHAPE, seed="0", digest=sha256(str(i).encode()), purpose="start").flatten() for i in range(32)]
    ).double()
    count = len(x)
    assert float(x.mean()) == pytest.approx(0, abs=5 / math.sqrt(count))
    assert float(x.var()) == pytest.approx(1, abs=5 * math.sqrt(2 / count))
    assert float((x**3).mean()) == pytest.approx(0, abs=5 * math.sqrt(15 / count))
    assert float((x**4).mean()) == pytest.approx(3, abs=5 * math.sqrt(96 / count))
    assert float((x[1:] * x[:-1]).mean()) == pytest.approx(0, abs=5 / math.sqrt(count))
    ranks = torch.special.ndtr(x.sort().values)
    distance = float((ranks - torch.arange(1, count + 1, dtype=torch.float64) / count).abs().max())
    assert distance < 2.0 / math.sqrt(count)  # Kolmogorov-Smirnov, far beyond its 1 % bound of 1.63


@pytest.mark.parametrize(
    "other",
    [
        {"seed": "1", "digest": DIGEST, "purpose": "start"},
        {"seed": "0", "digest": sha256(b"another"), "purpose": "start"},
        {"seed": "0", "digest": DIGEST, "purpose": "vae"},
        {"seed": "0", "digest": DIGEST, "purpose": "start", "step": 1},
    ],
    ids=["seed", "image", "purpose", "step"],
)
def test_each_part_of_the_key_gives_independent_noise(other: dict[str, object]) -> None:
    first = unit_noise(SHAPE, seed="0", digest=DIGEST, purpose="start").flatten()
    second = unit_noise(SHAPE, **other).flatten()  # type: ignore[arg-type]
    correlation = float((first * second).mean())
    assert abs(correlation) < 5 / math.sqrt(len(first))


def test_same_noise_wherever_the_image_stands() -> None:
    digests = [sha256(str(i).encode()) for i in range(5)]
    order = [3, 0, 4, 1, 2]
    batch = BatchNoise((4, 8, 8), seed="7", digests=digests)("start", 0)
    shuffled = BatchNoise((4, 8, 8), seed="7", digests=[digests[i] for i in order])("start", 0)
    alone = BatchNoise((4, 8, 8), seed="7", digests=digests[2:3])("start", 0)
    assert torch.equal(shuffled, batch[order])
    assert torch.equal(alone[0], batch[2])


def test_global_generators_play_no_part() -> None:
    torch.manual_seed(0)
    first = unit_noise((4,), seed="0", digest=DIGEST, purpose="start")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(unit_noise((4,), seed="0", digest=DIGEST, purpose="start"), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_golden_values() -> None:
    """A change here changes every image of every run: raise the transform's version with it."""
    x = unit_noise((4,), seed="0", digest=DIGEST, purpose="start")
    assert x.dtype == torch.float32
    assert x.tolist() == pytest.approx(GOLDEN, abs=1e-7)
