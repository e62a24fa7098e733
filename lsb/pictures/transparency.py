"""Transparent pictures, which the network sees on white, with their transparency put back."""

from __future__ import annotations

import numpy as np
from PIL import Image

Size = tuple[int, int]

_FAINT = 8  # an opacity, of 255, below which a colour is mostly rounding
_STRIP = 256  # rows that are calculated at once


def on_white(picture: Image.Image) -> Image.Image:
    """An RGBA picture as RGB on white ground: what `lsb.pictures.images.decode` gives."""
    ground = Image.new("RGB", picture.size, (255, 255, 255))
    return Image.composite(picture.convert("RGB"), ground, picture.getchannel("A"))


def put_back(translated: Image.Image, source: Image.Image, size: Size | None = None) -> Image.Image:
    """A translation of `on_white(source)` with the source's opacity and without the white in its colours.

    With opacity α and colours in [0, 1], C = 1 − (1 − translated) / α, clamped. Written as what the translation has
    changed, C = source + (translated − on_white(source)) / α, it is free of the rounding of the ground: what the
    translation leaves as it is comes back to the bit. Where nothing can be seen the source's colours stay.

    This is done at the translation's size, where its edges are as soft as the source's opacity is there; at another one
    the colours are resampled, weighed by their opacity, and the opacity is the source's own.

    Args:
        translated: RGB, as the network made it.
        source: RGBA.
        size: of the result, by default the translation's.

    Returns:
        RGBA.
    """
    size = size or translated.size
    result = _uncomposed(translated, _resized(source, translated.size))
    if size == translated.size:
        return result
    wanted = np.array(_resized(source, size))
    found = np.asarray(result.resize(size, Image.Resampling.BICUBIC))
    known = found[..., 3] >= _FAINT
    wanted[known, :3] = found[known, :3]
    return Image.fromarray(wanted, "RGBA")


def _resized(picture: Image.Image, size: Size) -> Image.Image:
    """Lanczos; Pillow weighs colours by their opacity."""
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


def _uncomposed(translated: Image.Image, source: Image.Image) -> Image.Image:
    before, after, seen = np.asarray(source), np.asarray(translated), np.asarray(on_white(source))
    result = before.copy()
    for top in range(0, len(result), _STRIP):
        rows = slice(top, top + _STRIP)
        alpha = before[rows, :, 3:].astype(np.float32)
        change = (after[rows].astype(np.float32) - seen[rows]) * 255 / np.maximum(alpha, 1)
        colours = np.floor(before[rows, :, :3] + change + 0.5).clip(0, 255)
        result[rows, :, :3] = np.where(alpha > 0, colours, before[rows, :, :3])
    return Image.fromarray(result, "RGBA")
