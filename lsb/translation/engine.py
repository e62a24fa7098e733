"""A batch of pictures of one size in, a batch of that size out; no files, no network.

Pictures in tiles go one by one, and the batches are of their tiles.

A picture's pixels depend on model, prompts, settings, seed and the picture itself. A batch has one fixed shape, the
last one of a size padded, and noise comes from the seed and the picture's digest, so neither order nor company changes
a bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from PIL import Image
from torch import Tensor

from lsb.bridge.method import Levels, Method
from lsb.bridge.noise import BatchNoise
from lsb.bridge.settings import BridgeSettings
from lsb.bridge.velocity import Domain, Predict
from lsb.errors import BridgeError, ModelError
from lsb.models.prompt import NULL, PUBLISHED_PREFIX, Prompt
from lsb.models.protocol import Backbone, Timed
from lsb.models.published import Published
from lsb.models.tiled import Tiled
from lsb.pictures.images import to_images, to_tensor
from lsb.pictures.tiles import Tiles

BOTH: tuple[Domain, Domain] = ("source", "target")


@dataclass(frozen=True)
class Engine:
    """Carries pictures of the size that the network works at from the source domain to the target domain.

    Args:
        backbone: the frozen model.
        source: prompt of the domain the pictures come from. With preset `published` it gets `PUBLISHED_PREFIX`,
            unless it has a prefix of its own.
        target: prompt of the domain they go to.
        settings: the method, whose noise levels are meant for the model's own area.
        seed: of the noise, as text.
        batch: pictures at a time; part of what fixes the last bits.
        sigma_scale: what noise levels are multiplied by, see `lsb.pictures.geometry.sigma_scale`.
        negative: the negative prompt of a method that asks it, by default the empty text.
        joint: ask the network under both prompts in one call of twice as many rows, where the method is LSB and the
            conditions are of one length. Of pictures in tiles it is asked once for each.

    Raises:
        BridgeError: tau, or sigma, is too large for the model's schedule, or the preset needs a schedule the model
            lacks.
        PromptError: a prompt does not fit the model's text encoder.
    """

    backbone: Backbone
    source: Prompt
    target: Prompt
    settings: Method
    seed: str
    batch: int
    sigma_scale: float = 1.0
    negative: Prompt = NULL
    joint: bool = False

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise BridgeError(f"batch is {self.batch}; it must be at least 1", field="batch")
        self.settings.refuse_beyond(self.backbone.sigma_max, self.sigma_scale)
        self._conditions  # noqa: B018  a prompt that does not fit must be known before any picture is read

    def translate(
        self,
        images: Sequence[Image.Image],
        digests: Sequence[str],
        *,
        batch: int | None = None,
        tiles: Tiles | None = None,
        alive: Callable[[], None] = lambda: None,
    ) -> list[Image.Image]:
        """Translate RGB pictures of one size, whose sides are multiples of the canvas's stride; results in their order.

        Args:
            digests: SHA-256 of each source file, from which its noise is made.
            batch: pictures, or tiles, at a time, by default the engine's own.
            tiles: of the pictures, if they are not given to the network as a whole.
            alive: called after each batch of tiles.

        Raises:
            ModelError: the network returned NaN; `positions` names the pictures.
        """
        size = batch or self.batch
        if tiles is not None:
            return [
                self._in_tiles(row, image, digest, Tiled(self.backbone, tiles, size, alive))
                for row, (image, digest) in enumerate(zip(images, digests, strict=True))
            ]
        results: list[Image.Image] = []
        for rows, pixels, names in _padded(images, digests, size):
            results += self._decode(self._carry(self._encode(pixels, names), names), rows)
        return results

    def latents(self, images: Sequence[Image.Image], digests: Sequence[str]) -> Tensor:
        """(N, C, h, w) of N pictures as `translate` takes them: what it begins with."""
        batches = _padded(images, digests, self.batch)
        return torch.cat([self._encode(pixels, names)[: len(rows)] for rows, pixels, names in batches])

    def translate_latents(self, latents: Tensor, digests: Sequence[str]) -> list[Image.Image]:
        """What `translate` makes of the pictures that these latents (N, C, h, w) were made of; errors likewise."""
        batches = self._carried(latents, digests)
        return [picture for rows, x_1 in batches for picture in self._decode(x_1, rows)]

    def carried(self, latents: Tensor, digests: Sequence[str]) -> Tensor:
        """(N, C, h, w): what `translate` ends in before it is a picture again."""
        return torch.cat([x_1[: len(rows)] for rows, x_1 in self._carried(latents, digests)])

    def _carried(self, latents: Tensor, digests: Sequence[str]) -> Iterator[tuple[range, Tensor]]:
        """Batches of one fixed shape: the places of what is no padding, and target latents."""
        for rows, places in _batches(len(latents), self.batch):
            yield rows, self._carry(latents[places], [digests[place] for place in places])

    def _encode(self, pixels: Tensor, digests: Sequence[str]) -> Tensor:
        """(B, C, h, w) of (B, 3, H, W) in [-1, 1]; `digests` one a row."""
        height, width = pixels.shape[2:]
        noise = BatchNoise(self.backbone.latent_shape(width, height), seed=self.seed, digests=digests)
        with torch.inference_mode(), _repeatable():
            return self.backbone.encode(pixels, noise("vae", 0) if self._published else None)

    def _carry(self, x_0: Tensor, digests: Sequence[str]) -> Tensor:
        """Target latents of source latents, both (B, C, h, w); `digests` one a row."""
        noise = BatchNoise(x_0.shape[1:], seed=self.seed, digests=digests)
        predict: Predict = _Joint(self) if self._takes_both else self._predict
        with torch.inference_mode(), _repeatable():
            return self._method.translate(x_0, predict, noise, self._levels)

    def _decode(self, x_1: Tensor, rows: range) -> list[Image.Image]:
        """The pictures of target latents (B, C, h, w), of which the first are those at `rows`, the rest padding.

        Raises:
            ModelError: the network returned NaN; `positions` names the pictures.
        """
        with torch.inference_mode(), _repeatable():
            translated = self.backbone.decode(x_1)[: len(rows)]
        broken = [row for row, values in zip(rows, translated, strict=True) if not bool(torch.isfinite(values).all())]
        if broken:
            raise self._not_finite(broken)
        return to_images(translated)

    def _in_tiles(self, row: int, image: Image.Image, digest: str, tiled: Tiled) -> Image.Image:
        """One picture; noise and state are those of its whole latent."""
        noise = BatchNoise(tiled.shape, seed=self.seed, digests=[digest])
        result, top = Image.new("RGB", image.size), 0
        with torch.inference_mode(), _repeatable():
            x_0 = tiled.encode(image, noise("vae", 0) if self._published else None)

            def predict(x_t: Tensor, sigma: float, domain: Domain, /) -> Tensor:
                return tiled.predict(x_t, partial(self._predict, sigma=sigma, domain=domain))

            for band in tiled.decode(self._method.translate(x_0, predict, noise, self._levels)):
                if not bool(torch.isfinite(band).all()):
                    raise self._not_finite([row])
                result.paste(to_images(band)[0], (0, top))
                top += band.shape[2]
        return result

    def _not_finite(self, positions: list[int]) -> ModelError:
        return ModelError(
            f"the network returned NaN for {len(positions)} images in {self.backbone.dtype}; "
            f"use another dtype, a smaller guidance or a smaller {self.settings.strength}",
            positions=positions,
        )

    def _predict(self, x_t: Tensor, sigma: float, domain: Domain) -> Tensor:
        return self._ask(x_t, sigma, self._conditions[domain])

    def _ask(self, x_t: Tensor, sigma: float, condition: Tensor) -> Tensor:
        return (self._published or self.backbone).predict(x_t, sigma, condition)

    @cached_property
    def _takes_both(self) -> bool:
        if not (self.joint and isinstance(self.settings, BridgeSettings)):
            return False
        return self._conditions["source"].shape == self._conditions["target"].shape

    @cached_property
    def _method(self) -> Method:
        return self.settings.scaled(self.sigma_scale)

    @cached_property
    def _levels(self) -> Levels:
        schedule = self.backbone.schedule if isinstance(self.backbone, Timed) else None
        return Levels(self.backbone.sigma_max, schedule)

    @cached_property
    def _published(self) -> Published | None:
        """The backbone as LSB's preset `published` asks it; None with all else."""
        asked_so = isinstance(self.settings, BridgeSettings) and self.settings.preset == "published"
        return Published(self.backbone) if asked_so else None

    @cached_property
    def _conditions(self) -> dict[Domain, Tensor]:
        source = self.source
        if self._published and not source.prefix:
            source = dataclasses.replace(source, prefix=PUBLISHED_PREFIX)
        prompts: dict[Domain, Prompt] = {"source": source, "target": self.target, "negative": self.negative}
        with torch.no_grad(), _repeatable():
            return {domain: self.backbone.embed(prompts[domain]) for domain in sorted(self.settings.asks)}


