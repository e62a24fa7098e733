"""What a method's settings come to on a sample of pictures; all that does not depend on them is worked out once.

likeness   mean place of the outputs between the two looks, see `lsb.metrics.likeness`; 0 source, 1 target
change     mean structure distance to the source beyond that of the autoencoder alone, as a share of what it is to
           another picture: 0 if the layout stays, 1 if nothing of it is left
kid        KID × 1000 against the target's pictures, over all pairs
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from lsb.bridge.method import Method
from lsb.config.job import JobConfig
from lsb.metrics.comparison import through_vae
from lsb.metrics.distances import kernel_distance
from lsb.metrics.features import FeatureExtractor
from lsb.metrics.likeness import Axis
from lsb.metrics.picture.structure_distance import structure_distance
from lsb.models.prompt import NULL, Prompt
from lsb.models.protocol import Backbone
from lsb.pictures.geometry import Frame, Size, frame_of, sigma_scale
from lsb.progress import Progress
from lsb.translation.engine import Engine
from lsb.tuning.sample import Sample

PARTS = 3  # of the sample, after each of which a setting may be given up
BLURS = (0.01, 0.02)  # standard deviations, as shares of a picture's longer side
NAME = "prepare"
_CHUNK = 16
_LEAST_FAR = 0.01  # where even another picture hardly differs in its layout


@dataclass(frozen=True)
class Figures:
    """Of some pictures. `error` is the standard error of likeness minus change, picture by picture."""

    likeness: float
    change: float
    kid: float
    error: float
    pictures: int

    @property
    def gain(self) -> float:
        """What is won in likeness less what is lost of the layout; more likeness than the target's own wins nothing."""
        return min(self.likeness, 1.0) - self.change


@dataclass
class Seen:
    """Outputs, picture by picture: places relative to the source's own, changes, features."""

    places: list[float] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)
    features: list[np.ndarray] = field(default_factory=list)


