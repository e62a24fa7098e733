"""Damage of the pixels that a format shows though its decoder does not look."""

from __future__ import annotations

import io
import random
import struct

import numpy as np
import pytest
from PIL import Image

from lsb.errors import ImageError
from lsb.pictures.images import decode
from tests.bombs import saved

STEPS = np.random.default_rng(1).integers(-3, 4, (160, 160, 3))
WALK = Image.fromarray((np.cumsum(STEPS, axis=1) % 256).astype(np.uint8))  # can be deflated, which matters to libtiff


@pytest.mark.parametrize("compression", ["tiff_adobe_deflate", "tiff_deflate"])
@pytest.mark.parametrize("strip", [65536, 2000])
def test_damaged_pixels_of_a_deflated_tiff_are_refused(
    compression: str, strip: int, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = saved(WALK, "TIFF", compression=compression, strip_size=strip)
    expected = decode(whole)[0].tobytes()
    assert expected == WALK.tobytes()
    rng, refused = random.Random(0), 0
    for place in range(300, len(whole) - 3000, 97):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        try:
            assert decode(bytes(damaged))[0].tobytes() == expected  # some bits fill up a byte
        except ImageError:
            refused += 1
    assert refused > 500
    for place in range(5000, 50000, 5000):
        with pytest.raises(ImageError):
            decode(whole[:place] + bytes(512) + whole[place + 512 :])


def test_a_deflated_tiff_with_its_bits_in_the_other_order_is_taken_and_checked() -> None:
    data = bytearray(saved(WALK, "TIFF", compression="tiff_adobe_deflate", tiffinfo={266: 1}, strip_size=2000))
    with Image.open(io.BytesIO(data)) as opened:
        strips = list(zip(opened.tag_v2[273], opened.tag_v2[279], strict=True))
    for start, length in strips:
        data[start : start + length] = bytes(int(f"{byte:08b}"[::-1], 2) for byte in data[start : start + length])
    order = data.index(struct.pack("<HHI", 266, 3, 1)) + 8
    data[order] = 2
    assert len(strips) > 1
    assert decode(bytes(data))[0].tobytes() == WALK.tobytes()
    data[strips[1][0] + 50] ^= 4
    with pytest.raises(ImageError, match="corrupt"):
        decode(bytes(data))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "LAB", "YCbCr", "LA"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_every_tiff_that_pillow_writes_is_taken(mode: str, compression: str) -> None:
    grey = Image.linear_gradient("L").resize((33, 21))
    levels = np.asarray(grey)
    special = {"I;16": levels.astype(np.uint16), "I": levels.astype(np.int32), "F": levels.astype(np.float32) / 255}
    colour = Image.merge("RGB", [grey, grey.rotate(180), grey])
    image = Image.fromarray(special[mode]) if mode in special else (colour if mode == "LAB" else grey).convert("RGB")
    if mode not in special and mode != "LAB":
        image = image.convert(mode)
    assert decode(saved(image, "TIFF", compression=compression))[0].size == (33, 21)
