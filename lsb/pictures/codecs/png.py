"""What PNG lets one check of the pixels, and the file without what has nothing to do with them.

Every chunk has a checksum (CRC-32), the pixels together another (Adler-32), and the header says how many there must be.
Pillow looks at neither sum of the pixels and fills missing rows with black; but it refuses a file for a long text or
profile, or a wrong checksum of a chunk that it could do without. So it is given only the chunks that count.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from lsb.pictures.codecs.damage import DamagedError, TruncatedError, inflate

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_NAME = re.compile(rb"[A-Za-z]{4}")
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
# What Pillow finds the orientation in, beside eXIf.
_KEYWORDS = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0", b"exif\0")
# (left, top, step right, step down) of the seven passes of an interlaced picture.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_LONGEST_TEXT = 1 << 20  # as in Pillow
_LONGEST_PROFILE = 1 << 26
_SPARE = 1 << 20


def size(data: bytes) -> tuple[int, int]:
    """Width and height in the header of a file that begins with `SIGNATURE`; (0, 0) if it has none."""
    return struct.unpack(">II", data[16:24]) if data[12:16] == b"IHDR" and len(data) >= 24 else (0, 0)


def frames(data: bytes) -> int:
    """How many pictures an animation says that it has, 1 for a file that is none."""
    for chunk in _chunks(data):
        if chunk.name == b"acTL" and chunk.intact and len(chunk.body) == 8:
            return max(1, int.from_bytes(chunk.body[:4], "big"))
        if chunk.name == b"IDAT":
            break
    return 1


def checked(data: bytes) -> tuple[bytes, bytes | None]:
    """The same picture in a file of the chunks that its pixels and orientation depend on alone, and its colour profile.

    Bytes after the end, a missing end, and wrong checksums of other chunks are no damage: such a chunk is left out.

    Args:
        data: a file that begins with `SIGNATURE`.

    Raises:
        TruncatedError: rows of pixels are missing.
        DamagedError: a checksum of header, palette, transparency or pixels is wrong, or there are no pixels.
    """
    kept: list[bytes | memoryview] = [SIGNATURE]
    pixels: list[memoryview] = []
    header, profile = b"", None
    for chunk in _chunks(data):
        if chunk.name == b"IEND":
            if not pixels:
                raise DamagedError("it has no pixels")
            break
        if chunk.name in _NEEDED:
            _check(chunk, header)
            header = header or chunk.body.tobytes()
            if chunk.name == b"IDAT":
                pixels.append(chunk.body)
        elif chunk.name == b"fcTL" and pixels:
            break  # the second picture of an animation
        elif chunk.cut:
            continue
        elif not chunk.intact:
            if chunk.name[:1].isupper() or any(chunk.is_intact_as(name) for name in _NEEDED):
                raise DamagedError(f"the checksum of {chunk.name.decode()} is wrong")
            continue
        elif chunk.name == b"iCCP":
            profile = _profile(chunk.body)
            continue
        elif not _tells_orientation(chunk.name, chunk.body):
            continue
        kept += chunk.pieces()
    if not pixels:
        raise TruncatedError("the file ends before its pixels")
    expected = _expected(header)
    found = inflate(pixels, expected + _SPARE)  # what goes on and on after the last row is nobody's pixel
    if found < expected:
        raise TruncatedError(f"{found} of {expected} bytes of pixels are there, the rest is missing")
    return b"".join(kept) + b"\0\0\0\0IEND\xaeB`\x82", profile


@dataclass(frozen=True)
class _Chunk:
    name: bytes
    body: memoryview
    cut: bool  # the file ends before the chunk does
    stored: bytes  # checksum; shorter if the file ends there

    @property
    def intact(self) -> bool:
        return self.is_intact_as(self.name)

    def is_intact_as(self, name: bytes) -> bool:
        """Whether the checksum would be right if this were the chunk's name."""
        return _sum(name, self.body).startswith(self.stored)

    def pieces(self) -> tuple[bytes, memoryview, bytes]:
        """The whole chunk; its body, which may be most of a large file, is not copied."""
        sum_ = self.stored if len(self.stored) == 4 else _sum(self.name, self.body)
        return struct.pack(">I4s", len(self.body), self.name), self.body, sum_


def _sum(name: bytes, body: memoryview) -> bytes:
    return struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))


def _chunks(data: bytes) -> Iterator[_Chunk]:
    """All chunks up to the end, or where none follows."""
    view, place = memoryview(data), len(SIGNATURE)
    while len(data) - place >= 8:
        length, name = struct.unpack_from(">I4s", data, place)
        if not _NAME.fullmatch(name):
            return
        body = view[place + 8 : place + 8 + length]
        place += 12 + length
        yield _Chunk(name, body, len(body) < length, data[place - 4 : place])


def _check(chunk: _Chunk, header: bytes) -> None:
    name = chunk.name.decode()
    if chunk.cut and name != "IDAT":
        raise TruncatedError(f"the file is truncated in {name}")
    if not chunk.intact:
        raise DamagedError(f"the checksum of {name} is wrong")
    if (name == "IHDR") == bool(header):
        raise DamagedError(f"{name} stands where it must not")


def _profile(body: memoryview) -> bytes | None:
    """The colour profile in a chunk, None if it cannot be inflated or is absurdly long."""
    _, _, rest = body.tobytes().partition(b"\0")
    return _inflated(rest[1:], _LONGEST_PROFILE) if rest[:1] == b"\0" else None


def _tells_orientation(name: bytes, body: memoryview) -> bool:
    """Whether Pillow finds the orientation in a chunk, and does not refuse the file for it."""
    if name not in _TEXTS:
        return name == b"eXIf"
    keyword = next((word for word in _KEYWORDS if body[: len(word)] == word), None)
    if keyword is None or len(body) > _LONGEST_TEXT:
        return False
    rest = body[len(keyword) :].tobytes()
    if name == b"zTXt":
        return rest[:1] == b"\0" and _inflated(rest[1:], _LONGEST_TEXT) is not None
    if name == b"iTXt" and rest[:1] != b"\0":
        return _inflated(rest[2:].split(b"\0", 2)[-1], _LONGEST_TEXT) is not None
    return True


def _inflated(packed: bytes, most: int) -> bytes | None:
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(packed, most)
    except zlib.error:
        return None
    return None if inflater.unconsumed_tail else plain


def _expected(header: bytes) -> int:
    """Bytes of all rows, each with the byte that names its filter."""
    if len(header) != 13:
        raise DamagedError("IHDR is of another length")
    width, height, bits, colours, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if colours not in _CHANNELS or bits not in (1, 2, 4, 8, 16):
        raise DamagedError(f"no picture has {bits} bits of colour type {colours}")
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    total = 0
    for left, top, right, down in passes:
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits * _CHANNELS[colours] // 8))
    return total
