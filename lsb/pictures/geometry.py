"""At which size a picture is translated, and at which it comes out.

    picture ─ Frame.prepare ─> working picture ─ network ─> working picture ─ Frame.finish ─> output

The network works at the picture's own aspect and at about the area that it was trained for; the output has the size of
the source. A frame follows from the picture's size, the model's canvas and the settings alone, in whole numbers, so
that it is the same on every machine. Resampling maps the whole extent of one picture onto that of the other (pixels are
areas, their centres lie at half numbers), so that nothing is shifted or zoomed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt, sqrt
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import BeforeValidator, Field, model_validator

from lsb.fields import Frozen
from lsb.pictures.images import LETTERBOX_RULES, RULES, centred, letterboxed_size
from lsb.pictures.tiles import Tiles, tiles_of

Size = tuple[int, int]  # width and height in pixels

_SMALLEST_AREA, _LARGEST_AREA = 1024, 100_000_000
_LARGE = 2  # times the model's own area, from which on a picture can be translated in tiles


def _area(value: Any) -> Any:
    if value == "native":
        return value
    try:
        pixels = int(str(value))
    except ValueError:
        pixels = 0
    if not _SMALLEST_AREA <= pixels <= _LARGEST_AREA:
        raise ValueError(f"must be native, or pixels within [{_SMALLEST_AREA}, {_LARGEST_AREA}], got {value}")
    return pixels


class Geometry(Frozen):
    """At which size pictures are translated and come out. Part of the transform id, but for what `letterbox` needs."""

    fit: Literal["aspect", "letterbox"] = Field(
        default="aspect",
        description="`aspect`: the network works at the picture's own aspect, and the output has the source's width "
        "and height. `letterbox`: in a white square of the model's size, and the output's longer side is the square's.",
    )
    area: Annotated[
        Literal["native"] | Annotated[int, Field(ge=_SMALLEST_AREA, le=_LARGEST_AREA)], BeforeValidator(_area)
    ] = Field(
        default="native",
        description="Pixels at which the network works, about: as many as the model was trained with (`native`), or a "
        "number. With a number all sigmas are multiplied by the square root of its share of the model's own. With "
        "`large: tile` the number is the most that a picture in tiles has, and the sigmas stay.",
    )
    output: Literal["source", "model"] = Field(
        default="source",
        description="`source`: as many pixels as the source has. `model`: as many as the network worked at.",
    )
    max_scale: float | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Factor by which the network's picture is enlarged at most. What would need more comes out "
        "smaller than its source, and its row says so.",
    )

    large: Literal["fit", "tile"] = Field(
        default="fit",
        description="Of pictures of more than twice the model's own area. `fit`: they are reduced like all others. "
        "`tile`: they are translated at their own size, in overlapping tiles of the model's.",
    )

    @model_validator(mode="after")
    def _letterbox_has_no_more(self) -> Geometry:
        if self.fit == "letterbox":
            for name in ("area", "output", "max_scale", "large"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} is for fit: aspect; leave it out with letterbox")
        return self

    @property
    def as_seen(self) -> Geometry:
        """What decides how the network sees a whole picture, as prompts are learned from, the rest at its default."""
        return Geometry(fit=self.fit, area=self.area if self.large == "fit" else "native")

    @property
    def decoding_rules(self) -> int:
        """Of `lsb.pictures.images.decode`: letterboxed runs keep the pixels of their time."""
        return LETTERBOX_RULES if self.fit == "letterbox" else RULES

    @property
    def trace(self) -> dict[str, Any] | None:
        """What stands in a transform: nothing for `letterbox`, which was all there was once; else `fit`, and what is
        not at its default."""
        if self.fit == "letterbox":
            return None
        return {"fit": self.fit, **self.model_dump(mode="json", exclude_defaults=True)}

    @classmethod
    def of_transform(cls, transform: Mapping[str, Any]) -> Geometry:
        """The geometry that a transform names."""
        return cls.model_validate(transform.get("geometry", {"fit": "letterbox"}))


@dataclass(frozen=True)
class Canvas:
    """What a model draws on.

    Attributes:
        side: of the square pictures that it was trained with, in pixels.
        stride: what the sides of its pictures must be multiples of, in pixels: the autoencoder's factor times the
            network's own.
    """

    side: int
    stride: int


@dataclass(frozen=True)
class Frame:
    """The sizes that one picture goes through, all (width, height) in pixels.

    Attributes:
        source: of the picture as it is read: upright, and smaller than its file says if it was read reduced.
        content: of the picture that the network sees.
        offset: where it lies in `working`.
        working: of what the network is given: `content` and what is around it.
        output: of what comes out.
        ground: what is around it: its mirrored edge, or white.
        limited: whether `max_scale` keeps the output smaller than the source.
        tiles: of `working`; None if the network is given all of it at once.
    """

    source: Size
    content: Size
    working: Size
    output: Size
    offset: Size = (0, 0)
    ground: Literal["mirror", "white"] = "mirror"
    limited: bool = False
    tiles: Tiles | None = None

    @property
    def scale(self) -> float:
        """By what the network's picture is enlarged; below 1 if it is reduced."""
        return max(self.output) / max(self.content)

    def prepare(self, image: Image.Image) -> Image.Image:
        """The RGB picture of size `source` as one of size `working` (Lanczos)."""
        content = image if image.size == self.content else image.resize(self.content, Image.Resampling.LANCZOS)
        if self.content == self.working:
            return content
        if self.ground == "white":
            return centred(content, self.working[0])[0]
        right, bottom = self.working[0] - self.content[0], self.working[1] - self.content[1]
        pixels = np.pad(np.asarray(content), ((0, bottom), (0, right), (0, 0)), mode="symmetric")
        return Image.fromarray(pixels)

    def cut(self, working: Image.Image) -> Image.Image:
        """A picture of size `working` without what `prepare` has added, of size `content`."""
        left, top = self.offset
        return working.crop((left, top, left + self.content[0], top + self.content[1]))

    def finish(self, working: Image.Image) -> Image.Image:
        """A picture of size `working` without what `prepare` has added, at the size `output` (bicubic)."""
        content = self.cut(working)
        return content if self.output == self.content else content.resize(self.output, Image.Resampling.BICUBIC)


