"""PSNR between output and truth, in dB."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lsb.metrics.column import Column
from lsb.metrics.picture.measure import PictureMeasure, mean_squares

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_ERROR = 1e-10  # of a mean square; equal pictures have a PSNR of 100 dB, not infinity


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Per picture PSNR (N,) in dB, at most 100, of two batches (N, 3, H, W) in [0, 1]."""
    return -10 * mean_squares(a.double() - b.double()).clamp_min(SMALLEST_ERROR).log10()


PSNR = PictureMeasure(
    Column(
        "psnr",
        "PSNR, dB",
        "higher",
        "Closeness to the truth pixel by pixel. Blur can raise it, so compare with the row of the source's VAE.",
        digits=2,
    ),
    against="truth",
    measure=psnr,
)
