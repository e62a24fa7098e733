"""Unpaired colour match: the translation that two numbers per channel can do.

Each channel's mean and standard deviation over the whole source set are moved to those of the target set.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lsb.metrics.pixels import unit_pixels


@dataclass(frozen=True)
class ColourMoments:
    """Mean and standard deviation of red, green and blue in [0, 1], every picture weighing the same."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def colour_moments(images: Iterable[Image.Image]) -> ColourMoments:
    """Moments over all pixels of all pictures, each at 64 x 64 on white ground.

    Raises:
        ValueError: no picture.
    """
    count, first, second = 0, np.zeros(3), np.zeros(3)
    for image in images:
        pixels = unit_pixels([image])[0].double().flatten(1).numpy()
        count, first, second = count + 1, first + pixels.mean(1), second + (pixels**2).mean(1)
    if not count:
        raise ValueError("colour moments need at least one picture")
    mean = first / count
    std = np.sqrt(np.maximum(second / count - mean**2, 0))
    return ColourMoments(_triple(mean), _triple(std))


def match_colours(image: Image.Image, source: ColourMoments, target: ColourMoments) -> Image.Image:
    """The picture with its set's moments moved to the target's; clipped, rounded, size unchanged."""
    have, want = np.array(source.std), np.array(target.std)
    gain = np.where(have > 0, want / np.where(have > 0, have, 1), 1)
    pixels = np.asarray(image.convert("RGB")) / 255
    moved = (pixels - np.array(source.mean)) * gain + np.array(target.mean)
    return Image.fromarray((moved.clip(0, 1) * 255 + 0.5).astype(np.uint8))


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
