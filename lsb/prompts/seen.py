"""Pictures to learn a prompt from, as the network sees them: each once, in latents, as many at a time as fit."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lsb.errors import PromptError, ResourceError
from lsb.memory import free_memory, is_out_of_memory
from lsb.models.protocol import Backbone
from lsb.pictures.geometry import Canvas, Geometry, frame_of
from lsb.pictures.images import pixels_sha256, to_rgb, to_tensor
from lsb.records import sha256
from lsb.redaction import redact

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
_TOGETHER = 2**20  # pixels that are encoded at a time: more of them would need more memory than a step does
LEAST_CUT = 0.6  # of the sides of a picture that a cut-out has at least


@dataclass
class Fitting:
    """How many rows fit into memory at a time: all of a batch until it turns out that they do not."""

    rows: int

    def call(self, act: Callable[[int], Result]) -> Result:
        """What `act(rows)` gives, which changes nothing before it has all that it calculates.

        Raises:
            ResourceError: one row is too many.
        """
        while True:
            try:
                return act(self.rows)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                problem = redact(str(error))
            free_memory()  # of which no traceback holds any more
            if self.rows == 1:
                raise ResourceError(
                    f"learning a prompt does not fit into memory, not even one picture at a time ({problem}); free "
                    "memory, or use a smaller geometry.area or another dtype"
                )
            self.rows = -(-self.rows // 2)
            logger.warning("learning does not fit into memory; from now on %d rows at a time: %s", self.rows, problem)


def views(
    images: Sequence[Tensor | Image.Image], random: np.random.Generator, *, flip: bool, crops: int
) -> list[Tensor | Image.Image]:
    """The images (3, H, W) or pictures, behind them cut-outs of each at its own size, behind these all mirrored."""
    found: list[Tensor | Image.Image] = [*images]
    for image in images:
        for _ in range(crops):
            share, left, top = random.uniform(LEAST_CUT, 1), random.random(), random.random()
            found.append(_cut(image, share, left, top))
    if flip:
        found += [one.flip(-1) if isinstance(one, Tensor) else ImageOps.mirror(one) for one in found]
    return found


def _cut(image: Tensor | Image.Image, share: float, left: float, top: float) -> Tensor | Image.Image:
    """A part with `share` of the sides; `left` and `top` in [0, 1] say where of the places that there are."""
    size = (image.shape[2], image.shape[1]) if isinstance(image, Tensor) else image.size
    width, height = (max(1, round(share * side)) for side in size)
    x, y = round(left * (size[0] - width)), round(top * (size[1] - height))
    if isinstance(image, Tensor):
        part = image[None, :, y : y + height, x : x + width]
        return torch.nn.functional.interpolate(part, size[::-1], mode="bilinear", antialias=True)[0]
    return image.resize(size, Image.Resampling.LANCZOS, box=(x, y, x + width, y + height))


def distinct(
    images: Tensor | Iterable[Image.Image], geometry: Geometry, canvas: Canvas, limit: int
) -> tuple[list[Tensor | Image.Image], list[str]]:
    """The first `limit` different images in the order of their digests, as the network sees them, and the digests."""
    by_digest: dict[str, Tensor | Image.Image]
    if isinstance(images, Tensor):
        by_digest = {sha256(row.contiguous().cpu().float().numpy().tobytes()): row.float() for row in images}
    else:
        seen = (frame_of(image.size, geometry, canvas).prepare(image) for image in map(to_rgb, images))
        by_digest = {pixels_sha256(image): image for image in seen}
    digests = sorted(by_digest)[:limit]
    if len(digests) < 2:
        raise PromptError(f"{len(digests)} different images to learn from; at least 2 are needed, better 100")
    return [by_digest[digest] for digest in digests], digests


def latents_of(backbone: Backbone, images: Sequence[Tensor | Image.Image], batch: int) -> list[Tensor]:
    """The latent (C, h, w) of each; images of one size are encoded together, `batch` at a time or as many as fit."""
    fitting = Fitting(batch)
    alike: dict[tuple[int, ...], list[int]] = {}
    for place, image in enumerate(images):
        alike.setdefault(tuple(image.shape[1:]) if isinstance(image, Tensor) else image.size[::-1], []).append(place)
    latents: dict[int, Tensor] = {}
    for size, places in alike.items():
        together = min(batch, max(1, _TOGETHER // math.prod(size)))
        encoded: list[Tensor] = []
        while left := places[len(encoded) :][:together]:
            encoded += fitting.call(partial(_encoded, backbone, [_pixels(images[place]) for place in left]))
        latents |= dict(zip(places, encoded, strict=True))
    return [latents[place] for place in range(len(images))]


def _encoded(backbone: Backbone, pixels: Sequence[Tensor], rows: int) -> Tensor:
    return backbone.encode(torch.stack([*pixels[:rows]]))


def _pixels(image: Tensor | Image.Image) -> Tensor:
    return image if isinstance(image, Tensor) else to_tensor([image])[0]
