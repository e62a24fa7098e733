"""Bytes to pixels and back: what every source image goes through before and after the network.

    bytes ─ decode ─> RGB ─ to_square ─> square ─ to_tensor ─> (B, 3, S, S) in [-1, 1]
    bytes <─ encode ─ RGB <─ from_square ─ square <─ to_images ─ (B, 3, S, S)

Whatever a file holds, `decode` gives 8-bit sRGB the right way up on white ground, or an `ImageError` whose
code is in `ERROR_CODES`. Everything here is deterministic and touches neither disk nor network.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageCms, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

from lsb.errors import ImageError
from lsb.pictures.codecs import depth, formats, jpeg, png
from lsb.pictures.codecs.damage import DamagedError, TruncatedError, check_tiff
from lsb.pictures.metadata import Metadata, read_metadata

if TYPE_CHECKING:  # loading it takes seconds, and who checks digests needs none of it
    from torch import Tensor

MAX_PIXELS = 100_000_000
ERROR_CODES = {
    "empty_file": "the file has no bytes",
    "not_an_image": "the bytes are in none of the formats that lsb reads",
    "truncated": "the picture ends before its header says so",
    "corrupt": "the picture's data contradict its format",
    "too_large": f"the picture has more than {MAX_PIXELS // 1_000_000} megapixels and cannot be read at a smaller size",
    "unsupported_depth": "samples outside the ranges that have an agreed meaning",
    "unsupported_layout": "a TIFF whose samples are laid out as lsb does not read them",
    "too_many_scans": f"a JPEG of more than {jpeg.MAX_SCANS} scans, as only those have that are to keep a decoder busy",
    "codec_missing": "the package that reads this format is not installed",
}
# Rises when `decode` takes or refuses other files than before, or gives other pixels.
RULES = 4
# The pixels that runs with `geometry.fit: letterbox` were made of.
LETTERBOX_RULES = 3

_ORIENTATION_TAG = 0x0112
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_WHITE = (255, 255, 255)
_STRIP = 256  # rows that are compared at once
# `warnings.catch_warnings` changes state of the whole process, so that two threads must not be in it at once.
_QUIET = threading.Lock()


@dataclass(frozen=True)
class ImageInfo:
    """What a file's header says. `width` and `height` are as stored, before `orientation` is applied."""

    format: str
    mode: str
    width: int
    height: int
    orientation: int = 1  # EXIF, 1 to 8
    frames: int = 1  # of an animation or a document; the first is the picture
    transparent: bool = False  # whether any pixel is not opaque

    @property
    def grey(self) -> bool:
        """Whether its samples are levels of grey."""
        return self.mode in ("1", "L", "LA", "La", "F") or self.mode.startswith("I")

    @property
    def reduced_size(self) -> tuple[int, int]:
        """Width and height as the picture is read, before `orientation` is applied: smaller than stored above
        `MAX_PIXELS`, see `reduction`."""
        factor = reduction(self.width, self.height) or 1
        return -(-self.width // factor), -(-self.height // factor)

    @property
    def upright_size(self) -> tuple[int, int]:
        """`reduced_size` as the picture is shown: of what `decode` gives."""
        width, height = self.reduced_size
        return (height, width) if self.orientation >= 5 else (width, height)


@dataclass(frozen=True)
class Layers:
    """An upright picture in 8-bit sRGB: colours in mode RGB, and their opacity in mode L, None if all is opaque."""

    colours: Image.Image
    alpha: Image.Image | None

    def on_white(self) -> Image.Image:
        """RGB on white ground."""
        if self.alpha is None:
            return self.colours
        return Image.composite(self.colours, Image.new("RGB", self.colours.size, _WHITE), self.alpha)

    def apart(self) -> Image.Image:
        """RGBA, no ground mixed in."""
        picture = self.colours.convert("RGBA")
        if self.alpha is not None:
            picture.putalpha(self.alpha)
        return picture


@dataclass(frozen=True)
class Box:
    """Where the picture lies within its square, in pixels."""

    left: int
    top: int
    width: int
    height: int


def decode(data: bytes, rules: int = RULES) -> tuple[Image.Image, ImageInfo]:
    """A file's bytes to an 8-bit sRGB image.

    EXIF orientation is applied, transparency laid onto white, a colour profile converted to sRGB (one that is
    broken or of another colour space is ignored, as browsers do), 16-bit samples scaled to 8 bits (see
    `lsb.pictures.codecs.depth`), and of an animation or a document the first picture taken. A JPEG of more than
    `MAX_PIXELS` is read smaller, by the factor `reduction`.

    Args:
        rules: `RULES`, or `LETTERBOX_RULES` for what pictures were before there were `lsb.pictures.codecs.depth` and
            `too_many_scans`.

    Raises:
        ImageError: with one of `ERROR_CODES` as `code`.
    """
    if not data:
        raise _image_error("empty_file", "0 bytes")
    with _told_as_codes():
        try:
            layers, info = _decode(data, rules)
            return layers.on_white(), info
        except formats.CodecMissingError as error:
            raise _image_error("codec_missing", str(error)) from error
        except UnidentifiedImageError as error:
            found = formats.format_of(data[: formats.HEAD_BYTES])
            if found is None:
                allowed = ", ".join((*formats.OWN, *formats.PLUGINS))
                raise _image_error("not_an_image", f"starts with {data[:8].hex()}; allowed: {allowed}") from error
            if found == "TIFF" and (layout := depth.layout(data)):
                raise _image_error("unsupported_layout", layout) from error
            raise _image_error("corrupt", "its header cannot be read") from error


def decode_transparent(data: bytes, rules: int = RULES) -> Image.Image:
    """What `decode` takes a file for, as RGBA: the colours as they are where nothing hides them, and the opacity.

    Raises:
        ImageError: with one of `ERROR_CODES` as `code`.
    """
    with _told_as_codes():
        return _decode(data, rules)[0].apart()


def metadata_of(data: bytes) -> Metadata:
    """EXIF, XMP and IPTC of a file that can be decoded; what cannot be read of them is left out."""
    Image.init()
    with _QUIET, warnings.catch_warnings(), _any_size():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=formats.readable_as(data[: formats.HEAD_BYTES])) as opened:
                return read_metadata(opened)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001  such as a text that Pillow finds too long; the picture is none the worse for it
            return Metadata()


