"""Where the tiles of a large picture lie, and what each of them counts.

All places are multiples of the network's stride, so that overlapping tiles are halved along the same lines. A tile
counts most in its middle and least at its edges, where the network sees least around it; what the tiles of a place
count sums to one. Of a side that one tile covers nothing is blended.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np

Place: TypeAlias = tuple[slice, slice]  # rows and columns

_OVERLAP = 4  # of a tile's side at least one part in so many lies in the next tile as well


@dataclass(frozen=True)
class Tiles:
    """Overlapping tiles of one size, evenly over a picture, row by row.

    Attributes:
        size: of the picture, (width, height) in pixels.
        tile: of each tile, at most as large.
        stride: of which sizes and places are multiples, in pixels.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    stride: int

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._lefts) * len(self._tops)

    def places(self, factor: int = 1) -> Iterator[Place]:
        """Where each lies.

        Args:
            factor: pixels of the picture's side that one of the places is: the autoencoder's for latents.
        """
        width, height = (side // factor for side in self.tile)
        for top in (top // factor for top in self._tops):
            for left in (left // factor for left in self._lefts):
                yield slice(top, top + height), slice(left, left + width)

    def shares(self, factor: int = 1) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """What each tile counts, as the factors of its rows (h,) and of its columns (w,), float64.

        Their product is the share of a place; the shares of all tiles in it sum to one.
        """
        columns = _shares(self.size[0] // factor, self.tile[0] // factor, [left // factor for left in self._lefts])
        for rows in _shares(self.size[1] // factor, self.tile[1] // factor, [top // factor for top in self._tops]):
            for column in columns:
                yield rows, column

    def sample(self, factor: int = 1) -> Iterator[tuple[Place, Place]]:
        """Squares of one stride from all over the picture, and where they lie in one of a tile's size that is made of
        them.

        Args:
            factor: as for `places`.
        """
        side = self.stride // factor
        across, down = (
            [(2 * number * (whole - part) + part - 1) // max(1, 2 * (part - 1)) for number in range(part)]
            for whole, part in zip(
                *([side // self.stride for side in one] for one in (self.size, self.tile)), strict=True
            )
        )
        for row, top in enumerate(down):
            for column, left in enumerate(across):
                yield _square(top + row, left + column, side), _square(row, column, side)

    @cached_property
    def _lefts(self) -> list[int]:
        return _starts(self.size[0] // self.stride, self.tile[0] // self.stride, self.stride)

    @cached_property
    def _tops(self) -> list[int]:
        return _starts(self.size[1] // self.stride, self.tile[1] // self.stride, self.stride)


def tiles_of(size: tuple[int, int], side: int, stride: int) -> Tiles:
    """The tiles of a picture, (width, height) in multiples of the stride.

    A tile is the square that the model was trained with, at least two strides long so that two can overlap. Of a
    picture less high or less wide than that it is as much longer in the other direction, at most as large in all.
    """
    square = max(side, 2 * stride)
    width, height = (min(square, one) for one in size)
    if height < square:
        width = min(size[0], square**2 // height // stride * stride)
    elif width < square:
        height = min(size[1], square**2 // width // stride * stride)
    return Tiles(size, (width, height), stride)


def _square(row: int, column: int, side: int) -> Place:
    return slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)


def _starts(whole: int, part: int, stride: int) -> list[int]:
    """Where parts begin that cover the whole evenly, as few as overlap enough; `whole` and `part` in strides."""
    if part >= whole:
        return [0]
    overlap = max(1, part // _OVERLAP)
    gaps = -(-(whole - part) // (part - overlap))
    return [(2 * number * (whole - part) + gaps) // (2 * gaps) * stride for number in range(gaps + 1)]


def _shares(whole: int, part: int, starts: list[int]) -> list[np.ndarray]:
    """What each part counts at its places: what it would count alone, a tent, of the sum of all tents there."""
    tent = np.minimum(np.arange(part) + 0.5, part - np.arange(part) - 0.5)
    total = np.zeros(whole)
    for start in starts:
        total[start : start + part] += tent
    return [tent / total[start : start + part] for start in starts]
