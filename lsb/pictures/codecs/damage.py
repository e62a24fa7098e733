"""What formats let one check of the pixels, beyond what their decoders look at. PNG has a module of its own."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

_BLOCK = 1 << 20
_SLICE = 1 << 16
_COMPRESSION = 259
_DEFLATE = (8, 32946)
_FILL_ORDER = 266  # 2: the lowest bit of each byte comes first
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
# Offsets and lengths of strips, and of tiles.
_PIECES = ((273, 279), (324, 325))


class DamagedError(ValueError):
    """The pixels are not the ones that were written."""


class TruncatedError(DamagedError):
    """Some of them are missing."""


def inflate(pieces: Iterable[bytes | memoryview], most: int) -> int:
    """Go through deflated data to its checksum (Adler-32), or until there is more than `most` bytes.

    Returns:
        how many bytes there are.

    Raises:
        DamagedError: it cannot be inflated, or its checksum is wrong.
    """
    inflater = zlib.decompressobj()
    found = 0
    try:
        for piece in pieces:
            for start in range(0, len(piece), _SLICE):
                waiting: bytes | memoryview = piece[start : start + _SLICE]
                while not inflater.eof and found <= most:
                    inflated = len(inflater.decompress(waiting, _BLOCK))
                    waiting = inflater.unconsumed_tail
                    found += inflated
                    if not waiting and inflated < _BLOCK:
                        break
    except zlib.error as error:
        raise DamagedError(f"the pixels cannot be inflated: {error}") from error
    return found


def check_tiff(data: bytes, tags: Mapping[int, Any], pixels: int) -> None:
    """The checksums of a deflated picture, which libtiff does not read.

    Args:
        tags: of the picture, as Pillow gives them.
        pixels: how many it has.

    Raises:
        DamagedError: one of them is wrong.
    """
    if tags.get(_COMPRESSION) not in _DEFLATE:
        return
    mirrored = tags.get(_FILL_ORDER) == 2
    for offsets, lengths in _PIECES:
        for start, length in zip(tags.get(offsets, ()), tags.get(lengths, ()), strict=False):
            piece: bytes | memoryview = memoryview(data)[start : start + length]
            inflate([bytes(piece).translate(_MIRRORED) if mirrored else piece], pixels * 64)
