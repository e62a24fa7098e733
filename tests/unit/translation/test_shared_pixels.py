from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from lsb.translation.shared_pixels import Placed, SharedPixels


@pytest.fixture
def sides() -> Iterator[tuple[SharedPixels, SharedPixels]]:
    """Both ends of one memory."""
    here = SharedPixels()
    there = SharedPixels(os.dup(here._descriptor))
    yield here, there
    here.close()
    there.close()


def noise(mode: str, size: tuple[int, int], seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 4), dtype=np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


def test_pictures_arrive_as_they_are_and_all_else_beside_them(sides: tuple[SharedPixels, SharedPixels]) -> None:
    here, there = sides
    sent = [noise("RGB", (5, 3)), None, noise("L", (4, 4), 1), "text", noise("RGBA", (1, 7), 2)]
    placed = here.put(sent)
    assert not any(isinstance(value, Image.Image) for value in placed)
    for found, was in zip(there.get(placed), sent, strict=True):
        assert found == was


def test_a_later_message_may_be_larger_and_may_go_the_other_way(sides: tuple[SharedPixels, SharedPixels]) -> None:
    here, there = sides
    kept = there.get(here.put([noise("RGB", (4, 4))]))
    for side in (300, 900):
        answer = noise("RGB", (side, side), side)
        assert here.get(there.put([answer])) == [answer]
    assert kept == [noise("RGB", (4, 4))], "what was taken is not written over"


def test_what_is_there_twice_lies_there_once(sides: tuple[SharedPixels, SharedPixels]) -> None:
    here, there = sides
    picture = noise("RGB", (6, 6))
    first, second = here.put([picture, picture])
    assert isinstance(first, Placed)
    assert first == second
    assert there.get([first, second]) == [picture, picture]


def test_a_message_without_pictures(sides: tuple[SharedPixels, SharedPixels]) -> None:
    here, there = sides
    assert there.get(here.put([1, None])) == [1, None]
