"""What gates judge by: numbers of each picture of the metric sample, and thresholds from the run's own two domains.

output_change    how far an output is from its source through the VAE (RMSE, both as large as the model's own
                 square), in units of what the VAE alone does to this picture; taken for no less than what it does to
                 three of four pictures, and no more than to 95 of 100, of the domain that it changes more. What the VAE
                 gives has 0, an unchanged source of the domain hardly more than 1. Threshold of `no_op`: 1.05.
structure        (score `structure_distance`, of every picture) Threshold of `over_changed`: 0.7 times what unrelated
                 pictures of both domains usually differ by; but at least twice what the VAE alone does to 95 of 100
                 sources, where all pictures of the domains have one layout.
source_distance  how far a source's features, of length 1, are from the nearest 15 of 100 other sources (of 256).
                 Threshold of `out_of_domain`: Tukey's fence, the third quartile and 1.5 times the distance to the
                 first. So what makes up more than a tenth of the sources may well be part of their domain.
output_contrast  (a score of every picture) Threshold of `flat_output`: 0.02, but at most half of what the flattest of
                 100 target pictures have.

The pictures are those that the measuring has at hand anyway, the smallest record ids: nothing is read for this.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lsb.ledger.gates import FLAT
from lsb.metrics.features import Features
from lsb.metrics.picture.measure import mean_squares
from lsb.metrics.picture.structure_distance import structure_distance
from lsb.metrics.pixels import unit_pixels
from lsb.metrics.table import GateMeasures
from lsb.pictures.images import contrast

LEAST = 20  # sources; from fewer nothing is to be learned of a domain
UNTOUCHED, UNCHANGED = (0.75, 0.95), 1.05  # of the pictures that the VAE alone has changed; of an output's change
UNRELATED, OWN, OF_OWN = 0.7, 2.0, 0.95  # of structure distances
LAYOUTS, APART = 64, (1, 2, 3)  # pictures of a domain whose layouts are compared, each with those so far behind it
REFERENCE, NEAR, FENCE = 256, 0.15, 1.5
FLATTEST, HALF = 0.01, 0.5
BLOCK = 512
DIGITS, SMALLEST = 6, 1e-4

Images = Sequence[Image.Image]


class Calibration:
    """Collects what the measuring of a run comes by, chunk by chunk."""

    def __init__(self, side: int, target_ids: Sequence[str]) -> None:
        """`side`: of the model's own square, in pixels."""
        self._side = side
        self._laid_out = frozenset(sorted(target_ids)[:LAYOUTS])
        self._ids: list[str] = []
        self._changes: list[float] = []
        self._features: list[np.ndarray] = []
        self._untouched: dict[str, list[float]] = {"sources": [], "targets": []}
        self._own_structure: list[float] = []
        self._source_maps: list[Tensor] = []
        self._target_maps: dict[str, Tensor] = {}
        self._target_contrasts: list[float] = []
        self._targets = 0

    def add_records(
        self,
        ids: Sequence[str],
        sources: Images,
        outputs: Images,
        blurred: Images,
        seen: Features,
        own_structure: Sequence[float],
    ) -> None:
        """More records in record-id order.

        Args:
            blurred: the sources through the VAE.
            seen: features of the sources.
            own_structure: structure distances between sources and `blurred`.
        """
        self._ids += ids
        self._changes += changes(outputs, blurred, self._side)
        self._untouched["sources"] += changes(sources, blurred, self._side)
        self._own_structure += own_structure
        self._features += [*seen.pooled]
        self._source_maps += [*seen.maps[: max(0, LAYOUTS - len(self._source_maps))]]

    def add_through_vae(self, targets: Images, blurred: Images) -> None:
        """Pictures of the target domain, and the same through the VAE."""
        self._untouched["targets"] += changes(targets, blurred, self._side)

    def add_targets(self, ids: Sequence[str], targets: Images, seen: Features) -> None:
        """More pictures of the target domain, with their features."""
        self._targets += len(ids)
        self._target_contrasts += [contrast(target) for target in targets]
        self._target_maps |= {name: seen.maps[row] for row, name in enumerate(ids) if name in self._laid_out}

    def result(self) -> GateMeasures:
        """Thresholds and numbers, rounded to 6 digits; of fewer than LEAST sources hardly any."""
        thresholds = {"flat_output": self._flat()}
        found: GateMeasures = {"sources": len(self._ids), "targets": self._targets, "thresholds": thresholds}
        if len(self._ids) < LEAST:
            return found
        distances = source_distances(np.stack(self._features))
        thresholds["no_op"] = UNCHANGED
        thresholds["over_changed"] = max(
            UNRELATED * float(np.median(self._unrelated())),
            OWN * float(np.quantile(self._own_structure, OF_OWN)),
        )
        thresholds["out_of_domain"] = fence(distances)
        found["thresholds"] = {name: _rounded(value) for name, value in thresholds.items()}
        found["untouched"] = usual = [_rounded(value) for value in self._usual()]
        relative = relative_changes(self._changes, self._untouched["sources"], usual)
        numbers = zip(self._ids, relative, distances.tolist(), strict=True)
        found["numbers"] = {record: [_rounded(change), _rounded(distance)] for record, change, distance in numbers}
        return found

    def _usual(self) -> list[float]:
        """Between what the VAE alone does to many pictures and to almost all."""
        errors = [errors for errors in self._untouched.values() if len(errors) >= LEAST]
        return np.max([np.quantile(of_domain, UNTOUCHED) for of_domain in errors], axis=0).tolist()

    def _unrelated(self) -> np.ndarray:
        """Structure distances between pictures that have nothing to do with each other."""
        sources = torch.stack(self._source_maps)
        found = [structure_distance(sources, sources.roll(shift, 0)) for shift in APART]
        if self._target_maps:
            targets = torch.stack([self._target_maps[name] for name in sorted(self._target_maps)])
            count = min(len(sources), len(targets))
            # A truth has its source's name, and so its place in the order.
            found += [structure_distance(sources[:count], targets.roll(shift, 0)[:count]) for shift in APART]
        return torch.cat(found).numpy()

    def _flat(self) -> float:
        if len(self._target_contrasts) < LEAST:
            return FLAT
        return min(FLAT, HALF * float(np.quantile(self._target_contrasts, FLATTEST)))