def to_rgb(image: Image.Image) -> Image.Image:
    """An image as Pillow opens it, to what `decode` makes of the same file; one of `decode` stays as it is.

    Damage that only the file's bytes show is not seen.

    Raises:
        ImageError: with one of `ERROR_CODES` as `code`.
        TypeError: no image of Pillow's.
    """
    if not isinstance(image, Image.Image):
        kind = type(image).__name__
        raise TypeError(f"an image must be a PIL.Image.Image, got {kind}; for bytes give lsb.decode(data)[0]")
    if image.mode == "RGB" and not image.info and type(image) is Image.Image:
        return image
    with _told_as_codes():
        return _layers(image).on_white()


@cache
def decoding_version(rules: int = RULES) -> str:
    """What decides which files can be decoded, and to which pixels: lsb's rules, Pillow, and the codecs in it."""
    versions = {"rules": str(rules)} | formats.codec_versions()
    return " ".join(f"{name}={version}" for name, version in versions.items())


def announced_pixels(data: bytes) -> int | None:
    """How many pixels a file's header says that it has, None if the header cannot be read."""
    with _QUIET, warnings.catch_warnings(), _any_size():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=formats.readable_as(data[: formats.HEAD_BYTES])) as opened:
                return opened.width * opened.height
        except Exception:  # noqa: BLE001  hostile bytes make Pillow raise nearly anything
            return None


