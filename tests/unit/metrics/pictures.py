"""Made-up pictures, and cheap stand-ins for the two networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from lsb.ledger.transform import ModelIdentity
from lsb.metrics.features import Features
from lsb.metrics.pixels import unit_pixels
from lsb.pictures.geometry import Canvas
from lsb.records import record_id


def disc(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """A coloured disc somewhere on white ground."""
    generator = np.random.default_rng(seed)
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    centre = generator.uniform(0.3, 0.7, 2) * (width, height)
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < (generator.uniform(0.1, 0.3) * min(size)) ** 2
    pixels = np.full((height, width, 3), 255, np.uint8)
    pixels[inside] = generator.integers(0, 256, 3)
    return Image.fromarray(pixels)


def ids(count: int, name: str = "picture") -> list[str]:
    return [record_id(f"{name}/{index}.png") for index in range(count)]


@dataclass
class BlurringBackbone:
    """A model whose autoencoder averages 4 x 4 pixels."""

    identity = ModelIdentity("blur", None, "0" * 64, {})
    canvas = Canvas(side=64, stride=4)
    sigma_max = 10.0

    def encode(self, images: Tensor, eps: Tensor | None = None) -> Tensor:
        return F.avg_pool2d(images, 4)

    def decode(self, latents: Tensor) -> Tensor:
        return F.interpolate(latents, scale_factor=4.0)


class Averages:
    """A cheap extractor: 8 x 8 averages as features and as maps."""

    id = "averages"
    digest = "1" * 64
    dimension = 192
    calls = 0

    def __call__(self, images: Sequence[Image.Image]) -> Features:
        self.calls += len(images)
        maps = F.avg_pool2d(unit_pixels(images), 8)
        return Features(maps.flatten(1).numpy(), maps)