class _Joint:
    """The network of an engine, asked under both prompts in one call."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __call__(self, x_t: Tensor, sigma: float, domain: Domain, /) -> Tensor:
        return self._engine._predict(x_t, sigma, domain)

    def both(self, x_t: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        conditions = [self._engine._conditions[domain].expand(len(x_t), -1, -1) for domain in BOTH]
        eps_0, eps_1 = self._engine._ask(torch.cat([x_t, x_t]), sigma, torch.cat(conditions)).chunk(2)
        return eps_0, eps_1


def _batches(count: int, size: int) -> Iterator[tuple[range, list[int]]]:
    """Places in batches of one fixed shape: those that are new, and these again with the last one as padding."""
    for start in range(0, count, size):
        rows = range(start, min(start + size, count))
        yield rows, [*rows, *[rows[-1]] * (size - len(rows))]


def _padded(
    images: Sequence[Image.Image], digests: Sequence[str], size: int
) -> Iterator[tuple[range, Tensor, list[str]]]:
    """Such batches of pictures: their places, (B, 3, H, W) in [-1, 1], and digests one a row."""
    for rows, places in _batches(len(images), size):
        yield rows, to_tensor([images[place] for place in places]), [digests[place] for place in places]


@contextmanager
def _repeatable() -> Iterator[None]:
    """No choice of algorithm by timing; on the CPU without effect."""
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=torch.backends.cudnn.allow_tf32
    ):
        yield
