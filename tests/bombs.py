"""Small valid files that take a decoder long, or much memory."""

from __future__ import annotations

import io
from functools import cache

from PIL import Image


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@cache
def scan_bomb(scans: int = 80, side: int = 8000) -> bytes:
    """A progressive JPEG, valid and small, of which one scan is there over and over again; of more than 100 scans it is
    taken by the rules of letterboxed runs only."""
    data = saved(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    second = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    scan = data[second : data.index(b"\xff\xc4", second)]
    return data[:second] + scan * scans + data[second:]


def large() -> bytes:
    """98 megapixels in 48 kB, for which libwebp alone takes 0.8 GB."""
    return saved(Image.new("RGB", (16383, 6000), (5, 6, 7)), "WEBP", lossless=True, method=0)
