"""Files as they lie about, good and bad, each with what is to be said of it. `make fuzz` makes mutants of them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import pillow_heif
import pillow_jxl  # noqa: F401  registers itself
from PIL import Image, ImageCms

from tests.bombs import large, saved, scan_bomb
from tests.tiffs import DEFLATE, FLOAT, SIGNED, tiff

pillow_heif.register_heif_opener()

WIDTH, HEIGHT = 60, 44
_ACROSS, _DOWN = np.meshgrid(np.linspace(0, 1, WIDTH), np.linspace(0, 1, HEIGHT))
COLOURS = (np.stack([_ACROSS, _DOWN, 1 - _ACROSS * _DOWN], -1) * 235 + 10).round().astype(np.uint8)
GREY = COLOURS[..., 0]
ALPHA = (_DOWN * 255).round().astype(np.uint8)
PICTURE = Image.fromarray(COLOURS)
# Of which half a file is a whole first picture, or of which a part does not count.
_SPARE = ("animated.png", "no-end.png", "more-behind.png", "pages.tif")
_ON_WHITE = 255 - (255 - COLOURS.astype(float)) * ALPHA[..., None] / 255


@dataclass(frozen=True)
class Case:
    """A file.

    Attributes:
        codes: of which one is right; none for a usable picture.
        pixels: of a usable picture, (H, W, 3) or (H, W), None for any.
        near: levels by which they may differ in the mean.
    """

    data: bytes
    codes: tuple[str, ...] = ()
    pixels: np.ndarray | None = None
    near: float = 0.0


@cache
def corpus() -> dict[str, Case]:
    """All files by name."""
    return {**dict(_good()), **dict(_turned()), **dict(_cut()), **dict(_bad()), **dict(_hungry())}


def _good() -> Iterator[tuple[str, Case]]:
    rgba = Image.fromarray(np.dstack([COLOURS, ALPHA]), "RGBA")
    grey, clear = Image.fromarray(GREY), Image.fromarray(np.dstack([GREY, ALPHA]), "LA")
    grey_on_white = 255 - (255 - GREY.astype(float)) * ALPHA / 255
    black_and_white = PICTURE.convert("1")
    palette = PICTURE.quantize(200)
    as_palette = np.asarray(palette.convert("RGB"))
    deep = GREY.astype(np.uint16) * 257

    def good(name: str, data: bytes, pixels: np.ndarray, near: float = 0.0) -> tuple[str, Case]:
        return name, Case(data, (), pixels, near)

    yield good("rgb.png", saved(PICTURE, "PNG"), COLOURS)
    yield good("rgba.png", saved(rgba, "PNG"), _ON_WHITE, 0.6)
    yield good("grey.png", saved(grey, "PNG"), GREY)
    yield good("grey-alpha.png", saved(clear, "PNG"), grey_on_white, 0.6)
    yield good("bits.png", saved(black_and_white, "PNG"), np.asarray(black_and_white) * np.uint8(255))
    yield good("palette.png", saved(palette, "PNG"), as_palette)
    yield good("grey16.png", saved(Image.fromarray(deep), "PNG"), GREY)
    yield good("animated.png", saved(PICTURE, "PNG", save_all=True, append_images=[PICTURE.rotate(180)]), COLOURS)
    yield good("no-end.png", saved(PICTURE, "PNG")[:-12], COLOURS)
    yield good("more-behind.png", saved(PICTURE, "PNG") + b"PK\3\4" + bytes(3000), COLOURS)
    yield good("plain.jpg", saved(PICTURE, "JPEG", quality=98, subsampling=0), COLOURS, 1.5)
    yield good("progressive.jpg", saved(PICTURE, "JPEG", quality=98, progressive=True), COLOURS, 3)
    yield good("grey.jpg", saved(grey, "JPEG", quality=98), GREY, 1.5)
    yield good("cmyk.jpg", saved(PICTURE.convert("CMYK"), "JPEG", quality=98), COLOURS, 3)
    yield good("no-end.jpg", saved(PICTURE, "JPEG", quality=98, subsampling=0)[:-2], COLOURS, 1.5)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield good("profile.jpg", saved(PICTURE, "JPEG", quality=98, subsampling=0, icc_profile=srgb), COLOURS, 2.5)
    yield good("broken-profile.png", saved(PICTURE, "PNG", icc_profile=b"no profile"), COLOURS)
    yield good("broken-exif.jpg", saved(PICTURE, "JPEG", quality=98, subsampling=0, exif=b"Exif\0\0MM"), COLOURS, 1.5)
    yield good("still.gif", saved(palette, "GIF"), as_palette)
    yield good("moving.gif", saved(palette, "GIF", save_all=True, append_images=[palette.rotate(180)]), as_palette)
    yield good("grey.gif", saved(grey, "GIF"), GREY)
    yield good("rgb.bmp", saved(PICTURE, "BMP"), COLOURS)
    yield good("palette.bmp", saved(palette, "BMP"), as_palette)
    yield good("bits.bmp", saved(black_and_white, "BMP"), np.asarray(black_and_white) * np.uint8(255))
    for packing in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma"):
        yield good(f"{packing}.tif", saved(PICTURE, "TIFF", compression=packing), COLOURS)
    yield good("jpeg.tif", saved(PICTURE, "TIFF", compression="jpeg", quality=98), COLOURS, 3)
    yield good("cmyk.tif", saved(PICTURE.convert("CMYK"), "TIFF"), COLOURS, 1)
    yield good("rgba.tif", saved(rgba, "TIFF"), _ON_WHITE, 0.6)
    yield good("float.tif", tiff((GREY / 255).astype(np.float32), FLOAT), GREY)
    yield good("12-bits.tif", tiff((GREY.astype(np.uint32) * 4095 // 255).astype(np.uint16)), GREY, 0.6)
    yield good(
        "14-bits.tif", tiff((COLOURS.astype(np.uint32) * 16383 // 255).astype(np.uint16), highest=16383), COLOURS
    )
    yield good("16-bits.tif", tiff(COLOURS.astype(np.uint16) * 257, packing=DEFLATE, order=">"), COLOURS)
    yield good("five-bands.tif", tiff(np.dstack([COLOURS, ALPHA, GREY])), COLOURS)
    yield good("pages.tif", saved(PICTURE, "TIFF", save_all=True, append_images=[grey]), COLOURS)
    yield good("lossless.webp", saved(PICTURE, "WEBP", lossless=True), COLOURS)
    yield good("lossy.webp", saved(PICTURE, "WEBP", quality=95), COLOURS, 4)
    yield good("alpha.webp", saved(rgba, "WEBP", lossless=True, exact=True), _ON_WHITE, 0.6)
    moving = saved(PICTURE, "WEBP", lossless=True, save_all=True, append_images=[PICTURE.rotate(180)])
    yield good("moving.webp", moving, COLOURS)
    yield good("plain.avif", saved(PICTURE, "AVIF", quality=95, subsampling="4:4:4"), COLOURS, 3)
    yield good("plain.jp2", saved(PICTURE, "JPEG2000"), COLOURS)
    yield good("codestream.j2k", saved(PICTURE, "JPEG2000", no_jp2=True), COLOURS)
    yield good("rgba.jp2", saved(rgba, "JPEG2000"), _ON_WHITE, 0.6)
    yield good("plain.heic", saved(PICTURE, "HEIF", quality=95, chroma=444), COLOURS, 4)
    yield good("lossless.jxl", saved(PICTURE, "JXL", lossless=True), COLOURS)
    yield good("lossy.jxl", saved(PICTURE, "JXL", quality=95), COLOURS, 4)
    for width, height in ((1, 1), (1, 4000), (4000, 1)):
        spot = np.full((height, width, 3), (9, 99, 199), np.uint8)
        yield good(f"{width}x{height}.png", saved(Image.fromarray(spot), "PNG"), spot)


def _turned() -> Iterator[tuple[str, Case]]:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned = COLOURS
        if orientation in (2, 3, 6, 7):
            turned = turned[:, ::-1]
        if orientation in (3, 4, 7, 8):
            turned = turned[::-1]
        if orientation >= 5:
            turned = {5: COLOURS, 6: COLOURS[::-1], 7: COLOURS[::-1, ::-1], 8: COLOURS[:, ::-1]}[orientation]
            turned = turned.swapaxes(0, 1)
        yield f"turned-{orientation}.png", Case(saved(PICTURE, "PNG", exif=exif), (), turned)


def _cut() -> Iterator[tuple[str, Case]]:
    for name, case in _good():
        if name not in _SPARE:
            yield f"half-{name}", Case(case.data[: len(case.data) // 2], ("truncated", "corrupt"))


def _bad() -> Iterator[tuple[str, Case]]:
    png = saved(PICTURE, "PNG")
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 1
    yield "empty.png", Case(b"", ("empty_file",))
    yield "flipped.png", Case(bytes(flipped), ("corrupt",))
    for name, text in {
        "pointer.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
        "page.jpg": b"<!DOCTYPE html><html><body>404</body></html>",
        "drawing.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n(%pipe%touch RAN) (w) file\n",
        "document.jpg": b"%PDF-1.7\n",
        "video.heic": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(200),
        "zeros.png": bytes(5000),
        "text.bmp": b"BM, a text that begins as a bitmap does",
    }.items():
        yield name, Case(text, ("not_an_image", "truncated", "corrupt"))
    for name, start in {
        "start.png": png[:8],
        "start.jpg": b"\xff\xd8\xff",
        "start.gif": b"GIF89a",
        "start.tif": b"II*\0\x08\0\0\0",
        "start.webp": b"RIFF\xff\xff\xff\xffWEBPVP8 ",
        "start.avif": b"\0\0\0\x1cftypavif\0\0\0\0",
        "start.jp2": b"\0\0\0\x0cjP  \r\n\x87\n",
        "start.heic": b"\0\0\0\x1cftypheic\0\0\0\0",
        "start.jxl": b"\0\0\0\x0cJXL \r\n\x87\n",
    }.items():
        yield name, Case(start, ("corrupt", "truncated"))
    yield "double.tif", Case(tiff(np.zeros((4, 4))), ("unsupported_layout",))
    yield "signed.tif", Case(tiff(np.full((4, 4), -5, np.int16), SIGNED), ("unsupported_depth", "unsupported_layout"))
    yield "bright.tif", Case(tiff(np.full((4, 4), 300, np.float32), FLOAT), ("unsupported_depth",))
    yield "not-a-number.tif", Case(tiff(np.full((4, 4), np.nan, np.float32), FLOAT), ("unsupported_depth",))
    yield "circle.tif", Case(_tiff_in_a_circle(), ("corrupt", "truncated", "unsupported_layout"))


def _hungry() -> Iterator[tuple[str, Case]]:
    """Small files that would be large or slow to read."""
    yield "98-megapixels.webp", Case(large())
    yield "scans.jpg", Case(scan_bomb(20_000, 4000), ("too_many_scans",))
    yield "square.png", Case(_png(60_000, 60_000, b""), ("too_large",))
    yield "endless.png", Case(_png(9000, 9000, bytes(9000 * 27001)))
    yield "more-than-it-says.png", Case(_png(4, 4, bytes(50_000_000)))
    wide = bytearray(saved(PICTURE, "GIF"))
    wide[6:10] = b"\xff\xff\xff\xff"
    yield "wide.gif", Case(bytes(wide), ("too_large", "corrupt", "truncated"))
    tall = bytearray(saved(PICTURE, "BMP"))
    tall[18:26] = struct.pack("<ii", 2_000_000_000, 2_000_000_000)
    yield "tall.bmp", Case(bytes(tall), ("too_large", "corrupt", "truncated"))
    deep = tiff(np.zeros((4, 4), np.uint8)).replace(
        struct.pack("<HHII", 256, 4, 1, 4), struct.pack("<HHII", 256, 4, 1, 1 << 31)
    )
    yield "wide.tif", Case(deep, ("too_large", "corrupt", "truncated"))
    zeros, png = zlib.compress(bytes(100_000_000)), saved(PICTURE, "PNG")
    for name, chunk in (("text", b"zTXt"), ("profile", b"iCCP")):
        yield f"{name}.png", Case(png[:33] + _chunk(chunk, b"a\0\0" + zeros) + png[33:], (), COLOURS)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _png(width: int, height: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header)
    return start + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _tiff_in_a_circle() -> bytes:
    """A TIFF whose first directory names itself as the next one, and an EXIF directory that is the first one."""
    entries = [struct.pack("<HHII", tag, 4, 1, 8) for tag in (34665, 34853)]
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + struct.pack("<I", 8)
