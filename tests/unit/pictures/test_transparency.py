"""Transparency put back onto what was translated on white."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from PIL import Image

from lsb.pictures.images import decode
from lsb.pictures.transparency import on_white, put_back
from tests.bombs import saved

SHAPE = (5, 6)
pixels = arrays(np.uint8, (*SHAPE, 4))
translations = arrays(np.uint8, (*SHAPE, 3))


def rgba(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values, "RGBA")


@given(pixels)
@settings(max_examples=50, deadline=None)
def test_what_the_translation_leaves_comes_back_to_the_bit(values: np.ndarray) -> None:
    source = rgba(values)
    assert put_back(on_white(source), source).tobytes() == source.tobytes()


@given(pixels)
@settings(max_examples=20, deadline=None)
def test_on_white_is_what_decode_gives(values: np.ndarray) -> None:
    source = rgba(values)
    assert on_white(source).tobytes() == decode(saved(source, "PNG"))[0].tobytes()


@given(pixels, translations)
@settings(max_examples=50, deadline=None)
def test_on_white_again_it_is_the_translation_where_colours_can_make_it(values: np.ndarray, after: np.ndarray) -> None:
    source = rgba(values)
    result = put_back(Image.fromarray(after), source)
    again = np.asarray(on_white(result)).astype(int)
    alpha = values[..., 3:].astype(float) / 255
    lowest = 255 * (1 - alpha)  # of what black with this opacity looks like on white
    reachable = (after >= lowest) & (alpha > 0)
    assert (np.abs(again - after)[reachable] <= 1).all()
    assert (np.asarray(result)[..., 3] == values[..., 3]).all()


def test_no_white_stays_at_a_soft_edge() -> None:
    """A red disc with a soft edge, translated to blue: every pixel that can be seen is blue, not light blue."""
    place = np.hypot(*np.mgrid[-20:21, -20:21])
    values = np.zeros((41, 41, 4), np.uint8)
    values[..., 0] = 255
    values[..., 3] = (np.clip(15 - place, 0, 1) * 200 + np.clip(12 - place, 0, 1) * 55).round()
    source = rgba(values)
    blue = values.copy()
    blue[..., :3] = 0, 0, 255
    result = np.asarray(put_back(on_white(rgba(blue)), source)).astype(int)
    seen = values[..., 3] >= 32
    assert np.abs(result[seen][:, :3] - [0, 0, 255]).max() <= 4  # half a level, divided by an eighth


@pytest.mark.parametrize("size", [(20, 15), (200, 150), (1, 1)])
def test_another_size_takes_the_transparency_along(size: tuple[int, int]) -> None:
    values = np.zeros((30, 40, 4), np.uint8)
    values[10:20, 10:30] = 10, 20, 30, 255
    result = put_back(Image.new("RGB", (12, 9), (99, 99, 99)), rgba(values), size)
    assert (result.mode, result.size) == ("RGBA", size)
    if size != (1, 1):
        middle = np.array(result.getpixel((size[0] // 2, size[1] // 2)), int)
        assert np.abs(middle - [99, 99, 99, 255]).max() <= 2
        assert result.getpixel((0, 0))[3] == 0


def test_a_coarse_translation_leaves_no_rim_at_a_soft_edge() -> None:
    """A disc at the network's size, an eighth of the source's: its edge is far softer than the source's opacity."""
    place = np.hypot(*np.mgrid[-80:80, -80:80])
    values = np.zeros((160, 160, 4), np.uint8)
    values[..., :3] = 220, 80, 0
    values[..., 3] = np.clip((60 - place) * 25, 0, 255).astype(np.uint8)
    source = rgba(values)
    seen = on_white(source).resize((20, 20), Image.Resampling.LANCZOS)
    result = np.asarray(put_back(seen, source, source.size)).astype(int)
    visible = values[..., 3] >= 32
    assert np.abs(result[visible][:, :3] - [220, 80, 0]).max() <= 12  # levels; resampled before, 80
    assert (result[..., 3] == values[..., 3]).all()
