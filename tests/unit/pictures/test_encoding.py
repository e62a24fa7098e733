"""What translations are written as."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from lsb.errors import ImageError
from lsb.pictures.encoding import LONGEST_SIDE, OutputSettings, encode, is_lossy
from lsb.pictures.images import decode
from lsb.pictures.metadata import Metadata

NOISE = np.random.default_rng(0).integers(0, 256, (30, 40, 4), dtype=np.uint8)
IMAGES = {
    "RGB": Image.fromarray(NOISE[..., :3]),
    "RGBA": Image.fromarray(NOISE, "RGBA"),
    "L": Image.fromarray(NOISE[..., 0]),
}
WAYS = [("png", None), ("webp", None), ("webp", 80), ("jpeg", None), ("jpeg", 60), ("avif", None), ("avif", 50)]


@pytest.mark.parametrize("mode", IMAGES)
@pytest.mark.parametrize(("format", "quality"), WAYS)
def test_every_format_gives_back_its_picture(format: str, quality: int | None, mode: str) -> None:
    if (format, mode) == ("jpeg", "RGBA"):
        return
    image = IMAGES[mode]
    data = encode(image, format, quality)
    assert data == encode(image, format, quality)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.format == format.upper()
        same = opened.convert(mode).tobytes() == image.tobytes()
        assert opened.mode == ("RGB" if mode == "L" and format in ("webp", "avif") else mode)
    assert same != is_lossy(format, quality)


def test_a_format_that_is_not_written() -> None:
    with pytest.raises(ValueError, match="png, webp, jpeg or avif"):
        encode(IMAGES["RGB"], "gif")  # type: ignore[arg-type]


@pytest.mark.parametrize("format", LONGEST_SIDE)
def test_a_format_s_longest_side_is_the_longest_that_comes_back(format: str) -> None:
    longest = LONGEST_SIDE[format]
    assert decode(encode(Image.new("RGB", (longest, 2)), format, 30))[0].size == (longest, 2)  # type: ignore[arg-type]
    with pytest.raises((ImageError, OSError, ValueError)):
        decode(encode(Image.new("RGB", (longest + 1, 2)), format, 30))  # type: ignore[arg-type]


def test_a_lower_quality_takes_fewer_bytes() -> None:
    for format in ("webp", "jpeg", "avif"):
        sizes = [len(encode(IMAGES["RGB"], format, quality)) for quality in (10, 50, 90)]
        assert sizes == sorted(sizes)
        assert len(set(sizes)) == 3


def test_a_grey_picture_stays_grey() -> None:
    for format, quality in WAYS:
        pixels = np.asarray(decode(encode(IMAGES["L"], format, quality))[0]).astype(int)
        assert np.abs(pixels.max(axis=2) - pixels.min(axis=2)).max() <= (2 if is_lossy(format, quality) else 0)


def test_metadata_goes_into_the_file_and_no_pixel_changes() -> None:
    xmp = Metadata(xmp=b"<x:xmpmeta/>")
    for format, quality in WAYS:
        data = encode(IMAGES["RGB"], format, quality, xmp)
        assert b"<x:xmpmeta/>" in data
        assert decode(data)[0].tobytes() == decode(encode(IMAGES["RGB"], format, quality))[0].tobytes()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quality": 90}, "png loses nothing"),
        ({"format": "jpeg", "alpha": "keep"}, "use png, webp or avif"),
        ({"quality": 0, "format": "jpeg"}, "greater than or equal to 1"),
        ({"format": "gif"}, "avif"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        OutputSettings(**settings)


@pytest.mark.parametrize(
    ("settings", "trace"),
    [
        ({}, None),
        ({"format": "webp"}, None),
        ({"format": "webp", "quality": 80}, {"quality": 80}),
        ({"alpha": "keep", "metadata": "keep"}, {"alpha": "keep", "metadata": "keep"}),
        ({"grey": "keep", "alpha": "white"}, {"grey": "keep"}),
    ],
)
def test_a_setting_at_its_default_leaves_no_trace(settings: dict[str, object], trace: dict[str, object] | None) -> None:
    output = OutputSettings(**settings)
    assert output.trace == trace
    transform = {"encoder": output.format, **({"output": trace} if trace else {})}
    assert OutputSettings.of_transform(transform) == output


def test_the_source_s_format_is_taken_where_it_can_be_written() -> None:
    output = OutputSettings(format="source")
    expected = {
        "JPEG": "jpeg",
        "MPO": "jpeg",
        "WEBP": "webp",
        "AVIF": "avif",
        "PNG": "png",
        "HEIF": "png",
        "GIF": "png",
    }
    assert {name: output.format_for(name) for name in expected} == expected
    assert OutputSettings(format="webp").format_for("JPEG") == "webp"