def reduction(width: int, height: int) -> int | None:
    """By what a picture's sides are divided, and rounded up, when it is read.

    1 up to `MAX_PIXELS`, else the least of 2, 4 and 8 that leads below it: the scales at which a JPEG can be decoded.
    None if 8 does not.
    """
    return next((factor for factor in (1, 2, 4, 8) if -(-width // factor) * -(-height // factor) <= MAX_PIXELS), None)


def to_square(image: Image.Image, size: int) -> tuple[Image.Image, Box]:
    """Fit an RGB image into a white square of `size` pixels, centred, aspect kept (Lanczos).

    The longer side becomes `size`, the shorter at least one pixel.
    """
    return centred(image.resize(letterboxed_size(image.size, size), Image.Resampling.LANCZOS), size)


def letterboxed_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height of a picture in a square of `side` pixels, aspect kept: the longer one is `side`."""
    longer = max(size)
    width, height = (max(1, (length * side + longer // 2) // longer) for length in size)
    return width, height


def centred(image: Image.Image, side: int) -> tuple[Image.Image, Box]:
    """An RGB image in the middle of a white square of `side` pixels, at least as long as it, and its place there."""
    box = Box((side - image.width) // 2, (side - image.height) // 2, *image.size)
    square = Image.new("RGB", (side, side), _WHITE)
    square.paste(image, (box.left, box.top))
    return square, box


def from_square(square: Image.Image, box: Box) -> Image.Image:
    """Cut off again what `to_square` added: the picture in its own aspect, longer side as long as the square's."""
    return square.crop((box.left, box.top, box.left + box.width, box.top + box.height))


def to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """RGB images of one size to (B, 3, H, W) float32 in [-1, 1]."""
    import torch

    pixels = np.stack([np.asarray(image, dtype=np.uint8) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div(127.5).sub(1)


def to_images(tensor: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [-1, 1] to RGB images. Values outside are clamped, halves rounded up.

    Raises:
        ValueError: a value is NaN, which has no colour.
    """
    import torch

    values = tensor.detach().to("cpu", torch.float32)
    if values.isnan().any():
        raise ValueError("cannot make pixels of NaN")
    pixels = values.clamp(-1, 1).add(1).mul(127.5).add(0.5).floor().to(torch.uint8)
    return [Image.fromarray(picture) for picture in pixels.permute(0, 2, 3, 1).contiguous().numpy()]


def encode(image: Image.Image, format: Literal["png", "webp", "jpeg"]) -> bytes:
    """An RGB image to file bytes without metadata: PNG and WebP lossless, JPEG of quality 95 with full colour."""
    buffer = io.BytesIO()
    if format == "png":
        image.save(buffer, "PNG", optimize=False, compress_level=6)
    elif format == "webp":
        image.save(buffer, "WEBP", lossless=True, quality=80, method=4, exact=True)
    elif format == "jpeg":
        image.save(buffer, "JPEG", quality=95, subsampling=0, optimize=False)
    else:
        raise ValueError(f"format must be png, webp or jpeg, got {format!r}")
    return buffer.getvalue()


def pixels_sha256(image: Image.Image) -> str:
    """SHA-256 of an image's pixels, whatever file they came from: `RGB`, width, height (big-endian), raw bytes."""
    picture = image if image.mode == "RGB" else image.convert("RGB")
    return hashlib.sha256(b"RGB" + struct.pack(">II", *picture.size) + picture.tobytes()).hexdigest()


def contrast(image: Image.Image) -> float:
    """Standard deviation of all values of an RGB image, in [0, 1]; takes no memory, however large it is."""
    counts = np.array(image.histogram(), np.int64).reshape(-1, 256).sum(0)
    levels = np.arange(256)
    total, sums, squares = (int((counts * levels**power).sum()) for power in range(3))
    return math.sqrt(total * squares - sums**2) / total / 255


def _image_error(code: str, detail: str) -> ImageError:
    return ImageError(f"{code}: {ERROR_CODES[code]} ({detail})", code=code)


def _decode(data: bytes, rules: int) -> tuple[Layers, ImageInfo]:
    profile, animated = None, 1
    Image.init()  # registers the formats; only the first call does anything
    if data.startswith(png.SIGNATURE):
        _check_size(*png.size(data))
        animated = png.frames(data)
        data, profile = png.checked(data)
    noisy = None
    if data.startswith(jpeg.START):
        if rules > LETTERBOX_RULES and (count := jpeg.scans(data)) > jpeg.MAX_SCANS:
            raise _image_error("too_many_scans", f"{count} scans")
        data, noisy = jpeg.checked(data)
    with Image.open(io.BytesIO(data), formats=formats.readable_as(data[: formats.HEAD_BYTES])) as opened:
        width, height = opened.size
        info = ImageInfo(
            opened.format or "", opened.mode, width, height, _orientation(opened), max(animated, _frames(opened))
        )
        _reduce(opened)  # before the rest of the file is looked at
        if isinstance(opened, TiffImagePlugin.TiffImageFile):
            check_tiff(data, opened.tag_v2, width * height)
        if noisy:
            _check_rows(opened, noisy)
        opened.load()
        mended = depth.mended(opened, data) if rules > LETTERBOX_RULES else depth.Mended()
        if mended.bits:
            info = replace(info, mode=f"{'RGB' if info.mode == 'RGB' else 'I'};{mended.bits}")
        layers = _layers(opened, profile, mended)
        transparent = layers.alpha is not None and layers.alpha.getextrema() != (255, 255)
        return layers, replace(info, transparent=transparent)


def _layers(image: Image.Image, profile: bytes | None = None, mended: depth.Mended = depth.Mended()) -> Layers:
    _reduce(image)
    image.load()
    # Pillow turns TIFF files by itself while loading and then forgets the tag.
    turn = _TRANSPOSITIONS.get(_orientation(image))
    colours = _colours(mended.colours or image, profile or image.info.get("icc_profile"))
    alpha = mended.alpha or _alpha(image)
    if turn is not None:
        colours, alpha = colours.transpose(turn), alpha and alpha.transpose(turn)
    colours.info = {}  # what was true of the file is no longer
    return Layers(colours, alpha)


@contextmanager
def _told_as_codes() -> Iterator[None]:
    """Whatever goes wrong inside becomes an `ImageError`, and nothing is warned of."""
    with _QUIET, warnings.catch_warnings(), _any_size():
        warnings.simplefilter("ignore")
        try:
            yield
        except (ImageError, MemoryError):
            raise
        except DamagedError as error:
            code = "truncated" if isinstance(error, TruncatedError) else "corrupt"
            raise _image_error(code, str(error)) from error
        except Exception as error:  # hostile bytes make Pillow raise nearly anything
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            if "out of memory" in reason:
                raise MemoryError(reason) from error
            code = "truncated" if "truncated" in reason.lower() else "corrupt"
            raise _image_error(code, reason) from error


@contextmanager
def _any_size() -> Iterator[None]:
    """Let Pillow open headers of any size: what is read is for `_reduce` to say."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise _image_error("too_large", f"{width} x {height}")


def _reduce(image: Image.Image) -> None:
    """Have a JPEG that is too large decoded at a smaller scale; ImageError for others."""
    width, height = image.size
    factor = reduction(width, height)
    if factor == 1:
        return
    if factor and isinstance(image, JpegImagePlugin.JpegImageFile):
        image.draft(image.mode, (width // factor, height // factor))
    _check_size(*image.size)


def _check_rows(image: Image.Image, noisy: bytes) -> None:
    """Refuse a JPEG that is another picture when it is read from `noisy`, see `lsb.pictures.codecs.jpeg.checked`."""
    image.load()
    with Image.open(io.BytesIO(noisy), formats=("JPEG",)) as again:
        _reduce(again)
        again.load()
        for top in range(0, image.height, _STRIP):
            strip = (0, top, image.width, min(top + _STRIP, image.height))
            if image.crop(strip).tobytes() != again.crop(strip).tobytes():
                raise TruncatedError("rows of pixels are missing")


def _frames(image: Image.Image) -> int:
    """How many pictures the file has; 1 where what comes after the first cannot be read."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # noqa: BLE001, a broken second frame spoils no pixel of the first
        return 1


def _orientation(image: Image.Image) -> int:
    """EXIF orientation; 1 if there is none, or if the EXIF block cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001, a broken EXIF block spoils no pixel
        return 1
    return value if isinstance(value, int) and value in _TRANSPOSITIONS else 1


def _colours(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The colour channels as 8-bit sRGB, transparency ignored."""
    plain = _eight_bit(image)
    converted = _to_srgb(plain, profile) if profile else None
    return converted if converted is not None else plain.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """An image of mode L, RGB or CMYK with 8 bits a sample."""
    if image.mode.startswith("I;16"):
        samples = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((samples * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode == "I":
        samples = np.asarray(image)
        low, high = int(samples.min()), int(samples.max())
        if low < 0 or high > 65535:
            raise _image_error("unsupported_depth", f"integers from {low} to {high}, allowed 0 to 65535")
        return Image.fromarray(((samples.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode == "F":
        values = np.asarray(image)
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise _image_error("unsupported_depth", "floating-point values outside 0 to 1")
        return Image.fromarray(np.floor(values * 255 + 0.5).astype(np.uint8))
    if image.mode in ("L", "RGB", "CMYK"):
        return image
    return image.convert("L" if image.mode in ("1", "LA", "La") else "RGB")


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """The image in sRGB, or None where the profile is broken or belongs to another colour space."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _PROFILE_MODES.get(source.profile.xcolor_space.strip()) != image.mode:
            return None
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _alpha(image: Image.Image) -> Image.Image | None:
    """Opacity as mode L, or None where every pixel is opaque."""
    if image.mode.startswith("I;16") and isinstance(image.info.get("transparency"), int):
        clear = np.asarray(image) == image.info["transparency"]
        return Image.fromarray(np.where(clear, 0, 255).astype(np.uint8))
    if not image.has_transparency_data:
        return None
    return image.convert("RGBA").getchannel("A")
