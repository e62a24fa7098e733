"""Measures of one translated picture against its source and, where there is one, its truth.

    structure_distance   how much the layout changed: each of the source's positions is compared with each other
                         (cosine of stride-8 features), the same for the output; Frobenius norm of the difference
                         divided by the number of positions, which is the root mean square over pairs, in [0, 2]
    tone_distance        RMSE in [0, 1] between 16 x 16 averages of output and truth, which a blur does not change
    psnr                 dB between output and truth

The last two are taken at 64 x 64 on white ground; pictures of another size are resized first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from lsb.metrics.features import FeatureExtractor, Features
from lsb.metrics.pixels import unit_pixels

SMALLEST_ERROR = 1e-10  # of a mean square; equal pictures have a PSNR of 100 dB, not infinity


@dataclass(frozen=True)
class Scores:
    """One picture's finite `values` by name, and its pooled `features` (D,) float32."""

    values: dict[str, float]
    features: np.ndarray


def structure_distance(source: Tensor, output: Tensor) -> Tensor:
    """Per picture distance (N,) float64 of two batches of feature maps (N, C, h, w)."""
    a, b = (F.normalize(maps.double().flatten(2), dim=1) for maps in (source, output))
    return torch.tensor([_structure(x, y) for x, y in zip(a, b, strict=True)], dtype=torch.float64)


def _structure(a: Tensor, b: Tensor) -> float:
    """|A'A - B'B| / P of two (C, P) matrices with unit columns, without ever making a P x P matrix."""
    aa, bb, ab = ((x @ y.T).square().sum() for x, y in ((a, a), (b, b), (a, b)))
    return float((aa + bb - 2 * ab).clamp_min(0).sqrt()) / a.shape[1]


def tone_distance(a: Tensor, b: Tensor) -> Tensor:
    """Per picture RMSE (N,) between 4 x 4 block averages of two batches (N, 3, H, W) in [0, 1]."""
    difference = F.avg_pool2d(a.double(), 4) - F.avg_pool2d(b.double(), 4)
    return _mean_squares(difference).sqrt()


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Per picture PSNR (N,) in dB, at most 100, of two batches (N, 3, H, W) in [0, 1]."""
    return -10 * torch.log10(_mean_squares(a.double() - b.double()).clamp_min(SMALLEST_ERROR))


def _mean_squares(difference: Tensor) -> Tensor:
    """Mean square of each picture, one at a time: its last bits do not depend on how many there are."""
    return torch.tensor([float(picture.square().mean()) for picture in difference], dtype=torch.float64)


class Scorer:
    """Scores translated pictures; holds the feature extractor and nothing else."""

    def __init__(self, extractor: FeatureExtractor) -> None:
        self.extractor = extractor

    def score(
        self,
        sources: Sequence[Image.Image],
        outputs: Sequence[Image.Image],
        truths: Sequence[Image.Image | None],
    ) -> list[Scores]:
        """Scores of each output, in order. All three sequences have one length.

        `tone_distance` and `psnr` are absent where the truth is None.
        """
        return self.compare(self.extractor(sources).maps, self.extractor(outputs), outputs, truths)

    def compare(
        self,
        source_maps: Tensor,
        features: Features,
        outputs: Sequence[Image.Image],
        truths: Sequence[Image.Image | None],
    ) -> list[Scores]:
        """Like `score`, with the features of sources and outputs at hand."""
        if not len(source_maps) == len(features.pooled) == len(outputs) == len(truths):
            raise ValueError(f"{len(source_maps)} sources, {len(outputs)} outputs and {len(truths)} truths differ")
        structure = structure_distance(source_maps, features.maps)
        against = self.against_truth(outputs, truths)
        return [
            Scores({"structure_distance": float(distance), **other}, vector)
            for distance, other, vector in zip(structure, against, features.pooled, strict=True)
        ]

    def against_truth(
        self, outputs: Sequence[Image.Image], truths: Sequence[Image.Image | None]
    ) -> list[dict[str, float]]:
        """The scores that need a truth, and no features; empty where the truth is None."""
        values: list[dict[str, float]] = [{} for _ in outputs]
        known = [index for index, truth in enumerate(truths) if truth is not None]
        made = unit_pixels([outputs[index] for index in known])
        true = unit_pixels([truth for truth in truths if truth is not None])
        for index, tone, decibel in zip(known, tone_distance(made, true), psnr(made, true), strict=True):
            values[index] = {"tone_distance": float(tone), "psnr": float(decibel)}
        return values
