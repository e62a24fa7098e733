"""How far pictures have come from one look to another, on the way between the two looks' means.

    place = (f - m_0) · (m_1 - m_0) / |m_1 - m_0|²          0 at the source's mean, 1 at the target's

Features f are pooled ones, and both means are of pictures that the model's autoencoder gave back: its softness is no
part of a look. What lies beside the way does not count, so that a blurred picture can come far as well: place is to be
read beside a distance of the sets, such as KID.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lsb.errors import SourceError

_CLEAR = 2.0  # times as far, squared, as chance alone would put the two means apart


@dataclass(frozen=True)
class Axis:
    """The way from `origin` along `way`, both (D,) float64."""

    origin: np.ndarray
    way: np.ndarray

    @classmethod
    def between(cls, sources: np.ndarray, targets: np.ndarray) -> Axis:
        """The way from the mean of features (N, D) to that of (M, D), N and M at least 2.

        Raises:
            SourceError: they cannot be told apart: the means are no farther from each other than chance would have it.
        """
        sources, targets = sources.astype(np.float64), targets.astype(np.float64)
        origin = sources.mean(0)
        way = targets.mean(0) - origin
        chance = sum(float(features.var(0, ddof=1).sum()) / len(features) for features in (sources, targets))
        if float(way @ way) <= _CLEAR * chance or not np.any(way):
            raise SourceError(
                "source and target pictures look the same to the network that compares them; give pictures of two "
                "looks, or more of them"
            )
        return cls(origin, way)

    def places(self, features: np.ndarray) -> np.ndarray:
        """The place of each of features (N, D), (N,) float64."""
        return (features.astype(np.float64) - self.origin) @ self.way / (self.way @ self.way)
