"""What a measure of one picture is; its mean over pictures is a column of the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lsb.metrics.column import Column

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PictureMeasure:
    """A measure of an output against its source or its truth.

    Attributes:
        column: its name, under which it is stored with each picture too, and what readers are told.
        against: `source`: `measure` is given feature maps (N, C, h, w) float32 of sources and outputs, at an eighth of
            the resolution. `truth`: pixels (N, 3, 64, 64) float32 in [0, 1] of outputs and truths, on white ground; it
            is left out where a picture has no truth.
        measure: a finite number a picture, (N,) float64. Its last bits must not depend on how many pictures there are.
            The page reads this table, too: import torch in the function, not beside it.
    """

    column: Column
    against: Literal["source", "truth"]
    measure: Callable[[Tensor, Tensor], Tensor]


def mean_squares(difference: Tensor) -> Tensor:
    """Mean square of each picture, one at a time: its last bits do not depend on how many there are."""
    import torch

    return torch.tensor([float(picture.square().mean()) for picture in difference], dtype=torch.float64)
