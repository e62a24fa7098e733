"""PNG: every damage of the pixels is seen, and nothing else is taken for one."""

from __future__ import annotations

import io
import itertools
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from lsb.errors import ImageError
from lsb.pictures.codecs.png import SIGNATURE
from lsb.pictures.images import decode
from tests.bombs import saved

ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# (bits, colour type): every kind that the format knows.
KINDS = [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2), (1, 3), (2, 3), (4, 3), (8, 3), (8, 4), (16, 4)]
KINDS += [(8, 6), (16, 6)]
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def with_wrong_sum(name: bytes, body: bytes) -> bytes:
    whole = chunk(name, body)
    return whole[:-1] + bytes([whole[-1] ^ 1])


END = chunk(b"IEND", b"")


def rows(width: int, height: int, bits: int, colours: int, interlaced: bool, seed: int = 0) -> bytes:
    """Random samples, each row after the byte of its filter (0)."""
    rng = random.Random(seed)
    out = b""
    for left, top, right, down in ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, lines = len(range(left, width, right)), len(range(top, height, down))
        if columns:
            for _ in range(lines):
                out += b"\0" + rng.randbytes(-(-columns * bits * CHANNELS[colours] // 8))
    return out


def head(width: int, height: int, bits: int, colours: int, interlaced: bool = False) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, interlaced))
    return SIGNATURE + header + (chunk(b"PLTE", random.Random(1).randbytes(3 << bits)) if colours == 3 else b"")


def png(width: int, height: int, bits: int, colours: int, interlaced: bool = False) -> bytes:
    pixels = zlib.compress(rows(width, height, bits, colours, interlaced))
    return head(width, height, bits, colours, interlaced) + chunk(b"IDAT", pixels) + END


def refused(data: bytes, code: str | None = None) -> bool:
    try:
        decode(data)
    except ImageError as error:
        return code in (None, error.code)
    return False


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("bits", "colours"), KINDS)
def test_every_kind_is_taken_whole_and_refused_without_its_last_row(bits: int, colours: int, interlaced: bool) -> None:
    for width, height in ((1, 1), (5, 3), (9, 17), (40, 30)):
        data = png(width, height, bits, colours, interlaced)
        with Image.open(io.BytesIO(data)) as plain:
            plain.load()
            assert decode(data)[1].mode == plain.mode
            if plain.mode == "RGB":
                assert decode(data)[0].tobytes() == plain.tobytes()
        short = rows(width, height, bits, colours, interlaced)[:-1]
        start = head(width, height, bits, colours, interlaced)
        assert refused(start + chunk(b"IDAT", zlib.compress(short)) + END, "truncated")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_everything_that_pillow_writes_is_taken(mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = Image.linear_gradient("L").resize((33, 21))
    image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    options: list[dict] = [{}, {"exif": exif}, {"icc_profile": SRGB}, {"optimize": True}, {"compress_level": 0}]
    if mode == "P":
        options += [{"transparency": 3}, {"bits": 4}]
    elif mode in ("L", "I;16"):
        options += [{"transparency": 0}]
    for more in options:
        data = saved(image, "PNG", **more)
        picture, info = decode(data)
        assert info.orientation == (6 if "exif" in more else 1)
        assert picture.size == ((info.height, info.width) if "exif" in more else (info.width, info.height))
    frames = saved(image, "PNG", save_all=True, append_images=[image.rotate(90)] * 2)
    assert decode(frames)[0].tobytes() == decode(saved(image, "PNG"))[0].tobytes()


def noise(width: int = 60, height: int = 50) -> bytes:
    samples = np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return saved(Image.fromarray(samples), "PNG")


def test_every_flipped_bit_of_the_pixels_is_refused() -> None:
    for whole in (noise(), png(40, 30, 16, 2, True), png(40, 30, 1, 0), png(40, 30, 4, 3)):
        start, end = whole.index(b"IDAT"), whole.index(END)
        for place in range(start, end, max(1, (end - start) // 400)):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << place % 8
            assert refused(bytes(damaged)), place


def test_flipped_bits_of_header_palette_and_transparency_are_refused() -> None:
    whole = head(6, 5, 4, 3) + chunk(b"tRNS", b"\0\x80\xff")
    whole += chunk(b"IDAT", zlib.compress(rows(6, 5, 4, 3, False))) + END
    assert not refused(whole)
    for place in range(8, whole.index(b"IDAT") - 4):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        assert refused(bytes(damaged)), place


def test_a_zeroed_sector_is_refused() -> None:
    whole = noise(200, 200)
    assert refused(whole[:5000] + bytes(512) + whole[5512:], "corrupt")


def test_the_checksum_of_all_pixels_counts_too() -> None:
    packed = bytearray(zlib.compress(rows(40, 30, 8, 2, False)))
    packed[-1] ^= 1
    assert refused(head(40, 30, 8, 2) + chunk(b"IDAT", bytes(packed)) + END, "corrupt")


def test_pixels_in_many_chunks_and_a_cut_anywhere() -> None:
    packed = zlib.compress(rows(40, 30, 8, 2, False))
    pieces = b"".join(chunk(b"IDAT", packed[place : place + 7]) for place in range(0, len(packed), 7))
    whole = head(40, 30, 8, 2) + pieces + chunk(b"IDAT", b"") + END
    expected = decode(png(40, 30, 8, 2))[0].tobytes()
    assert decode(whole)[0].tobytes() == expected
    for length in range(8, len(whole), 97):
        cut = whole[:length]
        assert refused(cut, "truncated") or decode(cut)[0].tobytes() == expected
    assert refused(whole[:-200], "truncated")


def test_what_comes_after_the_last_row_is_no_damage() -> None:
    whole = noise()
    expected = decode(whole)[0].tobytes()
    packed = zlib.compress(rows(40, 30, 8, 2, False) + bytes(5000))
    longer = head(40, 30, 8, 2) + chunk(b"IDAT", packed) + END
    assert decode(longer)[0].tobytes() == decode(png(40, 30, 8, 2))[0].tobytes()
    for same in (
        whole + b"appended",
        whole[: -len(END)],
        whole[:-4],
        whole[: -len(END)] + bytes(3000),
        whole[: -len(END)] + with_wrong_sum(b"IEND", b""),
        whole[: -len(END)] + with_wrong_sum(b"tEXt", b"Software\0x") + END,
        whole[: -len(END)] + b"\xff\xff\xff\xfftEXtcut",
    ):
        assert decode(same)[0].tobytes() == expected


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
OTHER = {
    "a long compressed text": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"{x}" * 600_000)),
    "a long international text": chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"{x}" * 600_000)),
    "many texts": chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000))) * 70,
    "a text with a wrong sum": with_wrong_sum(b"tEXt", b"Software\0x"),
    "an unknown compression of a text": chunk(b"zTXt", b"k\0\7abc"),
    "a text named like a setting of Pillow's": chunk(b"tEXt", b"interlace\0yes") + chunk(b"tEXt", b"transparency\0\0"),
    "a profile that is none": chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(2_000_000))),
    "a profile with a wrong sum": with_wrong_sum(b"iCCP", b"icc\0\0" + zlib.compress(SRGB)),
    "an unknown compression of a profile": chunk(b"iCCP", b"icc\0\7abc"),
    "a short gamma": chunk(b"gAMA", b"\0"),
    "short chromaticities": chunk(b"cHRM", b"\0" * 7),
    "a short physical size": chunk(b"pHYs", b"\0"),
    "an empty rendering intent": chunk(b"sRGB", b""),
    "an orientation with a wrong sum": with_wrong_sum(
        b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    ),
    "an animation without frames": chunk(b"acTL", b"\0" * 8),
    "a broken animation": chunk(b"acTL", b"\0\0\0"),
}


