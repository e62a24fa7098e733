"""Where tiles lie and what they count."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lsb.pictures.geometry import Canvas, Geometry, frame_of, sigma_scale
from lsb.pictures.tiles import Tiles, tiles_of

SD, TINY = Canvas(512, 64), Canvas(32, 8)
TILE = Geometry(large="tile")


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([(512, 64), (64, 16), (32, 8), (64, 64), (24, 8)]))
@settings(max_examples=150, deadline=None)
def test_tiles_cover_all_overlap_and_sum_to_one(columns: int, rows: int, model: tuple[int, int]) -> None:
    side, stride = model
    tiles = tiles_of((columns * stride, rows * stride), side, stride)
    width, height = tiles.tile
    assert width <= tiles.size[0]
    assert height <= tiles.size[1]
    assert width * height <= max(side, 2 * stride) ** 2
    total = np.zeros(tiles.size[::-1])
    for (down, across), (of_rows, of_columns) in zip(tiles.places(), tiles.shares(), strict=True):
        assert down.start % stride == across.start % stride == 0
        total[down, across] += np.outer(of_rows, of_columns)
        assert of_rows.min() > 0
        assert of_columns.min() > 0
    np.testing.assert_allclose(total, 1, atol=1e-12)
    for places, size in ((1, width), (0, height)):
        starts = sorted({place[places].start for place in tiles.places()})
        least = stride * max(1, size // stride // 4)
        assert all(later - early <= size - least for early, later in pairwise(starts))
    assert tiles.count == len([*tiles.places()])


def test_one_tile_counts_all() -> None:
    tiles = Tiles((32, 24), (32, 24), 8)
    ((rows, columns),) = tiles.shares(4)
    assert (rows.tolist(), columns.tolist()) == ([1.0] * 6, [1.0] * 8)


def test_places_in_the_latent_are_those_of_the_pixels() -> None:
    tiles = tiles_of((1024, 768), 512, 64)
    for pixels, latent in zip(tiles.places(), tiles.places(8), strict=True):
        assert [(one.start, one.stop) for one in pixels] == [(8 * one.start, 8 * one.stop) for one in latent]


def test_only_what_is_more_than_twice_the_model_s_area_is_in_tiles() -> None:
    assert frame_of((1024, 512), TILE, SD) == frame_of((1024, 512), Geometry(), SD)
    large = frame_of((1024, 513), TILE, SD)
    assert (large.content, large.working, large.output) == ((1024, 513), (1024, 576), (1024, 513))
    assert large.tiles == Tiles((1024, 576), (512, 512), 64)
    assert frame_of((4000, 3000), TILE, SD).tiles.count == 88  # type: ignore[union-attr]
    # Of a strip the tiles are longer; what is thinner than a stride is no case for tiles.
    strip = frame_of((4000, 200), TILE, SD)
    assert strip.tiles == Tiles((4032, 256), (1024, 256), 64)
    assert frame_of((20_000, 60), TILE, SD).tiles is None


def test_area_is_the_most_that_tiles_have_and_sigmas_stay() -> None:
    geometry = Geometry(large="tile", area=3_000_000)
    frame = frame_of((4000, 3000), geometry, SD)
    assert frame.tiles is not None
    assert frame.content[0] * frame.content[1] == pytest.approx(3_000_000, rel=0.05)
    assert frame.output == (4000, 3000)
    assert frame_of((1600, 1200), geometry, SD).content == (1600, 1200)
    assert frame_of((600, 400), geometry, SD) == frame_of((600, 400), Geometry(), SD)
    assert sigma_scale(geometry, SD) == 1.0


def test_fit_leaves_no_trace_and_prompts_are_learned_as_without_tiles() -> None:
    assert Geometry(large="fit").trace == {"fit": "aspect"}
    assert TILE.trace == {"fit": "aspect", "large": "tile"}
    assert TILE.as_seen.trace == Geometry(large="tile", area=3_000_000).as_seen.trace == {"fit": "aspect"}
    with pytest.raises(ValidationError, match="large is for fit: aspect"):
        Geometry(fit="letterbox", large="tile")
