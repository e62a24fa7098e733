"""A backbone asked about a picture that is much larger than what it was trained for, tile by tile.

State, noise and answers are those of the whole latent; a tile reads its place of them. What overlapping tiles answer
is blended, with shares that sum to one, before anybody sees it, at each evaluation again: neighbours never part.
An autoencoder normalises all tiles alike, by `lsb.models.normalisation`. Nothing but one batch of tiles, one row of
tiles and the latents is held beside the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from math import isqrt
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from lsb.models.normalisation import Part, common_moments, normalised_by
from lsb.models.protocol import Backbone, Normalising
from lsb.pictures.images import to_tensor
from lsb.pictures.tiles import Place, Tiles


class Tile(NamedTuple):
    """One tile in units of the picture, and what it counts there."""

    place: Place
    rows: Tensor  # (h, 1) float32, see `Tiles.shares`
    columns: Tensor  # (w,) float32

    def share_of(self, answer: Tensor) -> Tensor:
        """What it adds to the whole, of an answer (C, h, w)."""
        return self.rows * self.columns * answer


class Tiled:
    """Encodes, asks and decodes in batches of one shape; the last is filled up.

    Args:
        tiles: of the picture.
        batch: tiles at a time; part of what fixes the last bits.
        alive: called after each batch.
    """

    def __init__(self, backbone: Backbone, tiles: Tiles, batch: int, alive: Callable[[], None] = lambda: None) -> None:
        self._backbone, self._batch, self._alive = backbone, batch, alive
        self.shape = backbone.latent_shape(*tiles.size)
        self._tiles = tiles
        self._factor = tiles.size[0] // self.shape[2]
        self._pixels = _placed(tiles, 1)
        self._latents = _placed(tiles, self._factor, backbone.device)
        self._now: list[int] = []  # the tiles of the batch

    def encode(self, image: Image.Image, eps: Tensor | None = None) -> Tensor:
        """The latent (1, C, h, w) of an RGB picture; see `Backbone.encode`."""

        def ask(numbers: list[int]) -> Tensor:
            crops = [image.crop(_box(self._pixels[number].place)) for number in numbers]
            return self._backbone.encode(to_tensor(crops), None if eps is None else self._crops(eps, numbers))

        with self._normalised_alike(ask, lambda: self._backbone.encode(to_tensor([self._sample_of(image)]))):
            return self._blended(ask)

    def predict(self, x_t: Tensor, ask: Callable[[Tensor], Tensor]) -> Tensor:
        """The answer (1, C, h, w) to a state of that shape.

        Args:
            ask: the network about states (B, C, h, w) of the tiles' size.
        """
        return self._blended(lambda numbers: ask(self._crops(x_t, numbers))).to(x_t)

    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        """Rows of the picture, from top to bottom, (1, 3, rows, width) float32 in [-1, 1]."""

        def ask(numbers: list[int]) -> Tensor:
            return self._backbone.decode(self._crops(latents, numbers))

        (width, _), height = self._tiles.size, len(self._pixels[0].rows)
        band, top = torch.zeros(1, 3, height, width), 0
        with self._normalised_alike(ask, lambda: self._backbone.decode(self._sample_of_latents(latents))):
            for number, picture in self._answers(ask):
                tile = self._pixels[number]
                rows, columns = tile.place
                if rows.start > top:  # no later tile reaches what is above it
                    done, top = rows.start - top, rows.start
                    yield band[:, :, :done]
                    band = torch.cat([band[:, :, done:], torch.zeros(1, 3, done, width)], dim=2)
                band[0, :, :, columns] += tile.share_of(picture.cpu())
        yield band

    def _normalised_alike(
        self, ask: Callable[[list[int]], Tensor], sample: Callable[[], Tensor]
    ) -> AbstractContextManager[None]:
        """What the autoencoder is asked inside is normalised as the whole would be."""
        if self._tiles.count == 1 or not isinstance(self._backbone, Normalising):
            return nullcontext()
        shares: dict[int, list[Tile]] = {}

        def parts(places: int) -> Iterator[Part]:
            factor = isqrt(self._tiles.tile[0] * self._tiles.tile[1] // places)
            if factor not in shares:
                shares[factor] = _placed(self._tiles, factor, self._backbone.device)
            for row, number in enumerate(self._now):
                tile = shares[factor][number]
                yield Part(row, (tile.rows * tile.columns).flatten())

        def whole() -> None:
            for _ in self._answers(ask):
                pass

        return normalised_by(common_moments(self._backbone.autoencoder_norms, parts, sample, whole))

    def _sample_of(self, image: Image.Image) -> Image.Image:
        sample = Image.new("RGB", self._tiles.tile)
        for place, (rows, columns) in self._tiles.sample():
            sample.paste(image.crop(_box(place)), (columns.start, rows.start))
        return sample

    def _sample_of_latents(self, latents: Tensor) -> Tensor:
        width, height = (side // self._factor for side in self._tiles.tile)
        sample = latents.new_zeros(*latents.shape[:2], height, width)
        for place, goal in self._tiles.sample(self._factor):
            sample[(..., *goal)] = latents[(..., *place)]
        return sample

    def _blended(self, ask: Callable[[list[int]], Tensor]) -> Tensor:
        whole = torch.zeros(1, *self.shape, device=self._backbone.device)
        for number, answer in self._answers(ask):
            tile = self._latents[number]
            rows, columns = tile.place
            whole[0, :, rows, columns] += tile.share_of(answer)
        return whole

    def _answers(self, ask: Callable[[list[int]], Tensor]) -> Iterator[tuple[int, Tensor]]:
        """What is answered about each tile, in their order."""
        for start in range(0, len(self._latents), self._batch):
            group = [*range(start, min(start + self._batch, len(self._latents)))]
            self._now = group
            answers = ask([*group, *group[-1:] * (self._batch - len(group))])
            self._alive()
            yield from zip(group, answers, strict=False)

    def _crops(self, whole: Tensor, numbers: list[int]) -> Tensor:
        places = [self._latents[number].place for number in numbers]
        return torch.stack([whole[0, :, rows, columns] for rows, columns in places])


def _placed(tiles: Tiles, factor: int, device: str = "cpu") -> list[Tile]:
    return [
        Tile(place, *(torch.from_numpy(share).float().to(device) for share in (rows[:, None], columns)))
        for place, (rows, columns) in zip(tiles.places(factor), tiles.shares(factor), strict=True)
    ]


def _box(place: Place) -> tuple[int, int, int, int]:
    rows, columns = place
    return columns.start, rows.start, columns.stop, rows.stop
