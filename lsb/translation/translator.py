"""Images of any sizes in, their translations out; no files, no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

from PIL import Image

from lsb.bridge.method import Method
from lsb.bridge.settings import BridgeSettings
from lsb.errors import BridgeError, ModelError
from lsb.models.prompt import NULL, Prompt
from lsb.models.protocol import Backbone
from lsb.pictures.geometry import Frame, Geometry, Size, frame_of, sigma_scale
from lsb.pictures.images import pixels_sha256, to_rgb
from lsb.pictures.tiles import Tiles
from lsb.progress import NoProgress, Progress
from lsb.translation.engine import Engine

NAME = "translate"


@dataclass(frozen=True)
class Translator:
    """Carries images of the source domain to the target domain.

    Args:
        backbone: the frozen model.
        source: prompt of the domain the images come from. With preset `published` it gets a prefix, unless it has one
            of its own.
        target: prompt of the domain they go to.
        settings: the method: `BridgeSettings`, or those of another one of `lsb.bridge.methods`.
        seed: of the noise, as text.
        batch: images at a time; part of what fixes the last bits.
        geometry: at which size images are translated and come out.
        negative: the negative prompt of a method that asks it, by default the empty text.

    Raises:
        BridgeError: tau, or sigma, is too large for the model's schedule, or the preset needs a schedule that it lacks.
        PromptError: a prompt does not fit the model's text encoder.
    """

    backbone: Backbone
    source: Prompt
    target: Prompt
    settings: Method = BridgeSettings()  # noqa: RUF009  frozen
    seed: str = "0"
    batch: int = 8
    geometry: Geometry = Geometry()  # noqa: RUF009  frozen
    negative: Prompt = NULL

    def __post_init__(self) -> None:
        self._engine  # noqa: B018  what does not fit must be known before any image is read

    @property
    def forwards_per_image(self) -> int:
        """Network forwards an image costs, or a tile of one."""
        return self.settings.forwards

    @overload
    def translate(
        self,
        images: Image.Image,
        digests: str | None = None,
        *,
        batch: int | None = None,
        progress: Progress = ...,
    ) -> Image.Image: ...

    @overload
    def translate(
        self,
        images: Sequence[Image.Image],
        digests: Sequence[str] | None = None,
        *,
        batch: int | None = None,
        progress: Progress = ...,
    ) -> list[Image.Image]: ...

    def translate(
        self,
        images: Image.Image | Sequence[Image.Image],
        digests: str | Sequence[str] | None = None,
        *,
        batch: int | None = None,
        progress: Progress = NoProgress(),
    ) -> Image.Image | list[Image.Image]:
        """Translate images of any sizes; results in the same order, or one for one.

        Args:
            images: as `lsb.decode` gives them, or as Pillow opens files: turned upright, on white ground and converted
                to sRGB exactly as `lsb.decode` does it.
            digests: SHA-256 of each source file, from which its noise is made; by default of its pixels.
            batch: images at a time, by default the translator's own.
            progress: told of one bar, `translate`, which each batch advances by its images.

        Returns:
            RGB images of the sources' sizes, or as `geometry` says.

        Raises:
            ModelError: the network returned NaN; `positions` names the images.
            ImageError: an image that Pillow has opened cannot be used; `code` says why.
        """
        if isinstance(images, Image.Image):
            named = None if digests is None else [str(digests)]
            return self.translate([images], named, batch=batch, progress=progress)[0]
        images = [to_rgb(image) for image in images]
        if digests is None:
            digests = [pixels_sha256(image) for image in images]
        if len(digests) != len(images):
            raise ValueError(f"{len(images)} images but {len(digests)} digests; give one for each image")
        frames = [frame_of(image.size, self.geometry, self.backbone.canvas) for image in images]
        alike: dict[tuple[Size, Tiles | None], list[int]] = {}
        for place, frame in enumerate(frames):
            alike.setdefault((frame.working, frame.tiles), []).append(place)
        results, size = list(images), self.batch if batch is None else batch
        if size < 1:
            raise BridgeError(f"batch is {size}; it must be at least 1", field="batch")
        progress.start(NAME, len(images))
        for places in alike.values():
            for start in range(0, len(places), size):
                some = places[start : start + size]
                for place, made in zip(some, self._alike(some, images, frames, digests, batch), strict=True):
                    results[place] = frames[place].finish(made)
                progress.advance(NAME, len(some))
        progress.finish(NAME)
        return results

    def _alike(
        self,
        places: Sequence[int],
        images: Sequence[Image.Image],
        frames: Sequence[Frame],
        digests: Sequence[str],
        batch: int | None,
    ) -> list[Image.Image]:
        """A batch of images that are translated at one size, as the network gives them."""
        prepared = [frames[place].prepare(images[place]) for place in places]
        try:
            named = [digests[place] for place in places]
            return self._engine.translate(prepared, named, batch=batch, tiles=frames[places[0]].tiles)
        except ModelError as error:
            if "positions" not in error.details:
                raise
            raise type(error)(error.message, positions=[places[row] for row in error.positions]) from error

    @cached_property
    def _engine(self) -> Engine:
        scale = sigma_scale(self.geometry, self.backbone.canvas)
        return Engine(
            self.backbone, self.source, self.target, self.settings, self.seed, self.batch, scale, self.negative
        )
