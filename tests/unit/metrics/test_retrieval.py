from __future__ import annotations

import numpy as np

from lsb.metrics.retrieval import hits, nearest


def test_the_nearest_row_is_by_angle_not_by_length() -> None:
    gallery = np.array([[10.0, 0], [0, 1], [1, 1]])
    assert nearest(np.array([[0.1, 0.01], [0, 50], [3, 3.1]]), gallery).tolist() == [0, 1, 2]


def test_hits_count_the_own_truth_only() -> None:
    gallery = np.eye(3)
    features = np.array([[1.0, 0.2, 0], [1.0, 0.2, 0], [0, 0, 2]])
    assert hits(features, gallery, np.array([0, 1, 2])).tolist() == [1, 0, 1]


def test_no_pictures_and_a_zero_vector() -> None:
    assert hits(np.zeros((0, 3)), np.eye(3), np.zeros(0, int)).tolist() == []
    assert nearest(np.zeros((1, 3)), np.eye(3)).tolist() == [0]
