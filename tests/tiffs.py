"""TIFF files of one strip, with tags that Pillow does not write."""

from __future__ import annotations

import struct
import zlib
from typing import Any

from numpy.typing import NDArray

RAW, DEFLATE = 1, 8
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
_SHORT, _LONG = 3, 4
_SIZES = {_SHORT: "H", _LONG: "I"}


def tiff(
    samples: NDArray[Any], kind: int = UNSIGNED, *, highest: int | None = None, packing: int = RAW, order: str = "<"
) -> bytes:
    """A little-endian (`<`) or big-endian (`>`) TIFF of samples (H, W) in grey or (H, W, C), C >= 3, in colour.

    Args:
        highest: MaxSampleValue of each sample.
        packing: RAW or DEFLATE.
    """
    height, width = samples.shape[:2]
    count = 1 if samples.ndim == 2 else samples.shape[2]
    data = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data) if packing == DEFLATE else data
    bits = samples.dtype.itemsize * 8
    tags = {
        256: (_LONG, [width]),
        257: (_LONG, [height]),
        258: (_SHORT, [bits] * count),
        259: (_SHORT, [packing]),
        262: (_SHORT, [2 if count >= 3 else 1]),
        273: (_LONG, [0]),
        277: (_SHORT, [count]),
        278: (_LONG, [height]),
        279: (_LONG, [len(data)]),
        339: (_SHORT, [kind] * count),
    }
    if count > 3:
        tags[338] = (_SHORT, [0] * (count - 3))
    if highest is not None:
        tags[281] = (_SHORT, [highest] * count)
    long = 8 + 2 + 12 * len(tags) + 4  # where what does not fit into an entry stands
    strip = long + sum(size for type_, values in tags.values() if (size := _size(type_, values)) > 4)
    tags[273] = (_LONG, [strip])
    entries, elsewhere = b"", b""
    for tag, (type_, values) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}{_SIZES[type_]}", *values)
        if len(packed) > 4:
            packed, elsewhere = struct.pack(f"{order}I", long + len(elsewhere)), elsewhere + packed
        entries += struct.pack(f"{order}HHI", tag, type_, len(values)) + packed.ljust(4, b"\0")
    start = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HIH", 42, 8, len(tags))
    return start + entries + bytes(4) + elsewhere + data


def _size(type_: int, values: list[int]) -> int:
    return struct.calcsize(_SIZES[type_]) * len(values)
