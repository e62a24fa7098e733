"""Samples of more than 8 bits, and a colour of 48 bits that is transparent."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray

from lsb.errors import ImageError
from lsb.pictures.images import LETTERBOX_RULES, decode
from tests.bombs import saved
from tests.tiffs import DEFLATE, FLOAT, RAW, SIGNED, tiff

ANYHOW = pytest.mark.parametrize("order", ["<", ">"])
PACKED = pytest.mark.parametrize("packing", [RAW, DEFLATE])
SHAPES = pytest.mark.parametrize("shape", [(9, 7), (9, 7, 3)])


def ramp(highest: int, shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """Samples from 0 to `highest`, in no order."""
    values = np.linspace(0, highest, int(np.prod(shape))).round().astype(np.uint16)
    return np.random.default_rng(0).permutation(values).reshape(shape)


def pixels(data: bytes, *rules: int) -> NDArray[np.uint8]:
    return np.asarray(decode(data, *rules)[0])


def in_colour(levels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    return levels if levels.ndim == 3 else np.repeat(levels[..., None], 3, axis=2)


@ANYHOW
@PACKED
@SHAPES
@pytest.mark.parametrize(("bits", "stated"), [(12, False), (12, True), (10, True), (14, True)])
def test_a_tiff_of_fewer_bits_than_it_has_room_for_is_as_bright_as_it_says(
    shape: tuple[int, ...], packing: int, order: str, bits: int, stated: bool
) -> None:
    white = (1 << bits) - 1
    samples = ramp(white, shape)
    data = tiff(samples, highest=white if stated else None, packing=packing, order=order)
    expected = (samples.astype(np.uint32) * 255 + white // 2) // white
    assert (pixels(data) == in_colour(expected)).all()
    assert decode(data)[1].mode == ("RGB" if len(shape) == 3 else "I") + f";{bits}"
    assert pixels(data, LETTERBOX_RULES).max() <= 64  # a quarter of white at most


@ANYHOW
@PACKED
@SHAPES
@pytest.mark.parametrize(("highest", "stated"), [(65535, None), (65535, 65535), (5000, None), (5000, 4095), (900, 900)])
def test_one_of_16_bits_stays_what_it_was(
    shape: tuple[int, ...], packing: int, order: str, highest: int, stated: int | None
) -> None:
    """A stated value that is no power of two less one says how bright the brightest pixel is, not what white is."""
    samples = ramp(max(highest, 4096), shape)
    data = tiff(samples, highest=stated, packing=packing, order=order)
    assert (pixels(data) == pixels(data, LETTERBOX_RULES)).all()
    assert decode(data)[1] == decode(data, LETTERBOX_RULES)[1]


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 3)])
def test_a_black_picture_is_black(shape: tuple[int, ...]) -> None:
    assert not pixels(tiff(np.zeros(shape, np.uint16))).any()
    dark = np.full((9, 7, 3), 3, np.uint8)  # of 8 bits
    assert (pixels(tiff(dark)) == 3).all()


@pytest.mark.parametrize(
    ("samples", "kind", "words"),
    [
        (np.zeros((4, 4), np.float64), FLOAT, "1 sample a pixel of 64 bits, floating-point numbers"),
        (np.zeros((4, 4), np.float16), FLOAT, "1 sample a pixel of 16 bits, floating-point numbers"),
        (np.zeros((4, 4, 3), np.float32), FLOAT, "3 samples a pixel of 32 bits, floating-point numbers"),
        (np.zeros((4, 4, 5), np.float32), FLOAT, "5 samples a pixel of 32 bits, floating-point numbers"),
        (np.zeros((4, 4, 7), np.uint16), 1, "7 samples a pixel of 16 bits, whole numbers"),
        (np.zeros((4, 4, 3), np.int16), SIGNED, "3 samples a pixel of 16 bits, signed whole numbers"),
    ],
)
def test_a_tiff_that_is_not_read_says_how_it_is_laid_out(samples: NDArray[np.generic], kind: int, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        decode(tiff(samples, kind))
    assert caught.value.code == "unsupported_layout"


def test_a_tiff_without_a_directory_is_corrupt() -> None:
    with pytest.raises(ImageError) as caught:
        decode(tiff(np.zeros((4, 4), np.uint8))[:20])
    assert caught.value.code in ("corrupt", "truncated")


def test_of_five_bands_the_first_three_are_taken() -> None:
    bands = ramp(255, (6, 5, 5)).astype(np.uint8)
    assert (pixels(tiff(bands)) == bands[..., :3]).all()


def png48(samples: NDArray[np.uint16], transparent: NDArray[np.uint16] | None, interlaced: bool = False) -> bytes:
    height, width, _ = samples.shape

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    adam7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    passes = adam7 if interlaced else ((0, 0, 1, 1),)
    parts = [samples[top::down, left::right] for left, top, right, down in passes]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for part in parts if part.size for row in part)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, interlaced)
    colour = b"" if transparent is None else chunk(b"tRNS", transparent.astype(">u2").tobytes())
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + colour
    return start + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_48_bit_png_keeps_its_transparency(interlaced: bool) -> None:
    samples = np.random.default_rng(0).integers(0, 60000, (13, 11, 3), dtype=np.uint16)
    samples[5, 6] = samples[2, 3]
    samples[7, 1] = samples[2, 3] ^ [1, 0, 0]  # another colour, by the lower byte alone
    data = png48(samples, samples[2, 3], interlaced)
    found = pixels(data)
    assert {tuple(place) for place in np.argwhere((found == 255).all(axis=2))} == {(2, 3), (5, 6)}
    opaque = (samples != samples[2, 3]).any(axis=2)
    assert (found[opaque] == (samples >> 8)[opaque]).all()
    assert (pixels(data, LETTERBOX_RULES) == samples >> 8).all()
    assert (pixels(png48(samples, None, interlaced)) == samples >> 8).all()


def test_an_8_bit_png_with_a_transparent_colour_stays_what_it_was() -> None:
    from PIL import Image

    picture = Image.new("RGB", (4, 4), (1, 2, 3))
    picture.putpixel((0, 0), (9, 9, 9))
    data = saved(picture, "PNG", transparency=(9, 9, 9))
    assert tuple(pixels(data)[0, 0]) == (255, 255, 255)
    assert (pixels(data) == pixels(data, LETTERBOX_RULES)).all()
