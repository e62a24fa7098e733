"""Exact answers in one dimension, where what carries one distribution to another keeps the quantiles. In float64.

F, Q   cumulative distribution of an end noised to sigma, and quantiles of the end itself
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from lsb.bridge.method import Levels
from lsb.bridge.mixture import GaussianMixture

LEVELS = Levels(20.0)


def points(count: int = 17) -> Tensor:
    """(count, 1), from one side of both ends to the other."""
    return torch.linspace(-2.5, 2.5, count, dtype=torch.float64)[:, None]


def denoised(x: Tensor, end: GaussianMixture, sigma: float) -> Tensor:
    """Where the exact flow of an end leads from x at sigma: Q(F(x))."""
    return end.quantile(end.noised(sigma).distribution(x[:, 0]))[:, None]


def distances(end: Callable[[int], Tensor], counts: Sequence[int], exact: Tensor) -> list[float]:
    """RMS distance to the exact answer by the number of evaluations."""
    return [float((end(count) - exact).square().mean().sqrt()) for count in counts]


def order(errors: Sequence[float], counts: Sequence[int]) -> float:
    """With which power of the step the errors fall."""
    slope, _ = np.polyfit([math.log(1 / count) for count in counts], [math.log(error) for error in errors], 1)
    return float(slope)
