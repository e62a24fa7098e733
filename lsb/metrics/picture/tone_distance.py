"""Tone distance: RMSE in [0, 1] between 16 x 16 averages of output and truth, which a blur does not change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lsb.metrics.column import Column
from lsb.metrics.picture.measure import PictureMeasure, mean_squares

if TYPE_CHECKING:
    from torch import Tensor


def tone_distance(a: Tensor, b: Tensor) -> Tensor:
    """Per picture RMSE (N,) between 4 x 4 block averages of two batches (N, 3, H, W) in [0, 1]."""
    from torch.nn import functional as F

    difference = F.avg_pool2d(a.double(), 4) - F.avg_pool2d(b.double(), 4)
    return mean_squares(difference).sqrt()


TONE_DISTANCE = PictureMeasure(
    Column(
        "tone_distance",
        "Tone distance",
        "lower",
        "Difference to the truth between averages of 4 × 4 pixels, 0 to 1. Blur hardly changes it, matched colours do.",
    ),
    against="truth",
    measure=tone_distance,
)
