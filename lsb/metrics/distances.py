"""Distances between two sets of feature vectors, and means of scores, as mergeable states.

A state holds its rows together with their record ids. Processes update their own state, states are merged in any
order, and `compute` sorts by record id and folds in float64: the result depends on the set alone. Every interval
is a 95 % percentile bootstrap over pictures with a fixed seed.

    MMD²  = mean k(x, x') + mean k(y, y') - 2 mean k(x, y)     over all pairs of different pictures
    k     = (x · y / D + 1)³
    KID   = 1000 MMD²                                          Bińkowski et al. 2018, without subsets
    FID   = |m_x - m_y|² + tr(C_x + C_y - 2 (C_x C_y)^½)       Heusel et al. 2017

Both are written out: torchmetrics' take sets of one size, give no interval over all pairs, and differ by 1e-12.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

RESAMPLES = 1000
LEVEL = 0.95
KID_SCALE = 1000
FID_MINIMUM = 2000  # pictures on both sides; below, the covariance of 1280 dimensions is mostly chance
BLOCK = 512
ID_BYTES = 16


class Estimate(NamedTuple):
    """A number with its interval, or None with the reason why there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


def resampling_weights(count: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each of `count` pictures is drawn in each resample: (resamples, count) float64, rows sum to count."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    weights = np.empty((resamples, count))
    for row in weights:
        row[:] = np.bincount(generator.integers(0, count, count), minlength=count)
    return weights


def interval(samples: np.ndarray) -> tuple[float, float]:
    """The central 95 % of bootstrap samples."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(samples, (tail, 1 - tail))
    return float(low), float(high)


def kernel_distance(x: Tensor, y: Tensor, resamples: int = RESAMPLES) -> Estimate:
    """KID of two sets of features (N, D) and (M, D), in float64, over all pairs.

    The bootstrap draws both sets anew and leaves out pairs of a picture with itself, as the estimate does.
    """
    if min(len(x), len(y)) < 2:
        return Estimate(None, reason=f"needs 2 pictures on both sides, got {len(x)} and {len(y)}")
    samples = kernel_samples(x, y, resamples)
    # Of a few pictures, a resample can be one picture many times: it has no pair, so its distance is not defined.
    low, high = interval(samples[1:][np.isfinite(samples[1:])])
    return Estimate(float(samples[0]), low, high)


def kernel_samples(x: Tensor, y: Tensor, resamples: int = RESAMPLES) -> np.ndarray:
    """KID of two sets of features (N, D) and (M, D), then that of each resample: (1 + resamples,) float64.

    Sets of the same sizes are drawn alike: the differences of two rows of one table are a paired bootstrap.
    """
    x, y = x.double(), y.double()
    w_x = torch.from_numpy(resampling_weights(len(x), resamples, seed=1))
    w_y = torch.from_numpy(resampling_weights(len(y), resamples, seed=2))
    parts = (
        _pairs(x, x, w_x, w_x, same=True),
        _pairs(y, y, w_y, w_y, same=True),
        _pairs(x, y, w_x, w_y, same=False),
    )
    within_x, within_y, between = (KID_SCALE * part for part in parts)
    result: np.ndarray = (within_x + within_y - 2 * between).numpy()
    return result


def _pairs(x: Tensor, y: Tensor, w_x: Tensor, w_y: Tensor, *, same: bool) -> Tensor:
    """Mean of the kernel over all pairs, then over each resample's pairs: (1 + resamples,)."""
    w_x, w_y = (torch.cat([torch.ones(1, w.shape[1], dtype=w.dtype), w]) for w in (w_x, w_y))
    total = torch.zeros(len(w_x), dtype=torch.float64)
    for start in range(0, len(x), BLOCK):
        rows = slice(start, min(start + BLOCK, len(x)))
        kernel = (x[rows] @ y.T / x.shape[1] + 1) ** 3
        if same:
            kernel[:, rows].fill_diagonal_(0)
        total += ((w_x[:, rows] @ kernel) * w_y).sum(1)
    count = w_x.sum(1) * w_y.sum(1)
    return total / (count - (w_x * w_y).sum(1) if same else count)


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """FID of two sets of features (N, D) and (M, D), in float64, with unbiased covariances."""
    x, y = x.double(), y.double()
    c_x, c_y = torch.cov(x.T), torch.cov(y.T)
    values, vectors = torch.linalg.eigh(c_x)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    # tr (C_x C_y)^½ is the sum of the roots of the eigenvalues of the symmetric C_x^½ C_y C_x^½.
    middle = root @ c_y @ root
    cross = torch.linalg.eigvalsh((middle + middle.T) / 2).clamp_min(0).sqrt().sum()
    means = (x.mean(0) - y.mean(0)).square().sum()
    return float((means + c_x.trace() + c_y.trace() - 2 * cross).clamp_min(0))


class _Mergeable(Metric):
    full_state_update = False
    is_differentiable = False
    higher_is_better = False

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add another process's state. Unlike the base class, count it as an update and forget a computed result."""
        super().merge_state(incoming_state)
        self._update_count += incoming_state.update_count if isinstance(incoming_state, Metric) else 1
        self._computed = None

    def _add_rows(self, *names: str) -> None:
        for name in names:
            self.add_state(f"{name}_ids", default=[], dist_reduce_fx="cat")
            self.add_state(f"{name}_rows", default=[], dist_reduce_fx="cat")

    def _append(self, name: str, ids: Sequence[str], rows: Tensor) -> None:
        if len(ids) != len(rows):
            raise ValueError(f"{len(ids)} record ids for {len(rows)} rows")
        getattr(self, f"{name}_ids").append(_id_rows(ids))
        getattr(self, f"{name}_rows").append(rows)

    def _sorted(self, name: str) -> Tensor:
        """All rows in record-id order, float64. A record counted twice is an error."""
        ids, rows = getattr(self, f"{name}_ids"), getattr(self, f"{name}_rows")
        if isinstance(ids, list):  # a synchronisation between processes leaves one tensor
            ids = torch.cat(ids) if ids else torch.zeros(0, ID_BYTES, dtype=torch.uint8)
            rows = torch.cat(rows) if rows else torch.zeros(0, 1)
        keys = [bytes(row) for row in ids.cpu().numpy()]
        if len(set(keys)) != len(keys):
            raise ValueError(f"{len(keys) - len(set(keys))} records were counted twice; update or merge each once")
        order = sorted(range(len(keys)), key=keys.__getitem__)
        return rows[order].double().cpu()


class _FeatureSets(_Mergeable):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._add_rows("outputs", "targets")

    def update(self, features: np.ndarray | Tensor, ids: Sequence[str], *, real: bool) -> None:
        """Add pictures: features (N, D), their record ids (32 hex digits); `real` for the target's own pictures."""
        self._append("targets" if real else "outputs", ids, torch.as_tensor(features))


class KernelDistance(_FeatureSets):
    """KID × 1000 with its bootstrap interval; near 0, also slightly negative, for two samples of one set."""

    def compute(self) -> Estimate:
        return kernel_distance(self._sorted("outputs"), self._sorted("targets"))


class FrechetDistance(_FeatureSets):
    """FID where both sets have at least 2,000 pictures, else None with the reason. No interval."""

    def compute(self) -> Estimate:
        outputs, targets = self._sorted("outputs"), self._sorted("targets")
        if min(len(outputs), len(targets)) < FID_MINIMUM:
            found = f"got {len(outputs)} and {len(targets)}"
            return Estimate(None, reason=f"needs {FID_MINIMUM} pictures on both sides, {found}")
        return Estimate(frechet_distance(outputs, targets))


class MeanScore(_Mergeable):
    """Mean of one score over pictures, with its bootstrap interval."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._add_rows("scores")

    def update(self, values: Sequence[float] | np.ndarray, ids: Sequence[str]) -> None:
        """Add pictures: one value each, finite, and their record ids (32 hex digits)."""
        rows = torch.as_tensor(np.asarray(values, dtype=np.float64))
        if not torch.isfinite(rows).all():
            raise ValueError("a score is not a finite number")
        self._append("scores", ids, rows)

    def compute(self) -> Estimate:
        values = self._sorted("scores").numpy()
        if not len(values):
            return Estimate(None, reason="no picture has this score")
        low, high = interval(resampling_weights(len(values)) @ values / len(values))
        return Estimate(float(values.mean()), low, high)


def _id_rows(ids: Sequence[str]) -> Tensor:
    """Record ids of 32 hex digits as (N, 16) uint8."""
    raw = [bytes.fromhex(record) for record in ids]
    if any(len(record) != ID_BYTES for record in raw):
        raise ValueError(f"a record id has {2 * ID_BYTES} hex digits")
    return torch.from_numpy(np.frombuffer(b"".join(raw), dtype=np.uint8).copy().reshape(-1, ID_BYTES))
