"""EXIF, XMP and IPTC from one file into another."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, TiffImagePlugin

from lsb.pictures.images import metadata_of
from lsb.pictures.metadata import LONGEST, Metadata, fitting, options_for
from tests.bombs import saved

TAGS, IFD, GPS = ExifTags.Base, ExifTags.IFD, ExifTags.GPS
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="t" xmlns:xmp="x" xmlns:dc="d" tiff:Orientation="6" dc:title="a pier">'
    b"<xmp:Thumbnails><rdf:Alt>SMALL</rdf:Alt></xmp:Thumbnails></rdf:Description></rdf:RDF></x:xmpmeta>"
)
IPTC = b"\x1c\x02\x69\x00\x06A pier"
FORMATS = ["png", "webp", "jpeg", "avif"]


def exif() -> Image.Exif:
    found = Image.Exif()
    found[TAGS.Make] = "A camera"
    found[TAGS.Orientation] = 6
    found[TAGS.Copyright] = "somebody"
    found.get_ifd(IFD.Exif).update(
        {
            TAGS.DateTimeOriginal: "2020:01:02 03:04:05",
            TAGS.ColorSpace: 65535,
            TAGS.MakerNote: b"\x01\x02",
            TAGS.ExifImageWidth: 40,
        }
    )
    found.get_ifd(IFD.GPSInfo).update({GPS.GPSLatitudeRef: "N", GPS.GPSLatitude: (48.0, 10.0, 5.0)})
    for name in (IFD.Exif, IFD.GPSInfo):
        found[name] = found.get_ifd(name)
    return found


def read(data: bytes) -> Metadata:
    return metadata_of(data)


def source(format: str) -> bytes:
    """A file with all three kinds, or those that the format has a place for."""
    if format == "TIFF":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[700], tags[33723] = XMP, IPTC
        tags[TAGS.Make], tags[TAGS.Copyright] = "A camera", "somebody"
        tags[TAGS.Orientation] = 6
        tags[IFD.Exif], tags[IFD.GPSInfo] = exif().get_ifd(IFD.Exif), exif().get_ifd(IFD.GPSInfo)
        return saved(PICTURE, "TIFF", tiffinfo=tags)
    return written(format.lower(), Metadata(exif().tobytes(), XMP, IPTC))


def written(format: str, metadata: Metadata) -> bytes:
    return saved(PICTURE, format.upper(), **options_for(format, fitting(metadata, format)))


@pytest.mark.parametrize("into", FORMATS)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_all_of_it_goes_from_any_format_into_any_other(format: str, into: str) -> None:
    found = read(source(format))
    kinds = fitting(found, into).kinds
    data = written(into, found)
    assert kinds == read(data).kinds
    assert set(kinds) == {"exif", "xmp"} | ({"iptc"} if "iptc" in found.kinds and into in ("png", "jpeg") else set())
    with Image.open(io.BytesIO(data)) as opened:
        again = opened.getexif()
        assert again.get(TAGS.Orientation, 1) == 1
        assert (again[TAGS.Make], again[TAGS.Copyright]) == ("A camera", "somebody")
        assert again.get_ifd(IFD.Exif)[TAGS.DateTimeOriginal] == "2020:01:02 03:04:05"
        assert again.get_ifd(IFD.Exif)[TAGS.ColorSpace] == 1  # its profile was applied
        assert TAGS.ExifImageWidth not in again.get_ifd(IFD.Exif)
        assert again.get_ifd(IFD.GPSInfo)[GPS.GPSLatitude] == (48.0, 10.0, 5.0)
    packet = read(data).xmp
    assert b"a pier" in packet
    assert b"SMALL" not in packet
    assert b'Orientation="1"' in packet
    if "iptc" in kinds:
        assert read(data).iptc == IPTC


def test_the_thumbnail_of_the_source_is_left_out() -> None:
    """EXIF keeps it in a directory of its own, behind the first."""
    small = saved(Image.new("RGB", (8, 8), (255, 0, 0)), "JPEG")
    block = exif().tobytes()
    at = block.index(b"MM\0*") if b"MM\0*" in block[:12] else block.index(b"II*\0")
    order = "big" if block[at : at + 2] == b"MM" else "little"
    first = at + int.from_bytes(block[at + 4 : at + 8], order)
    entries = int.from_bytes(block[first : first + 2], order)
    link = first + 2 + 12 * entries

    def number(value: int, size: int) -> bytes:
        return value.to_bytes(size, order)

    place = len(block) - at
    directory = number(2, 2)
    for tag, value in ((0x0201, place + 30), (0x0202, len(small))):
        directory += number(tag, 2) + number(4, 2) + number(1, 4) + number(value, 4)
    with_it = block[:link] + number(place, 4) + block[link + 4 :] + directory + number(0, 4) + small
    data = saved(PICTURE, "JPEG", exif=with_it)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.getexif().get_ifd(IFD.IFD1)  # it is there
    found = read(data)
    assert found.exif
    assert small not in found.exif
    with Image.open(io.BytesIO(saved(PICTURE, "JPEG", exif=found.exif))) as opened:
        assert not opened.getexif().get_ifd(IFD.IFD1)


@pytest.mark.parametrize(
    "packet", [b"<tiff:Orientation>8</tiff:Orientation>", b"tiff:Orientation = '3'", b'tiff:Orientation="2"']
)
def test_an_orientation_in_xmp_becomes_upright(packet: bytes) -> None:
    found = read(saved(PICTURE, "JPEG", xmp=b"<a>" + packet + b"</a>")).xmp
    assert b"1" in found
    assert not set(found) & set(b"2348567")


@pytest.mark.parametrize("kind", ["exif", "xmp", "iptc"])
def test_a_jpeg_leaves_out_what_is_too_long_for_it(kind: str) -> None:
    long = Metadata(**{kind: b"Exif\0\0II*\0" + bytes(70_000)})
    assert fitting(long, "jpeg").kinds == ()
    assert len(written("jpeg", long)) < 70_000
    assert fitting(long, "png").kinds == (kind,)
    assert len(written("png", Metadata(xmp=b"x" * 70_000))) > 70_000


def test_plain_pillow_opens_a_png_whatever_is_put_into_it() -> None:
    for metadata in (Metadata(iptc=bytes(500_000)), Metadata(iptc=bytes(600_000)), Metadata(xmp=b"x" * (3 << 20))):
        with Image.open(io.BytesIO(written("png", metadata))) as opened:
            opened.load()
    assert fitting(Metadata(iptc=bytes(600_000)), "png").kinds == ()


def test_a_text_that_pillow_refuses_costs_no_picture() -> None:
    zeros = b"a\0\0" + zlib.compress(bytes(2 << 20))
    chunk = struct.pack(">I", len(zeros)) + b"zTXt" + zeros + struct.pack(">I", zlib.crc32(b"zTXt" + zeros))
    data = saved(PICTURE, "PNG")
    assert metadata_of(data[:33] + chunk + data[33:]).kinds == ()


def test_xmp_without_ends_takes_no_time() -> None:
    """Each start was once looked for its end to the end of the file: a minute and more for a megabyte."""
    packet = b"<xmp:Thumbnails " * (1 << 16)
    assert metadata_of(saved(PICTURE, "WEBP", xmp=packet)).kinds == ()
    whole = b"<a>" + b"<xmp:Thumbnails>x</xmp:Thumbnails>" * 20_000 + b"</a>"
    assert metadata_of(saved(PICTURE, "WEBP", xmp=whole)).xmp == b"<a></a>"


def test_broken_and_endless_metadata_are_left_out() -> None:
    assert read(saved(PICTURE, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")).kinds == ()
    assert read(saved(PICTURE, "WEBP", xmp=b"x" * (LONGEST + 1))).kinds == ()
    assert read(saved(PICTURE, "PNG")).kinds == ()


def test_nothing_of_how_a_tiff_is_stored_is_kept() -> None:
    data = saved(PICTURE, "TIFF", compression="tiff_lzw", description="a pier", dpi=(300, 300))
    exif = Image.Exif()
    exif.load(read(data).exif)
    assert set(exif) <= {TAGS.ImageDescription, TAGS.XResolution, TAGS.YResolution, TAGS.ResolutionUnit}
    assert exif[TAGS.ImageDescription] == "a pier"
