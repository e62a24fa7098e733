from __future__ import annotations

import numpy as np
from PIL import Image

from lsb.metrics.pixels import square, unit_pixels
from tests.unit.metrics.pictures import disc


def test_a_picture_of_the_right_size_keeps_its_pixels() -> None:
    image = disc(1)
    assert np.array_equal(unit_pixels([image])[0].permute(1, 2, 0).numpy(), np.asarray(image, np.float32) / 255)


def test_a_wide_picture_lies_in_the_middle_of_white_ground() -> None:
    pixels = np.asarray(square(Image.new("RGB", (64, 32), (255, 0, 0)), 64))
    assert (pixels[:16] == 255).all()
    assert (pixels[48:] == 255).all()
    assert (pixels[16:48] == (255, 0, 0)).all()


def test_other_sizes_and_modes_become_rgb_of_one_size() -> None:
    batch = unit_pixels([Image.new("L", (7, 300), 0), disc(2, (200, 200))])
    assert batch.shape == (2, 3, 64, 64)
    assert 0 <= batch.min() <= batch.max() <= 1


def test_no_pictures_make_an_empty_batch() -> None:
    assert unit_pixels([]).shape == (0, 3, 64, 64)