class Bench:
    """Sample, latents, features and prompts at hand.

    Args:
        config: the job; its geometry, without tiles, and its seed are those that settings are tried with.
        prompts: the source's and the target's.

    Raises:
        SourceError: the two looks cannot be told apart.
    """

    def __init__(
        self,
        config: JobConfig,
        backbone: Backbone,
        extractor: FeatureExtractor,
        prompts: tuple[Prompt, Prompt],
        sample: Sample,
        progress: Progress,
    ) -> None:
        self.config, self.backbone, self.extractor = config, backbone, extractor
        self.prompts, self.sample, self._progress = prompts, sample, progress
        self._geometry = config.geometry.as_seen
        self._frames: list[Frame] = [frame_of(p.size, self._geometry, backbone.canvas) for p in sample.sources]
        progress.start(NAME, 2 * len(sample.sources) + len(sample.targets))
        self.softened = [*self._softened(sample.sources)]
        target_vae = extractor([*self._softened(sample.targets)]).pooled
        own, soft = extractor(sample.sources), extractor(self.softened)
        self._maps = own.maps
        self._own_change = structure_distance(own.maps, soft.maps).numpy()
        far = structure_distance(own.maps, own.maps.roll(1, 0)).numpy() - self._own_change
        self._far = max(float(far.mean()), _LEAST_FAR)
        self._axis = Axis.between(soft.pooled, target_vae)
        self._own_places = self._axis.places(soft.pooled)
        self._targets = torch.from_numpy(extractor(sample.targets).pooled)
        self._latents = self._encoded()
        progress.finish(NAME)
        self.untouched = [*self._seen(lambda part: [self.softened[place] for place in part])]
        self.gap = self.nothing.kid - self._kid(target_vae)

    @property
    def nothing(self) -> Figures:
        """Of the sources that only the autoencoder has touched; `untouched` has them after each part."""
        return self.untouched[-1]

    @property
    def parts(self) -> list[range]:
        """The places of the sample's pictures, in parts."""
        count = len(self.sample.sources)
        ends = [round(count * part / PARTS) for part in range(PARTS + 1)]
        return [range(first, last) for first, last in pairwise(ends)]

    def blurred(self) -> list[tuple[float, Figures]]:
        """What blurring the sources comes to, by how much: a measure that it wins says nothing of a translation."""
        return [(share, [*self._seen(partial(self._blurred, share))][-1]) for share in BLURS]

    def _blurred(self, share: float, places: range) -> list[Image.Image]:
        pictures = [self.sample.sources[place] for place in places]
        return [picture.filter(ImageFilter.GaussianBlur(share * max(picture.size))) for picture in pictures]

    def outputs(self, method: Method, places: Sequence[int]) -> list[Image.Image]:
        """The translations of the sample's pictures at these places, of their own sizes.

        Raises:
            BridgeError: the method is beyond the model's schedule.
            ModelError: the network returned NaN.
        """
        engine = self._engine(method)
        alike: dict[Size, list[int]] = {}
        for place in places:
            alike.setdefault(self._frames[place].working, []).append(place)
        made: dict[int, Image.Image] = {}
        for group in alike.values():
            latents = torch.stack([self._latents[place] for place in group])
            pictures = engine.translate_latents(latents, [self.sample.digests[place] for place in group])
            made |= {place: self._frames[place].finish(p) for place, p in zip(group, pictures, strict=True)}
        return [made[place] for place in places]

    def tried(self, method: Method) -> Iterator[Figures]:
        """The figures of settings after each part of the sample; errors as for `outputs`."""
        return self._seen(lambda part: self.outputs(method, part))

    def carried(self, method: Method, count: int) -> Tensor:
        """The latents (N, C, h, w) that the first pictures of the first's size end in, `count` at most."""
        size = self._frames[0].working
        places = [place for place, frame in enumerate(self._frames) if frame.working == size][:count]
        latents = torch.stack([self._latents[place] for place in places])
        return self._engine(method).carried(latents, [self.sample.digests[place] for place in places])

    def _engine(self, method: Method) -> Engine:
        scale = sigma_scale(self._geometry, self.backbone.canvas)
        negative = Prompt(self.config.prompts.negative) if self.config.prompts.negative else NULL
        return Engine(
            self.backbone, *self.prompts, method, self.config.seed, self.config.execution.batch, scale, negative
        )

    def _encoded(self) -> list[Tensor]:
        """Latents (C, h, w) of all sources, those of one size encoded together."""
        engine = self._engine(self.config.method_settings)
        latents: dict[int, Tensor] = {}
        for size in dict.fromkeys(frame.working for frame in self._frames):
            group = [place for place, frame in enumerate(self._frames) if frame.working == size]
            prepared = [self._frames[place].prepare(self.sample.sources[place]) for place in group]
            found = engine.latents(prepared, [self.sample.digests[place] for place in group])
            latents |= dict(zip(group, found, strict=True))
            self._progress.advance(NAME, len(group))
        return [latents[place] for place in range(len(self._frames))]

    def _seen(self, pictures: Callable[[range], Sequence[Image.Image]]) -> Iterator[Figures]:
        """Figures after each part of the sample, of the pictures that are asked for it."""
        seen = Seen()
        for part in self.parts:
            self._look(pictures(part), part, seen)
            yield self._figures(seen)

    def _look(self, pictures: Sequence[Image.Image], places: range, seen: Seen) -> None:
        found, rows = self.extractor(pictures), slice(places.start, places.stop)
        seen.places += (self._axis.places(found.pooled) - self._own_places[rows]).tolist()
        change = structure_distance(self._maps[rows], found.maps).numpy() - self._own_change[rows]
        seen.changes += (change / self._far).tolist()
        seen.features += list(found.pooled)

    def _figures(self, seen: Seen) -> Figures:
        places, changes = np.array(seen.places), np.array(seen.changes)
        error = float((places - changes).std(ddof=1) / math.sqrt(len(places)))
        kid = self._kid(np.stack(seen.features))
        return Figures(float(places.mean()), float(changes.mean()), kid, error, len(places))

    def _kid(self, features: np.ndarray) -> float:
        found = kernel_distance(torch.from_numpy(features), self._targets, resamples=2).value
        assert found is not None
        return found

    def _softened(self, pictures: Sequence[Image.Image]) -> Iterator[Image.Image]:
        for start in range(0, len(pictures), _CHUNK):
            some = pictures[start : start + _CHUNK]
            yield from through_vae(some, self.backbone, self._geometry)
            self._progress.advance(NAME, len(some))
