"""JPEGs of which something is missing: rows are, an end marker is not."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lsb.errors import ImageError
from lsb.pictures.images import decode
from tests.bombs import saved

END = b"\xff\xd9"
NOISE = np.random.default_rng(1).integers(0, 255, (40, 53, 3), dtype=np.uint8)
PICTURES = {
    "colours": Image.fromarray(NOISE).resize((330, 203)),
    "grey": Image.fromarray(NOISE).resize((330, 203)).convert("L"),
    "cmyk": Image.fromarray(np.dstack([NOISE, NOISE[::-1, :, 0]]), "CMYK").resize((330, 203)),
    "white": Image.new("RGB", (330, 203), "white"),
    "as grey as missing rows": Image.new("RGB", (330, 203), (128, 128, 128)),
}
WAYS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "optimised": {"optimize": True, "quality": 30},
    "progressive": {"progressive": True},
    "a restart each row": {"restart_marker_rows": 1},
    "a restart each third block": {"restart_marker_blocks": 3},
    "progressive, a restart each row": {"progressive": True, "restart_marker_rows": 1},
}


def jpeg(picture: str, way: str) -> bytes:
    return saved(PICTURES[picture], "JPEG", **WAYS[way])


def as_pillow(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as opened:
        return opened.convert("RGB").tobytes()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("picture", PICTURES)
def test_a_whole_picture_is_taken_whatever_stands_at_its_end(picture: str, way: str) -> None:
    whole = jpeg(picture, way)
    for data in (
        whole,
        whole + b"\0" * 99,
        whole + b"\xff\xd8\xff\xe0 more",
        whole[:-2],
        whole[:-1],
        whole[:-2] + b"\xff\xff",
    ):
        assert decode(data)[0].tobytes() == as_pillow(whole)


def scans(data: bytes) -> list[tuple[int, int]]:
    """Where the data of each scan begin and end."""
    found = [scan.end() for scan in re.finditer(rb"\xff\xda", data)]
    begins = [place + int.from_bytes(data[place : place + 2], "big") for place in found]
    ends = [re.compile(rb"\xff[\xc0-\xcf\xd9-\xdf]").search(data, begin) for begin in begins]
    return [(begin, end.start()) for begin, end in zip(begins, ends, strict=True) if end]


@pytest.mark.parametrize("end", [b"", END, b"\xff" + END, END + b"more"], ids=repr)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("picture", ["colours", "grey", "cmyk"])
def test_one_with_rows_missing_is_not(picture: str, way: str, end: bytes) -> None:
    whole = jpeg(picture, way)
    assert len(scans(whole)) > 5 or "progressive" not in way
    for begin, behind in scans(whole):
        # Noise may by chance mean what missing data are taken for, but not for more than a few blocks.
        last = behind - 6 if "progressive" not in way else begin + 0.8 * (behind - begin)
        for place in {*np.linspace(begin + 3, last, 9).astype(int)}:
            with pytest.raises(ImageError, match="truncated: "):
                decode(whole[:place] + end)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("picture", ["white", "as grey as missing rows"])
def test_what_is_missing_of_one_colour_is_found_unless_it_changes_nothing(picture: str, way: str) -> None:
    whole = jpeg(picture, way)
    begin, behind = scans(whole)[-1]
    for place in range(begin, behind):
        try:
            assert decode(whole[:place] + END)[0].tobytes() == as_pillow(whole)
        except ImageError as error:
            assert error.code == "truncated"  # noqa: PT017
    if (picture, way) == ("white", "baseline"):
        with pytest.raises(ImageError, match="truncated"):
            decode(whole[: (begin + behind) // 2] + END)


@pytest.mark.parametrize("way", ["a restart each row", "a restart each third block"])
@pytest.mark.parametrize("picture", PICTURES)
def test_one_that_ends_at_a_restart_is_not(picture: str, way: str) -> None:
    whole = jpeg(picture, way)
    restarts = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", whole)]
    assert len(restarts) >= 12
    for place in restarts:
        for data in (whole[:place], whole[: place + 2]):
            with pytest.raises(ImageError, match="truncated"):
                decode(data + END)


def test_one_with_scans_missing_is_taken_if_it_says_that_it_ends_there() -> None:
    whole = jpeg("colours", "progressive")
    ends = [end for _, end in scans(whole)[:-1]]
    assert len(ends) > 5
    for place in ends:
        with pytest.raises(ImageError, match="truncated"):
            decode(whole[:place])
        assert decode(whole[:place] + END)[0].tobytes() == as_pillow(whole[:place] + END)  # T.81 allows it


def test_a_thumbnail_in_the_header_is_not_taken_for_the_picture() -> None:
    whole = jpeg("colours", "baseline")
    thumbnail = saved(PICTURES["white"].resize((40, 30)), "JPEG")
    block = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    data = whole[:2] + block + whole[2:]
    assert decode(data)[0].tobytes() == as_pillow(whole)
    assert decode(data[:-2])[0].tobytes() == as_pillow(whole)
    with pytest.raises(ImageError, match="truncated"):
        decode(data[: len(data) // 2] + END)


def test_several_pictures_in_one_file_are_read_as_the_first() -> None:
    data = saved(PICTURES["colours"], "MPO", save_all=True, append_images=[PICTURES["white"]])
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.format == "MPO"
    assert decode(data)[0].tobytes() == as_pillow(data)
