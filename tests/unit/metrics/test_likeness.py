"""Places between two looks."""

from __future__ import annotations

import numpy as np
import pytest

from lsb.errors import UsageError
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
    with pytest.raises(
        UsageError, match=f"20 and {len(targets)} pictures do not show .* several times as many"
    ) as found:
        Axis.between(features(0, 20, 1), targets)
    assert found.value.exit_code == 2


def test_few_pictures_of_two_looks_that_plainly_differ_will_do() -> None:
    """A distance that is less than twice what chance gives, but hardly ever comes by chance."""
    sources, targets = wide(0.0, 30, 1), wide(0.025, 30, 2)
    way = targets.mean(0) - sources.mean(0)
    chance = sum(some.var(0, ddof=1).sum() / len(some) for some in (sources, targets))
    assert 1.4 < way @ way / chance < 2
    Axis.between(sources, targets)


def test_too_few_are_said_to_be_too_few() -> None:
    with pytest.raises(UsageError, match=r"15 and 15 pictures .* give more of each look, about 30, or another network"):
        Axis.between(wide(0.0, 15, 1), wide(0.02, 15, 2))


def wide(mean: float, count: int, seed: int) -> np.ndarray:
    """(count, 100) about `mean`."""
    return np.random.default_rng(seed).normal(mean, 0.1, (count, 100))