def frame_of(size: Size, geometry: Geometry, canvas: Canvas) -> Frame:
    """The frame of an upright picture of that size.

    With `aspect`, one side of the content is a multiple of the stride, the other what the aspect makes of it, rounded
    to a pixel and filled up with at most stride − 1 mirrored ones. Of the multiples next to the wanted area the one is
    taken whose content is nearest to it and fills most of what the network is given. A picture so long that its shorter
    side would have no whole stride is as long as a strip of one stride may be.

    A picture in tiles keeps its size, and either side is filled up; where `area` is less, it has that area.
    """
    if geometry.fit == "letterbox":
        content, side = letterboxed_size(size, canvas.side), canvas.side
        offset = (side - content[0]) // 2, (side - content[1]) // 2
        return Frame(size, content, (side, side), content, offset, "white")
    area, tiles = _area_in_tiles(size, geometry, canvas), None
    if area is None:
        content, working = _fitted(size, _pixels(geometry, canvas), canvas.stride)
    else:
        content, working = _fitted(size, area, canvas.stride) if area < size[0] * size[1] else _filled(size, canvas)
        tiles = tiles_of(working, canvas.side, canvas.stride)
    if geometry.output == "model":
        return Frame(size, content, working, content, tiles=tiles)
    most = None if geometry.max_scale is None else geometry.max_scale * max(content)
    if most is None or max(size) <= most:
        return Frame(size, content, working, size, tiles=tiles)
    output = tuple(max(1, int(side * most / max(size) + 0.5)) for side in size)
    return Frame(size, content, working, (output[0], output[1]), limited=True, tiles=tiles)


def sigma_scale(geometry: Geometry, canvas: Canvas) -> float:
    """What all sigmas, and so tau, are multiplied by: the square root of the area's share of the model's own.

    A picture of more pixels shows the same thing with less detail a pixel, so that the same noise hides less of it.
    A tile has the model's own.
    """
    own = geometry.area == "native" or geometry.large == "tile"
    return 1.0 if own else sqrt(_pixels(geometry, canvas)) / canvas.side


def _pixels(geometry: Geometry, canvas: Canvas) -> int:
    """About as many as the network is given at once."""
    return canvas.side**2 if geometry.area == "native" or geometry.large == "tile" else geometry.area


def untiled_area(canvas: Canvas) -> int:
    """Pixels up to which a picture is in no tiles, whatever the settings."""
    return _LARGE * canvas.side**2


def _area_in_tiles(size: Size, geometry: Geometry, canvas: Canvas) -> int | None:
    """Pixels of a picture that is translated in tiles; None if it is not.

    One thinner than a stride is not: it would be made many times as large as it is.
    """
    whole = size[0] * size[1]
    area = whole if geometry.area == "native" else min(whole, geometry.area)
    is_large = geometry.large == "tile" and area > untiled_area(canvas) and min(size) >= canvas.stride
    return area if is_large else None


def _filled(size: Size, canvas: Canvas) -> tuple[Size, Size]:
    """Content and working size of a picture that keeps its size."""
    width, height = (-(-side // canvas.stride) * canvas.stride for side in size)
    return size, (width, height)


def _fitted(size: Size, area: int, stride: int) -> tuple[Size, Size]:
    """Content and working size for a picture of that size at about `area` pixels."""
    longest = max(1, area // stride**2)  # strides of a side, where the other has one
    found: list[tuple[Fraction, Size, Size]] = []
    for one, other, swapped in ((*size, False), (*size[::-1], True)):
        ideal = isqrt(area * one // (other * stride**2))
        for count in {min(max(ideal, 1), longest), min(ideal + 1, longest)}:
            side = count * stride
            across = max(1, (2 * side * other + one) // (2 * one))
            around = -(-across // stride)
            if around > longest:
                continue
            pixels, given = side * across, count * around * stride**2
            # How far the content is from the area, times how far it is from filling what the network is given.
            worth = Fraction(area * given, pixels**2) if pixels < area else Fraction(given, area)
            sizes = (side, across), (side, around * stride)
            content, working = (pair[::-1] if swapped else pair for pair in sizes)
            found.append((worth, working, content))
    _, working, content = min(found)
    return content, working