def source_distances(features: np.ndarray) -> np.ndarray:
    """Of each of N pictures (N, D) the distance of its direction within which 15 % of the first 256 others lie."""
    directions = features.astype(np.float64)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True).clip(min=1e-12)
    reference = directions[:REFERENCE]
    near = max(1, round(NEAR * len(reference)))
    found = []
    for start in range(0, len(directions), BLOCK):
        rows = directions[start : start + BLOCK]
        squares = (2 - 2 * rows @ reference.T).clip(min=0)
        for row in range(len(rows)):  # itself is no other
            if start + row < len(reference):
                squares[row, start + row] = np.inf
        found.append(np.sqrt(np.partition(squares, near - 1, axis=1)[:, near - 1]))
    return np.concatenate(found)


def fence(values: np.ndarray) -> float:
    """Tukey's: above it lies what is unlike the rest."""
    first, third = np.quantile(values, (0.25, 0.75))
    return float(third + FENCE * (third - first))


def changes(pictures: Images, others: Images, side: int) -> list[float]:
    """RMSE in [0, 1] between pictures and others of the same sizes, seen in squares of that side."""
    difference = unit_pixels(pictures, side).double() - unit_pixels(others, side).double()
    values: list[float] = mean_squares(difference).sqrt().tolist()
    return values


def relative_changes(changed: Sequence[float], untouched: Sequence[float], usual: Sequence[float]) -> list[float]:
    """What `output_change` says of pictures, each changed so much, by the VAE alone so much, limited by `usual`."""
    low, high = usual
    pairs = zip(changed, untouched, strict=True)
    return [change / max(min(max(alone, low), high), SMALLEST) for change, alone in pairs]


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
