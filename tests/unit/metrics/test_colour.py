from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lsb.metrics.colour import colour_moments, match_colours


def noise(seed: int, mean: float, spread: float) -> Image.Image:
    pixels = np.random.default_rng(seed).normal(mean, spread, (64, 64, 3)) * np.array([1, 0.9, 0.8])
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def test_moments_are_those_of_all_pixels() -> None:
    images = [noise(seed, 100 + 20 * seed, 10) for seed in range(3)]
    pixels = np.concatenate([np.asarray(image).reshape(-1, 3) for image in images]) / 255
    moments = colour_moments(images)
    assert np.allclose(moments.mean, pixels.mean(0), atol=1e-6)
    assert np.allclose(moments.std, pixels.std(0), atol=1e-6)


def test_matched_pictures_have_the_target_s_moments() -> None:
    sources = [noise(seed, 90, 12) for seed in range(4)]
    targets = [noise(seed, 150, 20) for seed in range(10, 14)]
    want = colour_moments(targets)
    have = colour_moments([match_colours(image, colour_moments(sources), want) for image in sources])
    assert np.allclose(have.mean, want.mean, atol=0.005)
    assert np.allclose(have.std, want.std, atol=0.005)


def test_a_set_without_contrast_and_an_empty_one() -> None:
    flat = Image.new("RGB", (8, 4), (10, 20, 30))
    matched = match_colours(flat, colour_moments([flat]), colour_moments([Image.new("RGB", (4, 4), (50, 60, 70))]))
    assert matched.size == (8, 4)
    with pytest.raises(ValueError, match="at least one picture"):
        colour_moments([])


def test_matching_a_set_to_itself_changes_nothing() -> None:
    image = noise(1, 120, 20)
    moments = colour_moments([image])
    assert np.array_equal(np.asarray(match_colours(image, moments, moments)), np.asarray(image))
