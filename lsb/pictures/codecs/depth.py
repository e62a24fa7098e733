"""Samples of more than 8 bits, where what Pillow makes of them is not the picture.

Of 48-bit colours Pillow keeps the upper byte of each sample, and forgets which colour is transparent. Of 16-bit samples
it takes 65535 for white, though cameras and scanners store 10 to 14 bits in them.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

Bytes = NDArray[np.uint8]

_TWELVE_BITS = 4095
# TIFF 6.0, sections 8 and 19.
_WIDTH, _HEIGHT, _BITS, _SAMPLES, _HIGHEST, _KIND = 256, 257, 258, 277, 281, 339
_KINDS = {1: "whole numbers", 2: "signed whole numbers", 3: "floating-point numbers"}
_STATED = tuple((1 << bits) - 1 for bits in range(9, 16))
_OTHER_BYTE = {"RGB;16B": "RGB;16L", "RGB;16L": "RGB;16B", "RGB;16N": "RGB;16B"}  # N: as this machine has it
_STRIP = 256  # rows that are scaled at once


@dataclass(frozen=True)
class Mended:
    """What replaces Pillow's own conversion of a picture to 8 bits; None where that is right.

    Attributes:
        colours: mode L or RGB, transparency ignored.
        alpha: opacity, mode L.
        bits: of a sample, where `colours` says that they are not those of Pillow's mode.
    """

    colours: Image.Image | None = None
    alpha: Image.Image | None = None
    bits: int | None = None


def mended(image: Image.Image, data: bytes) -> Mended:
    """A picture with the samples and the transparency that its file states.

    A TIFF with 16-bit samples reaches from 0 to its MaxSampleValue, where that is one less than a power of two; if
    there is none and no sample is above 4095, to 4095.

    Args:
        image: a loaded picture, as Pillow opened `data`.
    """
    if image.format == "PNG" and image.mode == "RGB" and isinstance(image.info.get("transparency"), tuple):
        return _png(image.info["transparency"], data)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.mode in ("I;16", "I;16B", "I;16L", "RGB"):
        return _tiff(image, data)
    return Mended()


def layout(data: bytes) -> str | None:
    """How the samples of a TIFF are laid out, in words; None if its first directory cannot be read."""
    try:
        directory = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        file = io.BytesIO(data)
        file.seek(directory.next)
        directory.load(file)
        width, height = int(directory[_WIDTH]), int(directory[_HEIGHT])
        samples, bits = int(directory.get(_SAMPLES, 1)), _first(directory, _BITS, 1)
        kind = _KINDS.get(_first(directory, _KIND, 1), "numbers of an unknown kind")
    except Exception:  # noqa: BLE001  hostile bytes make Pillow raise nearly anything
        return None
    if min(width, height, samples, bits) < 1:
        return None
    return f"{samples} sample{'s' if samples > 1 else ''} a pixel of {bits} bits, {kind}"


def _png(transparent: tuple[int, ...], data: bytes) -> Mended:
    found = _byte_planes(data, "PNG")
    if found is None:
        return Mended()
    upper, lower = found
    high, low = (np.array([part(value) for value in transparent]) for part in (lambda v: v >> 8, lambda v: v & 255))
    clear = (upper == high).all(axis=2) & (lower == low).all(axis=2)
    return Mended(alpha=Image.fromarray(np.where(clear, 0, 255).astype(np.uint8)))


def _tiff(image: TiffImagePlugin.TiffImageFile, data: bytes) -> Mended:
    pixels = np.asarray(image)
    highest = int(pixels.max())
    if image.mode == "RGB":
        found = None if _highest(image.tag_v2, highest << 8 | 255) is None else _byte_planes(data, "TIFF")
        if found is None:
            return Mended()
        upper, lower = found
        highest = int((upper.astype(np.uint16) << 8 | lower).max())
    else:
        upper, lower = (pixels >> 8).astype(np.uint8), (pixels & 255).astype(np.uint8)
    white = _highest(image.tag_v2, highest)
    if white is None:
        return Mended()
    return Mended(Image.fromarray(_scaled(upper, lower, white)), bits=white.bit_length())


def _highest(tags: Mapping[int, Any], found: int) -> int | None:
    """What stands for white if it is not 65535; `found` is the highest sample, or no more than 255 below a bound."""
    stated = _first(tags, _HIGHEST, 0)
    if stated in _STATED and found <= stated:
        return stated
    bits = _first(tags, _BITS, 16)
    if 8 < bits < 16:
        return (1 << bits) - 1
    return _TWELVE_BITS if 0 < found <= _TWELVE_BITS else None


def _first(tags: Mapping[int, Any], tag: int, default: int) -> int:
    value = tags.get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _scaled(upper: Bytes, lower: Bytes, white: int) -> Bytes:
    scaled = np.empty_like(upper)
    for top in range(0, len(upper), _STRIP):
        rows = slice(top, top + _STRIP)
        samples = upper[rows].astype(np.uint32) << 8 | lower[rows]
        scaled[rows] = (samples * 255 + white // 2) // white
    return scaled


def _byte_planes(data: bytes, format: str) -> tuple[Bytes, Bytes] | None:
    """Upper and lower byte of each sample of a 48-bit RGB file, (H, W, 3) each; None if the file is no such picture.

    Pillow unpacks one byte of two, the upper one. Told that they stand in the other order, it unpacks the lower one.
    """
    planes = []
    for names in ({name: name for name in _OTHER_BYTE}, _OTHER_BYTE):
        with Image.open(io.BytesIO(data), formats=(format,)) as opened:
            tiles = []
            for tile in opened.tile:
                raw, *rest = tile.args if isinstance(tile.args, tuple) else (tile.args,)
                if raw not in names:
                    return None
                tiles.append(tile._replace(args=(names[raw], *rest) if rest else names[raw]))
            opened.tile = tiles
            opened.load()
            planes.append(np.asarray(opened))
    return planes[0], planes[1]
