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
from lsb.metrics.distances import kernel_distance
from lsb.metrics.picture.structure_distance import structure_distance
from lsb.models.prompt import Prompt
from lsb.pictures.geometry import Size
from lsb.tuning.looks import Looks

PARTS = 3  # of the sample, after each of which a setting may be given up
BLURS = (0.01, 0.02)  # standard deviations, as shares of a picture's longer side


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
    """Looks and prompts at hand.

    Args:
        prompts: the source's and the target's.
    """

    def __init__(self, looks: Looks, prompts: tuple[Prompt, Prompt]) -> None:
        self.looks, self.prompts, self.sample = looks, prompts, looks.sample
        self.untouched = [*self._seen(lambda part: [looks.softened[place] for place in part])]
        self.gap = self.nothing.kid - self._kid(looks.target_vae)

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
        engine = self.looks.engine(self.prompts, method)
        alike: dict[Size, list[int]] = {}
        for place in places:
            alike.setdefault(self.looks.frames[place].working, []).append(place)
        made: dict[int, Image.Image] = {}
        for group in alike.values():
            latents = torch.stack([self.looks.latents[place] for place in group])
            pictures = engine.translate_latents(latents, [self.sample.digests[place] for place in group])
            made |= {place: self.looks.frames[place].finish(p) for place, p in zip(group, pictures, strict=True)}
        return [made[place] for place in places]

    def tried(self, method: Method) -> Iterator[Figures]:
        """The figures of settings after each part of the sample; errors as for `outputs`."""
        return self._seen(lambda part: self.outputs(method, part))

    def carried(self, method: Method, count: int) -> Tensor:
        """The latents (N, C, h, w) that the first pictures of the first's size end in, `count` at most."""
        size = self.looks.frames[0].working
        places = [place for place, frame in enumerate(self.looks.frames) if frame.working == size][:count]
        latents = torch.stack([self.looks.latents[place] for place in places])
        return self.looks.engine(self.prompts, method).carried(
            latents, [self.sample.digests[place] for place in places]
        )

    def _seen(self, pictures: Callable[[range], Sequence[Image.Image]]) -> Iterator[Figures]:
        """Figures after each part of the sample, of the pictures that are asked for it."""
        seen = Seen()
        for part in self.parts:
            self._look(pictures(part), part, seen)
            yield self._figures(seen)

    def _look(self, pictures: Sequence[Image.Image], places: range, seen: Seen) -> None:
        looks, rows = self.looks, slice(places.start, places.stop)
        found = looks.extractor(pictures)
        seen.places += (looks.axis.places(found.pooled) - looks.own_places[rows]).tolist()
        change = structure_distance(looks.maps[rows], found.maps).numpy() - looks.own_change[rows]
        seen.changes += (change / looks.far).tolist()
        seen.features += list(found.pooled)

    def _figures(self, seen: Seen) -> Figures:
        places, changes = np.array(seen.places), np.array(seen.changes)
        error = float((places - changes).std(ddof=1) / math.sqrt(len(places)))
        kid = self._kid(np.stack(seen.features))
        return Figures(float(places.mean()), float(changes.mean()), kid, error, len(places))

    def _kid(self, features: np.ndarray) -> float:
        found = kernel_distance(torch.from_numpy(features), self.looks.targets, resamples=2).value
        assert found is not None
        return found
