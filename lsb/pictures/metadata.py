"""What a file says about its picture: EXIF, XMP and IPTC, taken out of one file and put into another.

What would be untrue of the translation is left out: the orientation, since it is upright; width and height, which may
be others; thumbnails, which show the source; and how the source's samples were stored. Its colours are sRGB, and so it
says.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin

LONGEST = 1 << 24  # bytes of each kind; what is longer is left out
_LONGEST_IPTC_IN_PNG = 500_000  # it is written in hexadecimal digits, of which Pillow reads 1 MiB
_LONGEST_IN_JPEG = 65_533 - 64  # of a segment (ITU-T T.81, B.1.1.4), less what names it

_TAGS = ExifTags.Base
# Of the first directory; the rest of it describes how a TIFF is stored.
_TRUE_OF_ANY_FILE = frozenset(
    {
        _TAGS.ImageDescription,
        _TAGS.Make,
        _TAGS.Model,
        _TAGS.XResolution,
        _TAGS.YResolution,
        _TAGS.ResolutionUnit,
        _TAGS.Software,
        _TAGS.DateTime,
        _TAGS.Artist,
        _TAGS.HostComputer,
        _TAGS.Rating,
        _TAGS.RatingPercent,
        _TAGS.Copyright,
        _TAGS.XPTitle,
        _TAGS.XPComment,
        _TAGS.XPAuthor,
        _TAGS.XPKeywords,
        _TAGS.XPSubject,
    }
)
_DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
_SRGB = 1
# Of the source as it was stored: turned, and perhaps larger.
_SIZES = (_TAGS.ExifImageWidth, _TAGS.ExifImageHeight)
_PHOTOSHOP, _IPTC_OF_TIFF, _XMP_OF_TIFF = 34377, 33723, 700
_IPTC_RESOURCE = 0x0404
_RESOURCES = b"Photoshop 3.0\0"
_ORIENTATION = re.compile(rb"(<tiff:Orientation>\s*|tiff:Orientation\s*=\s*[\"'])[2-8](?=\s*[<\"'])")
_THUMBNAILS = re.compile(rb"<(xmp|xap):Thumbnails\b")
_XMP_KEYWORD = "XML:com.adobe.xmp"
# PNG has no place of its own for IPTC; this one, ImageMagick's, is what readers look into.
_IPTC_KEYWORD = "Raw profile type iptc"


@dataclass(frozen=True)
class Metadata:
    """As bytes, empty where there are none.

    Attributes:
        exif: a TIFF structure that begins with `Exif\\0\\0` (CIPA DC-008).
        xmp: an XMP packet (ISO 16684-1).
        iptc: data sets of IIM (IPTC-NAA).
    """

    exif: bytes = b""
    xmp: bytes = b""
    iptc: bytes = b""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of what there is."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name))


def read_metadata(image: Image.Image) -> Metadata:
    """What a file says about its picture; a kind that cannot be read, or is longer than `LONGEST`, is left out.

    Args:
        image: as Pillow opened it.
    """
    if image.format == "PNG":
        with suppress(Exception):
            image.load()  # texts may stand behind the pixels
    return Metadata(*(_whole(read, image) for read in (_exif, _xmp, _iptc)))


def fitting(metadata: Metadata, format: str) -> Metadata:
    """What of it a file of that format can hold: WebP and AVIF have no place for IPTC, PNG has one for half a megabyte,
    a JPEG one for 64 KiB of each kind.

    Args:
        format: png, webp, jpeg or avif.
    """
    if format == "jpeg":
        too_long = (kind for kind in metadata.kinds if len(getattr(metadata, kind)) > _LONGEST_IN_JPEG)
        return replace(metadata, **dict.fromkeys(too_long, b""))
    if format == "png" and len(metadata.iptc) <= _LONGEST_IPTC_IN_PNG:
        return metadata
    return replace(metadata, iptc=b"")


def options_for(format: str, metadata: Metadata) -> dict[str, Any]:
    """What `Image.save` is to be told so that the file holds the metadata, which fit into it."""
    options: dict[str, Any] = {}
    if metadata.exif:
        options["exif"] = metadata.exif
    if format == "png":
        options["pnginfo"] = _png_texts(metadata)
    elif metadata.xmp:
        options["xmp"] = metadata.xmp
    if format == "jpeg" and metadata.iptc:
        options["extra"] = _segment(metadata.iptc)
    return options


def _whole(read: Callable[[Image.Image], bytes], image: Image.Image) -> bytes:
    try:
        data = read(image)
    except Exception:  # noqa: BLE001  hostile bytes make Pillow raise nearly anything
        return b""
    return data if len(data) <= LONGEST else b""


def _exif(image: Image.Image) -> bytes:
    source = image.getexif()
    kept = Image.Exif()
    for tag, value in source.items():
        if tag in _TRUE_OF_ANY_FILE:
            kept[tag] = value
    for name in _DIRECTORIES:
        if directory := dict(source.get_ifd(name)):
            if _TAGS.ColorSpace in directory:
                directory[_TAGS.ColorSpace] = _SRGB
            for tag in _SIZES:
                directory.pop(tag, None)
            kept.get_ifd(name).update(directory)
            kept[name] = kept.get_ifd(name)
    return kept.tobytes() if len(kept) else b""


def _xmp(image: Image.Image) -> bytes:
    found = image.info.get("xmp") or image.info.get(_XMP_KEYWORD) or b""
    if not found and isinstance(image, TiffImagePlugin.TiffImageFile):
        found = image.tag_v2.get(_XMP_OF_TIFF, b"")
    packet = found.encode() if isinstance(found, str) else bytes(found)
    if len(packet) > LONGEST:
        return b""
    return _without_thumbnails(_ORIENTATION.sub(rb"\g<1>1", packet))


def _without_thumbnails(packet: bytes) -> bytes:
    kept, at = [], 0
    while found := _THUMBNAILS.search(packet, at):
        end = b"</%s:Thumbnails>" % found[1]
        behind = packet.find(end, found.end())
        if behind < 0:
            return b""  # no XML, and what is in it may be one
        kept.append(packet[at : found.start()])
        at = behind + len(end)
    return b"".join((*kept, packet[at:]))


def _iptc(image: Image.Image) -> bytes:
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        if found := image.tag_v2.get(_IPTC_OF_TIFF):
            return found if isinstance(found, bytes) else struct.pack(f">{len(found)}I", *found)
        return _resource(bytes(image.tag_v2.get(_PHOTOSHOP, b"")))
    if profile := image.info.get(_IPTC_KEYWORD):
        return bytes.fromhex("".join(profile.split()[2:]))
    return bytes(image.info.get("photoshop", {}).get(_IPTC_RESOURCE, b""))


def _resource(block: bytes) -> bytes:
    """The IPTC data among Photoshop's image resources."""
    file = io.BytesIO(block)
    while file.read(4) == b"8BIM":
        number, length = struct.unpack(">HB", file.read(3))
        file.seek(length + (length + 1) % 2, io.SEEK_CUR)  # the name, with its length an even number of bytes
        (size,) = struct.unpack(">I", file.read(4))
        data = file.read(size + size % 2)[:size]
        if number == _IPTC_RESOURCE:
            return data
    return b""


def _segment(iptc: bytes) -> bytes:
    """A JPEG's APP13 with Photoshop's image resources, one of them the IPTC data."""
    resource = b"8BIM" + struct.pack(">HHI", _IPTC_RESOURCE, 0, len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
    body = _RESOURCES + resource
    return b"\xff\xed" + struct.pack(">H", len(body) + 2) + body


def _png_texts(metadata: Metadata) -> PngImagePlugin.PngInfo:
    texts = PngImagePlugin.PngInfo()
    if metadata.xmp:
        texts.add_itxt(_XMP_KEYWORD, metadata.xmp.decode(errors="replace"))
    if metadata.iptc:
        lines = re.findall(".{1,72}", metadata.iptc.hex())
        texts.add_text(_IPTC_KEYWORD, f"\niptc\n{len(metadata.iptc):8}\n" + "\n".join(lines) + "\n", zip=True)
    return texts
