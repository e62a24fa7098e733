"""Places between two looks."""

from __future__ import annotations

import numpy as np
import pytest

from lsb.errors import SourceError
from lsb.metrics.likeness import Axis


def features(mean: float, count: int, seed: int) -> np.ndarray:
    """(count, 6) about `mean` in each of the first two dimensions."""
    found = np.random.default_rng(seed).normal(0, 0.1, (count, 6)).astype(np.float32)
    found[:, :2] += mean
    return found


def test_the_sources_mean_is_0_and_the_targets_1() -> None:
    sources, targets = features(0, 20, 1), features(3, 30, 2)
    axis = Axis.between(sources, targets)
    assert axis.places(sources).mean() == pytest.approx(0, abs=1e-6)
    assert axis.places(targets).mean() == pytest.approx(1, abs=1e-6)
    assert axis.places((sources + targets[:20]) / 2).mean() == pytest.approx(0.5, abs=0.02)
    assert axis.places(sources).shape == (20,)


def test_what_lies_beside_the_way_does_not_count() -> None:
    axis = Axis.between(features(0, 20, 1), features(3, 30, 2))
    beside = features(1.5, 5, 3)
    way = axis.way / np.linalg.norm(axis.way)
    away = np.eye(6)[5] - way * way[5]
    assert axis.places(beside + 7 * away) == pytest.approx(axis.places(beside))


@pytest.mark.parametrize("targets", [features(0, 30, 4), features(0, 20, 1)], ids=["of one look", "the same"])
def test_looks_that_cannot_be_told_apart_are_refused(targets: np.ndarray) -> None:
    with pytest.raises(SourceError, match="look the same"):
        Axis.between(features(0, 20, 1), targets)
