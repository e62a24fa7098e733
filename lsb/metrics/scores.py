"""Measures of translated pictures against their sources and, where there are any, their truths; see `picture`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from lsb.metrics.features import FeatureExtractor, Features
from lsb.metrics.picture import MEASURES
from lsb.metrics.pixels import unit_pixels

OF_SOURCE = tuple(measure for measure in MEASURES if measure.against == "source")
OF_TRUTH = tuple(measure for measure in MEASURES if measure.against == "truth")


@dataclass(frozen=True)
class Scores:
    """One picture's finite `values` by name, and its pooled `features` (D,) float32."""

    values: dict[str, float]
    features: np.ndarray


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

        What is measured against a truth is absent where that is None.
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
        found = {measure.column.key: measure.measure(source_maps, features.maps) for measure in OF_SOURCE}
        against = self.against_truth(outputs, truths)
        return [
            Scores({**{key: float(values[row]) for key, values in found.items()}, **other}, vector)
            for row, (other, vector) in enumerate(zip(against, features.pooled, strict=True))
        ]

    def against_truth(
        self, outputs: Sequence[Image.Image], truths: Sequence[Image.Image | None]
    ) -> list[dict[str, float]]:
        """The scores that need a truth, and no features; empty where the truth is None."""
        values: list[dict[str, float]] = [{} for _ in outputs]
        known = [index for index, truth in enumerate(truths) if truth is not None]
        made = unit_pixels([outputs[index] for index in known])
        true = unit_pixels([truth for truth in truths if truth is not None])
        for measure in OF_TRUTH:
            for index, value in zip(known, measure.measure(made, true), strict=True):
                values[index][measure.column.key] = float(value)
        return values
