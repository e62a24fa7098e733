"""Which sizes a job's pictures will have, by what ingest has found out about their files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from lsb.errors import ConfigError
from lsb.pictures.geometry import Canvas, Geometry, Size, frame_of, untiled_area
from lsb.pictures.images import ImageInfo
from lsb.records import Status

NAMED = 12  # sizes that are named; there may be as many as pictures
OTHER, UNKNOWN = "other sizes", "not known before they are read"


@dataclass(frozen=True)
class Sizes:
    """Numbers of usable records.

    Attributes:
        outputs: by the size that comes out, the commonest ones.
        working: by the size that the network works at, likewise.
        smaller: of outputs that are smaller than the picture in their file, by the reason.
        tiles: in how many a picture is translated, by its size in `working`; those that are not in tiles are absent.
    """

    outputs: dict[str, int]
    working: dict[str, int]
    smaller: dict[str, int]
    tiles: dict[str, int]


def sizes_of(records: pa.Table, geometry: Geometry, canvas: Canvas) -> Sizes:
    """The sizes of records of schema RECORDS."""
    usable = records.filter(pc.equal(records["status"], Status.OK.value))
    files = usable.group_by(["width", "height", "orientation"]).aggregate([([], "count_all")]).to_pylist()
    outputs: Counter[str] = Counter()
    working: Counter[str] = Counter()
    smaller: Counter[str] = Counter()
    tiles: dict[str, int] = {}
    for file in files:
        count = file["count_all"]
        if file["width"] is None:
            outputs[UNKNOWN] += count
            working[UNKNOWN] += count
            continue
        info = ImageInfo("", "", file["width"], file["height"], file["orientation"] or 1)
        frame = frame_of(info.upright_size, geometry, canvas)
        outputs[_named(frame.output)] += count
        working[_named(frame.working)] += count
        if frame.tiles is not None:
            tiles[_named(frame.working)] = frame.tiles.count
        if info.reduced_size != (info.width, info.height):
            smaller["read reduced"] += count
        if frame.limited:
            smaller["geometry.max_scale"] += count
    named = _commonest(working)
    in_tiles = {size: tiles[size] for size in named if size in tiles}
    return Sizes(_commonest(outputs), named, dict(smaller), in_tiles)


def _named(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _commonest(counts: Counter[str]) -> dict[str, int]:
    named = dict(sorted(counts.items(), key=lambda item: (item[0] == UNKNOWN, -item[1], item[0]))[:NAMED])
    rest = counts.total() - sum(named.values())
    return {**named, OTHER: rest} if rest else named


def refuse_idle_area(geometry: Geometry, canvas: Callable[[], Canvas]) -> None:
    """Refuse an area that leaves no picture large enough for tiles, where tiles are asked for.

    Args:
        canvas: of the model; called only if that can be.

    Raises:
        ConfigError: names the area from which on there are any.
    """
    area = geometry.area
    if geometry.large != "tile" or area == "native":
        return
    largest = untiled_area(canvas())
    if area <= largest:
        raise ConfigError(
            f"geometry.area is {area}, and pictures of up to {largest} pixels are in no tiles with this model: give "
            "more, or leave out area, or large: tile",
            field="geometry.area",
        )
