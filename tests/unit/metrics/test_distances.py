from __future__ import annotations

import numpy as np
import pytest
import torch

from lsb.metrics import distances
from lsb.metrics.distances import (
    FrechetDistance,
    KernelDistance,
    MeanScore,
    frechet_distance,
    kernel_distance,
    resampling_weights,
)
from tests.unit.metrics.pictures import ids


def vectors(count: int, dimension: int = 6, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(count, dimension)) + shift).astype(np.float32)


def direct_kid(x: np.ndarray, y: np.ndarray) -> float:
    """The formula with loops over pairs."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((np.dot(a.astype(float), b.astype(float)) / len(a) + 1) ** 3)

    within_x = np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    within_y = np.mean([k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    between = np.mean([k(a, b) for a in x for b in y])
    return 1000 * (within_x + within_y - 2 * between)


def filled(metric: KernelDistance | FrechetDistance, x: np.ndarray, y: np.ndarray) -> KernelDistance | FrechetDistance:
    metric.update(x, ids(len(x), "output"), real=False)
    metric.update(y, ids(len(y), "target"), real=True)
    return metric


def test_kid_is_the_direct_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "BLOCK", 7)  # several blocks, the last one short
    x, y = vectors(23), vectors(17, shift=0.3, seed=1)
    estimate = kernel_distance(torch.from_numpy(x), torch.from_numpy(y), resamples=50)
    assert estimate.value == pytest.approx(direct_kid(x, y), rel=1e-9)


def test_resampled_kid_is_the_direct_formula_on_the_drawn_pictures_without_pairs_of_one_picture() -> None:
    x, y = vectors(9), vectors(8, shift=0.5, seed=1)
    w_x, w_y = resampling_weights(9, 1, seed=1)[0], resampling_weights(8, 1, seed=2)[0]

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a.astype(float) @ b.T.astype(float) / a.shape[1] + 1) ** 3

    def mean(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> float:
        return float((kernel(a, b) * weights).sum() / weights.sum())

    off_x, off_y = (np.outer(w, w) - np.diag(w**2) for w in (w_x, w_y))
    expected = 1000 * (mean(x, x, off_x) + mean(y, y, off_y) - 2 * mean(x, y, np.outer(w_x, w_y)))
    estimate = kernel_distance(torch.from_numpy(x), torch.from_numpy(y), resamples=1)
    assert estimate.low == pytest.approx(expected, rel=1e-9)


def test_two_halves_of_one_set_are_near_zero_and_inside_the_interval() -> None:
    both = vectors(600, 16)
    same = filled(KernelDistance(), both[:300], both[300:]).compute()
    other = filled(KernelDistance(), both[:300], vectors(300, 16, shift=0.3, seed=5)).compute()
    assert abs(same.value) < 0.02 * other.value
    assert same.low < 0 < same.high
    assert other.low > same.high


def test_the_interval_covers_the_value_and_shrinks_with_more_pictures() -> None:
    few = filled(KernelDistance(), vectors(60), vectors(60, shift=0.4, seed=1)).compute()
    many = filled(KernelDistance(), vectors(600), vectors(600, shift=0.4, seed=1)).compute()
    assert few.low < few.value < few.high
    assert many.high - many.low < 0.5 * (few.high - few.low)


@pytest.mark.parametrize("kind", [KernelDistance, FrechetDistance])
def test_merged_states_equal_the_whole_set_s(
    kind: type[KernelDistance | FrechetDistance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distances, "FID_MINIMUM", 20)
    x, y = vectors(40), vectors(30, shift=0.3, seed=1)
    whole = filled(kind(), x, y).compute()
    x_ids, y_ids = ids(40, "output"), ids(30, "target")
    parts = []
    for rows in (slice(25, 40), slice(0, 10), slice(10, 25)):
        part = kind()
        part.update(x[rows], x_ids[rows], real=False)
        parts.append(part)
    parts[1].update(y, y_ids, real=True)
    merged = kind()
    for part in parts:
        merged.merge_state(part)
    assert merged.compute() == whole


def test_a_merge_after_compute_is_not_forgotten() -> None:
    first, second = MeanScore(), MeanScore()
    first.update([1.0], ids(1, "a"))
    second.update([3.0], ids(1, "b"))
    assert first.compute().value == 1
    first.merge_state(second)
    assert first.compute().value == 2


def test_order_of_updates_changes_no_bit() -> None:
    x, y = vectors(31), vectors(29, shift=0.2, seed=1)
    x_ids, y_ids = ids(31, "output"), ids(29, "target")
    order = np.random.default_rng(3).permutation(31)
    shuffled = KernelDistance()
    shuffled.update(y, y_ids, real=True)
    for index in order:
        shuffled.update(x[index : index + 1], [x_ids[index]], real=False)
    assert shuffled.compute() == filled(KernelDistance(), x, y).compute()


def test_too_few_pictures_give_none_with_the_reason() -> None:
    kid = filled(KernelDistance(), vectors(1), vectors(5)).compute()
    assert kid.value is None
    assert kid.reason == "needs 2 pictures on both sides, got 1 and 5"
    fid = filled(FrechetDistance(), vectors(5), vectors(5)).compute()
    assert fid.value is None
    assert fid.reason == "needs 2000 pictures on both sides, got 5 and 5"


def test_fid_of_gaussians_is_the_closed_form() -> None:
    x = vectors(4000, 3) * np.array([1, 2, 3], np.float32)
    y = vectors(4000, 3, seed=1) * np.array([2, 2, 1], np.float32) + 1
    c_x, c_y = np.cov(x.T.astype(float)), np.cov(y.T.astype(float))
    # The root of a product of positive matrices, by its eigenvalues.
    cross = np.sqrt(np.linalg.eigvals(c_x @ c_y).real).sum()
    means = ((x.astype(float).mean(0) - y.astype(float).mean(0)) ** 2).sum()
    expected = means + np.trace(c_x) + np.trace(c_y) - 2 * cross
    assert frechet_distance(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(torch.from_numpy(x), torch.from_numpy(x)) == pytest.approx(0, abs=1e-9)


def test_mean_score_is_the_mean_with_an_interval_and_merges() -> None:
    values = np.random.default_rng(0).normal(5, 1, 200)
    names = ids(200)
    whole = MeanScore()
    whole.update(values, names)
    merged = MeanScore()
    for rows in (slice(120, 200), slice(0, 120)):
        part = MeanScore()
        part.update(values[rows], names[rows])
        merged.merge_state(part)
    estimate = whole.compute()
    assert merged.compute() == estimate
    assert estimate.value == pytest.approx(values.mean())
    # Of a mean of 200 values with standard deviation 1: about 4 / sqrt(200) wide.
    assert estimate.high - estimate.low == pytest.approx(0.277, rel=0.15)


def test_a_record_counts_once_and_a_score_is_finite() -> None:
    twice = MeanScore()
    twice.update([1.0, 2.0], ids(2))
    twice.update([1.0], ids(1))
    with pytest.raises(ValueError, match="1 records were counted twice"):
        twice.compute()
    with pytest.raises(ValueError, match="not a finite number"):
        MeanScore().update([float("nan")], ids(1))
    with pytest.raises(ValueError, match="32 hex digits"):
        MeanScore().update([1.0], ["abcd"])


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_few_pictures_have_a_finite_interval(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    x, y = (torch.randn(count, 8, generator=generator) for _ in range(2))
    estimate = kernel_distance(x, y)
    assert estimate.value is not None
    assert np.isfinite([estimate.value, estimate.low, estimate.high]).all()
