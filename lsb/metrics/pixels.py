"""Pictures as numbers: squares on white ground, RGB in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from lsb.pictures.images import centred

if TYPE_CHECKING:  # whoever only makes pictures small needs none of it
    from torch import Tensor

SIDE = 64  # pixel measures are taken at 64 x 64
LARGEST = 1024  # pixels of the longer side of what is made square; more says nothing and takes much memory


def reduced(image: Image.Image) -> Image.Image:
    """A picture of which more than is measured need not be held: its longer side at most `LARGEST` (bicubic)."""
    longer = max(image.size)
    if longer <= LARGEST:
        return image
    width, height = (max(1, (side * LARGEST + longer // 2) // longer) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def square(image: Image.Image, side: int) -> Image.Image:
    """The picture, `reduced`, centred on a white square, then resized to `side` x `side` (bicubic). RGB in, RGB out.

    A picture that already has this size keeps its pixels.
    """
    image = reduced(image if image.mode == "RGB" else image.convert("RGB"))
    longer = max(image.size)
    if image.width != image.height:
        image, _ = centred(image, longer)
    return image if longer == side else image.resize((side, side), Image.Resampling.BICUBIC)


def unit_pixels(images: Sequence[Image.Image], side: int = SIDE) -> Tensor:
    """Pictures of any size as (N, 3, side, side) float32 in [0, 1], see `square`."""
    import torch

    if not images:
        return torch.zeros(0, 3, side, side)
    stacked = np.stack([np.asarray(square(image, side)) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255
