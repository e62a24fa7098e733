"""Structure distance: how much the layout changed.

Each of the source's positions is compared with each other (cosine of stride-8 features), the same for the output.
Frobenius norm of the difference divided by the number of positions: the root mean square over pairs, in [0, 2].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lsb.metrics.column import Column
from lsb.metrics.picture.measure import PictureMeasure

if TYPE_CHECKING:
    from torch import Tensor


def structure_distance(source: Tensor, output: Tensor) -> Tensor:
    """Per picture distance (N,) float64 of two batches of feature maps (N, C, h, w)."""
    import torch
    from torch.nn import functional as F

    a, b = (F.normalize(maps.double().flatten(2), dim=1) for maps in (source, output))
    return torch.tensor([_structure(x, y) for x, y in zip(a, b, strict=True)], dtype=torch.float64)


def _structure(a: Tensor, b: Tensor) -> float:
    """|A'A - B'B| / P of two (C, P) matrices with unit columns, without ever making a P x P matrix."""
    aa, bb, ab = ((x @ y.T).square().sum() for x, y in ((a, a), (b, b), (a, b)))
    return float((aa + bb - 2 * ab).clamp_min(0).sqrt()) / a.shape[1]


STRUCTURE_DISTANCE = PictureMeasure(
    Column(
        "structure_distance",
        "Structure distance",
        "lower",
        "How much the layout differs from the source's, 0 to 2. The source itself has 0, "
        "the truth itself does not: too low can mean that little was translated.",
    ),
    against="source",
    measure=structure_distance,
)
