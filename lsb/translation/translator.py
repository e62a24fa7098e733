"""A batch of images in, a batch of images out; no files, no network.

An image's pixels depend on model, prompts, settings, seed and the image itself. The batch has one fixed shape, the
last one padded, and noise comes from the seed and the image's digest, so neither order nor company changes a bit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import torch
from PIL import Image
from torch import Tensor

from lsb.bridge.noise import BatchNoise
from lsb.bridge.settings import BridgeSettings
from lsb.bridge.solve import forwards, translate_latents
from lsb.bridge.velocity import Domain
from lsb.errors import BridgeError, ModelError
from lsb.models.prompt import Prompt
from lsb.models.protocol import Backbone
from lsb.models.published import Published
from lsb.pictures.images import from_square, pixels_sha256, to_images, to_rgb, to_square, to_tensor

PUBLISHED_PREFIX = "ugly, blurry, black, low res, unrealistic, "


@dataclass(frozen=True)
class Translator:
    """Carries images of the source domain to the target domain.

    Args:
        backbone: the frozen model.
        source: prompt of the domain the images come from. With preset `published` it gets `PUBLISHED_PREFIX`,
            unless it has a prefix of its own.
        target: prompt of the domain they go to.
        settings: the path between them.
        seed: of the noise, as text.
        batch: images at a time; part of what fixes the last bits.

    Raises:
        BridgeError: tau is too large for the model's schedule, or the preset needs a schedule the model lacks.
        PromptError: a prompt does not fit the model's text encoder.
    """

    backbone: Backbone
    source: Prompt
    target: Prompt
    settings: BridgeSettings = BridgeSettings()  # noqa: RUF009  frozen
    seed: str = "0"
    batch: int = 8

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise BridgeError(f"batch is {self.batch}; it must be at least 1", field="batch")
        t_widest = max(self.settings.t0, 0.5)
        widest = self.settings.tau * math.sqrt(t_widest * (1 - t_widest))
        if widest > self.backbone.sigma_max:
            largest = 2 * self.backbone.sigma_max
            raise BridgeError(
                f"tau {self.settings.tau} is too large for this model's noise schedule; the largest is {largest:.6g}",
                field="tau",
                tau_max=largest,
            )
        self._conditions  # noqa: B018  a prompt that does not fit must be known before any image is read

    @property
    def forwards_per_image(self) -> int:
        """Network forwards an image costs."""
        return forwards(self.settings)

    @overload
    def translate(
        self, images: Image.Image, digests: str | None = None, *, batch: int | None = None
    ) -> Image.Image: ...

    @overload
    def translate(
        self, images: Sequence[Image.Image], digests: Sequence[str] | None = None, *, batch: int | None = None
    ) -> list[Image.Image]: ...

    def translate(
        self,
        images: Image.Image | Sequence[Image.Image],
        digests: str | Sequence[str] | None = None,
        *,
        batch: int | None = None,
    ) -> Image.Image | list[Image.Image]:
        """Translate images of any sizes; results in the same order, or one for one.

        Args:
            images: as `lsb.decode` gives them, or as Pillow opens files: turned upright, on white ground and converted
                to sRGB exactly as `lsb.decode` does it.
            digests: SHA-256 of each source file, from which its noise is made; by default of its pixels.
            batch: images at a time, by default the translator's own.

        Returns:
            RGB images in the sources' aspects, the longer side as long as the model's images.

        Raises:
            ModelError: the network returned NaN; `positions` names the images.
            ImageError: an image that Pillow has opened cannot be used; `code` says why.
        """
        if isinstance(images, Image.Image):
            return self.translate([images], None if digests is None else [str(digests)], batch=batch)[0]
        images = [to_rgb(image) for image in images]
        if digests is None:
            digests = [pixels_sha256(image) for image in images]
        if len(digests) != len(images):
            raise ValueError(f"{len(images)} images but {len(digests)} digests; give one for each image")
        size = batch or self.batch
        results: list[Image.Image] = []
        for start in range(0, len(images), size):
            group = [to_square(image, self.backbone.image_size) for image in images[start : start + size]]
            padding = size - len(group)
            names = list(digests[start : start + size])
            pixels = to_tensor([square for square, _ in group] + [group[-1][0]] * padding)
            translated = self._batch(pixels, names + names[-1:] * padding)[: len(group)]
            broken = [start + row for row, values in enumerate(translated) if not bool(torch.isfinite(values).all())]
            if broken:
                raise ModelError(
                    f"the network returned NaN for {len(broken)} images in {self.backbone.dtype}; "
                    "use another dtype, a smaller guidance or a smaller tau",
                    positions=broken,
                )
            squares = to_images(translated)
            results += [from_square(square, box) for square, (_, box) in zip(squares, group, strict=True)]
        return results

    def _batch(self, pixels: Tensor, digests: Sequence[str]) -> Tensor:
        """(B, 3, S, S) in [-1, 1] to the same; `digests` one a row."""
        noise = BatchNoise(self.backbone.latent_shape(), seed=self.seed, digests=digests)
        with torch.inference_mode(), _repeatable():
            x_0 = self.backbone.encode(pixels, noise("vae", 0) if self._published else None)
            schedule = self._published.schedule if self._published else None
            x_1 = translate_latents(x_0, self._predict, self.settings, noise, schedule)
            return self.backbone.decode(x_1)

    def _predict(self, x_t: Tensor, sigma: float, domain: Domain, /) -> Tensor:
        return (self._published or self.backbone).predict(x_t, sigma, self._conditions[domain])

    @cached_property
    def _published(self) -> Published | None:
        """The backbone as preset `published` asks it; None with another preset."""
        return Published(self.backbone) if self.settings.preset == "published" else None

    @cached_property
    def _conditions(self) -> dict[Domain, Tensor]:
        source = self.source
        if self._published and not source.prefix:
            source = dataclasses.replace(source, prefix=PUBLISHED_PREFIX)
        with torch.no_grad(), _repeatable():
            return {"source": self.backbone.embed(source), "target": self.backbone.embed(self.target)}


@contextmanager
def _repeatable() -> Iterator[None]:
    """No choice of algorithm by timing; on the CPU without effect."""
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=torch.backends.cudnn.allow_tf32
    ):
        yield
