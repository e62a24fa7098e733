"""Pictures as numbers: squares on white ground, RGB in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lsb.pictures.images import centred

SIDE = 64  # pixel measures are taken at 64 x 64


def square(image: Image.Image, side: int) -> Image.Image:
    """The picture centred on a white square, then resized to `side` x `side` (bicubic). RGB in, RGB out.

    A picture that already has this size keeps its pixels.
    """
    image = image if image.mode == "RGB" else image.convert("RGB")
    longer = max(image.size)
    if image.width != image.height:
        image, _ = centred(image, longer)
    return image if longer == side else image.resize((side, side), Image.Resampling.BICUBIC)


def unit_pixels(images: Sequence[Image.Image], side: int = SIDE) -> Tensor:
    """Pictures of any size as (N, 3, side, side) float32 in [0, 1], see `square`."""
    if not images:
        return torch.zeros(0, 3, side, side)
    stacked = np.stack([np.asarray(square(image, side)) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255
