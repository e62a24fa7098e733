"""A bench whose figures follow from the settings by a formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from PIL import Image

from lsb.bridge.method import Method
from lsb.bridge.settings import BridgeSettings
from lsb.errors import ModelError
from lsb.metrics.features import Features
from lsb.metrics.pixels import unit_pixels
from lsb.tuning.bench import PARTS, Figures

PICTURES = 16  # a part
NOTHING = Figures(0.0, 0.0, 30.0, 0.01, PARTS * PICTURES)


def figures(likeness: float, change: float, kid: float, error: float = 0.01) -> Figures:
    return Figures(likeness, change, kid, error, PARTS * PICTURES)


def by_formula(method: Method) -> Figures:
    """The step along what the prompts disagree about is 0.4 w tau long. It is best at 0.4 and a small tau."""
    assert isinstance(method, BridgeSettings)
    if method.tau > 0.6:
        raise ModelError("the network returned NaN", positions=[0])
    step = 0.4 * method.tau * method.guidance
    return figures(2 * step, 0.2 * step + 0.4 * method.tau, 30 * math.exp(-6 * step) + 40 * max(0.0, step - 0.4))


@dataclass
class StandIn:
    """In place of `lsb.tuning.bench.Bench`. `asked` are the settings that were tried, once for each part."""

    formula: Callable[[Method], Figures] = by_formula
    gap: float = 30.0
    blurs: list[tuple[float, Figures]] = field(default_factory=list)
    asked: list[Method] = field(default_factory=list)

    @property
    def nothing(self) -> Figures:
        return NOTHING

    @property
    def untouched(self) -> list[Figures]:
        return [NOTHING] * PARTS

    def blurred(self) -> list[tuple[float, Figures]]:
        return self.blurs

    def tried(self, method: Method) -> Iterator[Figures]:
        for _ in range(PARTS):
            self.asked.append(method)
            yield self.formula(method)


class Pixels:
    """A feature extractor that sees the pixels themselves, and takes no time."""

    id, digest, dimension = "pixels", "0" * 64, 3 * 16 * 16

    def __call__(self, images: Sequence[Image.Image]) -> Features:
        seen = unit_pixels(images, 16)
        return Features(seen.flatten(1).numpy(), seen)
