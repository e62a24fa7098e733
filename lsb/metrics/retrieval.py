"""Truth retrieval: does a translation resemble its own truth more than any other picture of the target style?"""

from __future__ import annotations

import numpy as np


def nearest(features: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Index into `gallery` (M, D) of the most similar row (cosine) for each of `features` (N, D). int64 (N,).

    Of equally similar rows the first wins.
    """
    return np.argmax(_normalised(features) @ _normalised(gallery).T, axis=1)


def hits(features: np.ndarray, gallery: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """1.0 where the nearest row of the gallery is the own truth (`truth` (N,) indexes the gallery), else 0.0."""
    if not len(features):
        return np.zeros(0)
    return (nearest(features, gallery) == truth).astype(np.float64)


def _normalised(vectors: np.ndarray) -> np.ndarray:
    wide = vectors.astype(np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
