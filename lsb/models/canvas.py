"""Which sizes of pictures a Stable Diffusion model works on, by its configuration alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lsb.errors import ModelError
from lsb.models.files import ModelFiles
from lsb.pictures.geometry import Canvas


def stable_diffusion_canvas(files: ModelFiles) -> Canvas:
    """Which sizes of pictures a model works on, without reading its weights.

    Raises:
        ModelError: it is not for square pictures.
    """
    check_sample_size(files)
    return canvas_from(files.config("unet"), files.config("vae"))


def canvas_from(unet: Mapping[str, Any], vae: Mapping[str, Any]) -> Canvas:
    side = int(unet["sample_size"])
    # A model whose own side is no multiple of what its UNet halves works at that side all the same.
    return Canvas(side * halvings(vae), math.gcd(side, halvings(unet)) * halvings(vae))


def halvings(network: Mapping[str, Any]) -> int:
    """By what a network divides the sides of what it is given."""
    return int(2 ** (len(network["block_out_channels"]) - 1))


def check_sample_size(files: ModelFiles) -> None:
    size = files.config("unet").get("sample_size")
    if not isinstance(size, int):
        raise ModelError(f"{files.id} has sample_size {size} in its UNet; allowed is one number, for square images")
