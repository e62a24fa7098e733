"""What is known of a sample before any prompt: how the model and the measures see it; worked out once and kept."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lsb.bridge.method import Method
from lsb.config.job import JobConfig
from lsb.metrics.features import FeatureExtractor
from lsb.metrics.likeness import Axis
from lsb.metrics.picture.structure_distance import structure_distance
from lsb.models.prompt import NULL, Prompt
from lsb.models.protocol import Backbone
from lsb.pictures.geometry import Frame, Size, frame_of, sigma_scale
from lsb.pictures.images import to_images, to_tensor
from lsb.progress import Progress
from lsb.records import digest_of
from lsb.translation.engine import Engine
from lsb.tuning.sample import Sample

NAME = "prepare"
_CHUNK = 16
_LEAST_FAR = 0.01  # where even another picture hardly differs in its layout


class Looks:
    """A sample's pictures in latents, through the autoencoder and as features; the way between their two looks.

    Args:
        config: the job; its geometry, without tiles, and its seed are those that settings are tried with.
        kept: a file that what the network has made is kept in; what it holds of anything else is made anew.

    Raises:
        UsageError: the two looks cannot be told apart.
    """

    def __init__(
        self,
        config: JobConfig,
        backbone: Backbone,
        extractor: FeatureExtractor,
        sample: Sample,
        progress: Progress,
        kept: Path | None = None,
    ) -> None:
        self.config, self.backbone, self.extractor, self.sample = config, backbone, extractor, sample
        self._geometry = config.geometry.as_seen
        self.frames: list[Frame] = [frame_of(p.size, self._geometry, backbone.canvas) for p in sample.sources]
        found = self._kept(kept) or self._made(progress, kept)
        count = range(len(sample.sources))
        self.latents: list[Tensor] = [found[f"latent.{place}"] for place in count]
        decoded = [Image.fromarray(found[f"decoded.{place}"].numpy()) for place in count]
        self.softened = [frame.finish(picture) for frame, picture in zip(self.frames, decoded, strict=True)]
        own, soft = extractor(sample.sources), extractor(self.softened)
        self.target_vae = found["targets"].numpy()
        self.axis = Axis.between(soft.pooled, self.target_vae)
        self.own_places = self.axis.places(soft.pooled)
        self.maps = own.maps
        self.own_change = structure_distance(own.maps, soft.maps).numpy()
        far = structure_distance(own.maps, own.maps.roll(1, 0)).numpy() - self.own_change
        self.far = max(float(far.mean()), _LEAST_FAR)
        self.targets = torch.from_numpy(extractor(sample.targets).pooled)

    def engine(self, prompts: tuple[Prompt, Prompt], method: Method) -> Engine:
        """What translates the sample."""
        scale = sigma_scale(self._geometry, self.backbone.canvas)
        negative = Prompt(self.config.prompts.negative) if self.config.prompts.negative else NULL
        return Engine(
            self.backbone,
            *prompts,
            method,
            self.config.seed,
            self.config.execution.batch,
            scale,
            negative,
        )

    def _made(self, progress: Progress, file: Path | None) -> dict[str, Tensor]:
        sample = self.sample
        progress.start(NAME, len(sample.sources) + len(sample.targets))
        found: dict[str, Tensor] = {}
        engine = self.engine((NULL, NULL), self.config.method_settings)
        for group in _alike(self.frames):
            pictures = [self.frames[place].prepare(sample.sources[place]) for place in group]
            latents = engine.latents(pictures, [sample.digests[place] for place in group])
            for place, latent, decoded in zip(group, latents, self._through(pictures), strict=True):
                found[f"latent.{place}"] = latent.clone()
                found[f"decoded.{place}"] = torch.from_numpy(np.array(decoded))
                progress.advance(NAME)
        frames = [frame_of(p.size, self._geometry, self.backbone.canvas) for p in sample.targets]
        softened: dict[int, Image.Image] = {}
        for group in _alike(frames):
            pictures = [frames[place].prepare(sample.targets[place]) for place in group]
            for place, decoded in zip(group, self._through(pictures), strict=True):
                softened[place] = frames[place].finish(decoded)
                progress.advance(NAME)
        pooled = self.extractor([softened[place] for place in range(len(frames))]).pooled
        found["targets"] = torch.from_numpy(np.ascontiguousarray(pooled))
        progress.finish(NAME)
        self._keep(found, file)
        return found

    def _through(self, pictures: Sequence[Image.Image]) -> list[Image.Image]:
        """Pictures of one size that the network works at, encoded and decoded."""
        with torch.no_grad():
            return to_images(self.backbone.decode(self.backbone.encode(to_tensor(pictures))))

    @property
    def _key(self) -> str:
        """Of all that the network's answers depend on, the last bits included."""
        return digest_of(
            {
                "model": self.backbone.identity.digest,
                "extractor": self.extractor.digest,
                "sample": self.sample.id,
                "geometry": self._geometry.trace,
                "seed": self.config.seed,
                "preset": getattr(self.config.method_settings, "preset", None),
                "device": [self.backbone.device, self.backbone.dtype, self.config.execution.batch, torch.__version__],
            }
        )

    def _kept(self, file: Path | None) -> dict[str, Tensor] | None:
        if file is None or not file.exists():
            return None
        with suppress(OSError, SafetensorError, ValueError):
            found = load_file(file)
            key = found.pop("key", None)
            if key is not None and bytes(key.tolist()).hex() == self._key:
                return found
        return None

    def _keep(self, found: dict[str, Tensor], file: Path | None) -> None:
        if file is None:
            return
        part = file.with_name(f".{file.name}.part")
        key = torch.tensor(list(bytes.fromhex(self._key)), dtype=torch.uint8)
        with suppress(OSError):  # a disk that is full costs time when the search goes on, no more
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({**found, "key": key}, part)
            os.replace(part, file)
        part.unlink(missing_ok=True)


def _alike(frames: Sequence[Frame]) -> Iterator[list[int]]:
    """The places of pictures of one working size, a few at a time."""
    sizes: dict[Size, list[int]] = {}
    for place, frame in enumerate(frames):
        sizes.setdefault(frame.working, []).append(place)
    for places in sizes.values():
        for start in range(0, len(places), _CHUNK):
            yield places[start : start + _CHUNK]