@pytest.mark.parametrize("name", OTHER)
def test_what_has_nothing_to_do_with_the_pixels_spoils_none(name: str) -> None:
    whole = noise()
    assert decode(whole[:33] + OTHER[name] + whole[33:])[0].tobytes() == decode(whole)[0].tobytes()
    assert decode(whole[: -len(END)] + OTHER[name] + END)[0].tobytes() == decode(whole)[0].tobytes()


def test_a_long_profile_is_used_like_a_short_one() -> None:
    swapped = SRGB.replace(b"rXYZ", b"?XYZ", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"?XYZ", b"gXYZ", 1)
    red = saved(Image.new("RGB", (4, 4), (255, 0, 0)), "PNG")
    for padding in (0, 1_200_000):
        profile = chunk(b"iCCP", b"icc\0\0" + zlib.compress(swapped + bytes(padding)))
        assert decode(red[:33] + profile + red[33:])[0].getpixel((0, 0)) == (0, 255, 0)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    "told",
    [
        chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)),
        chunk(b"zTXt", b"XML:com.adobe.xmp\0\0" + zlib.compress(XMP)),
        chunk(
            b"zTXt",
            b"Raw profile type exif\0\0"
            + zlib.compress(b"\nexif\n26\n" + b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0".hex().encode()),
        ),
    ],
)
def test_the_orientation_is_found_where_pillow_finds_it(told: bytes, after: bool) -> None:
    whole = noise()
    data = whole[: -len(END)] + told + END if after else whole[:33] + told + whole[33:]
    with Image.open(io.BytesIO(data)) as plain:
        assert plain.getexif()[0x0112] == 6
    assert decode(data)[1].orientation == 6
    assert decode(data)[0].size == (50, 60)


def test_random_damage_is_refused_or_changes_nothing() -> None:
    """Bits, bytes and sectors anywhere: pixels are the ones that were written, or none."""
    rng = random.Random(2)
    for whole in (noise(), png(40, 30, 16, 6, True), png(40, 30, 2, 3)):
        expected = decode(whole)[0].tobytes()
        for _ in range(300):
            damaged = bytearray(whole)
            for _ in range(rng.randint(1, 4)):
                place, length = rng.randrange(8, len(whole)), rng.choice([1, 1, 1, 16, 512])
                damaged[place : place + length] = rng.randbytes(len(damaged[place : place + length]))
            try:
                assert decode(bytes(damaged))[0].tobytes() == expected
            except ImageError:
                continue


def test_a_bomb_behind_the_last_row_is_not_inflated() -> None:
    packer = zlib.compressobj(9)
    packed = packer.compress(rows(40, 30, 8, 2, False))
    for _ in itertools.repeat(None, 300):
        packed += packer.compress(bytes(1 << 20))
    data = head(40, 30, 8, 2) + chunk(b"IDAT", packed + packer.flush()) + END
    assert decode(data)[0].tobytes() == decode(png(40, 30, 8, 2))[0].tobytes()
