"""How far pictures have come from one look to another, on the way between the two looks' means.

    place = (f - m_0) · (m_1 - m_0) / |m_1 - m_0|²          0 at the source's mean, 1 at the target's

Features f are pooled ones, and both means are of pictures that the model's autoencoder gave back: its softness is no
part of a look. What lies beside the way does not count, so that a blurred picture can come far as well: place is to be
read beside a distance of the sets, such as KID.

Two looks can be told apart if their means are farther from each other than those of 95 % of all divisions of the same
pictures into two sets of these sizes: a permutation test, drawn from a fixed seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lsb.errors import UsageError

_DIVISIONS, _LEVEL = 399, 0.05


@dataclass(frozen=True)
class Axis:
    """The way from `origin` along `way`, both (D,) float64."""

    origin: np.ndarray
    way: np.ndarray

    @classmethod
    def between(cls, sources: np.ndarray, targets: np.ndarray) -> Axis:
        """The way from the mean of features (N, D) to that of (M, D), N and M at least 2.

        Raises:
            UsageError: they cannot be told apart; says how many pictures may do.
        """
        sources, targets = sources.astype(np.float64), targets.astype(np.float64)
        origin = sources.mean(0)
        way = targets.mean(0) - origin
        found, divided = float(way @ way), _divided(sources, targets)
        if np.mean(np.append(divided >= found, True)) > _LEVEL or not np.any(way):
            raise UsageError(_too_alike(len(sources), len(targets), found, divided))
        return cls(origin, way)

    def places(self, features: np.ndarray) -> np.ndarray:
        """The place of each of features (N, D), (N,) float64."""
        return (features.astype(np.float64) - self.origin) @ self.way / (self.way @ self.way)


def _divided(sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Squared distances (K,) of the means of two sets of these sizes, into which all are divided at random."""
    both = np.concatenate([sources, targets])
    both = both - both.mean(0)
    products, random = both @ both.T, np.random.default_rng(0)
    weights = np.r_[np.full(len(sources), 1 / len(sources)), np.full(len(targets), -1 / len(targets))]
    drawn = np.stack([random.permutation(weights) for _ in range(_DIVISIONS)])
    squares: np.ndarray = np.einsum("ki,ij,kj->k", drawn, products, drawn, optimize=True)
    return squares


def _too_alike(sources: int, targets: int, found: float, divided: np.ndarray) -> str:
    """What to do. Chance falls with the number of pictures, what really lies between two looks does not."""
    chance, limit = float(divided.mean()), float(np.quantile(divided, 1 - _LEVEL))
    words = f"{sources} and {targets} pictures do not show the network that compares them how the two looks differ"
    if found > 1.05 * chance > 0:
        times = max(1.2, (limit - chance) / (found - chance))
        wanted = math.ceil(max(sources, targets) * times / 10) * 10
        return f"{words}; give more of each look, about {wanted}, or another network as evaluate.features"
    return f"{words}: give pictures of two looks, several times as many, or another network as evaluate.features"
