"""What JPEG lets one check of the pixels: whether all of them are there.

The format has no checksums. Where the data of a scan end too soon libjpeg makes the rest grey, and says nothing that
Pillow would pass on; where only the end marker is missing, Pillow refuses a picture that is whole. So an end is put
where there is none, and a picture that may lack rows is read a second time, with noise behind its last scan: that
changes pixels only where there were none. Markers have the names of ITU-T T.81, Table B.1.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from lsb.pictures.codecs.damage import TruncatedError

START = b"\xff\xd8\xff"
# A progressive picture has about ten. Each goes over the whole picture, so that a small file can take a decoder hours.
MAX_SCANS = 100

_EOI = 0xD9
_SOS = 0xDA
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the gaps are other markers
_PROGRESSIVE = 0xC2
_ARITHMETIC = frozenset(range(0xC9, 0xD0))
_NO_BODY = frozenset({0x01, *range(0xD0, 0xD8)})
_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_BEHIND_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_NOISE = bytes(random.Random(1).choices(range(255), k=2048))  # noqa: S311


def checked(data: bytes) -> tuple[bytes, bytes | None]:
    """The same picture in a file that has an end marker, and in one with noise behind its last scan.

    Both decode to the same pixels if none are missing. None instead of the second where noise could change others,
    too: arithmetic coders leave out zeros at the end of a scan, so that what stands behind it is read.

    Args:
        data: a file that begins with `START`. One without any scan is given back as it is.

    Raises:
        TruncatedError: a scan is missing.
    """
    scans = _Scans()
    for code, body, after in _segments(data):
        scans.add(data, code, body, after)
    if not scans.end or scans.frame in _ARITHMETIC:
        return data, None
    # Who ends a progressive picture early, and says so, may have meant it.
    if any(map(any, scans.missing.values())) and not (scans.ended and scans.frame == _PROGRESSIVE):
        raise TruncatedError("the file ends before its last scan")
    if not scans.ended:
        data = data[: scans.end] + bytes([0xFF, _EOI])
    restart = bytes([0xFF, 0xD0 + scans.restarts % 8])  # what is missing may begin with one
    return data, data[: scans.end] + _NOISE + restart + _NOISE + data[scans.end :]


def scans(data: bytes) -> int:
    """How many scans a file that begins with `START` has before its end marker."""
    return sum(code == _SOS for code, _, _ in _segments(data))


@dataclass
class _Scans:
    """What the markers of a file tell of its first picture."""

    frame: int = 0  # the marker of its frame
    end: int = 0  # where the data of the last scan end
    restarts: int = 0  # how many restart markers are in them
    ended: bool = False
    missing: dict[int, list[int]] = field(default_factory=dict)  # bits of the 64 coefficients, by component

    def add(self, data: bytes, code: int, body: bytes, after: int) -> None:
        if code in _SOF:
            self.frame, self.missing = code, {component: [16] * 64 for component in body[6::3]}
        elif code == _EOI:
            self.ended = True
        elif code == _SOS and len(body) >= 6:
            found = _BEHIND_SCAN.search(data, after)
            self.end = found.start() if found else len(data)
            while data[self.end - 1] == 0xFF:  # any number of them may begin a marker
                self.end -= 1
            self.restarts = len(_RESTART.findall(data, after, self.end))
            first, last, bits = body[-3], body[-2], body[-1] & 15
            if self.frame != _PROGRESSIVE:  # some files have zeros there
                first, last, bits = 0, 63, 0
            for component in body[1 : 1 + 2 * body[0] : 2]:
                self.missing.setdefault(component, [0] * 64)[first : last + 1] = [bits] * (last + 1 - first)


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Code, body and end of each marker segment up to the end marker, the data of scans passed over."""
    at = 2
    while found := _MARKER.search(data, at):
        at, code = found.end(), found[1][0]
        if code in _NO_BODY:
            continue
        length = 0 if code == _EOI else int.from_bytes(data[at : at + 2], "big")
        body, at = data[at + 2 : at + length], at + max(length, 0 if code == _EOI else 2)
        yield code, body, at
        if code == _EOI:
            return
