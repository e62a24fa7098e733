"""What of a source goes into its output beside what the network makes of it, and the output's file."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image

from lsb.errors import EncodingError, ImageError
from lsb.pictures.decoder import Decoder
from lsb.pictures.encoding import ImageFormat, OutputSettings, encode, is_lossy
from lsb.pictures.geometry import Frame
from lsb.pictures.images import ImageInfo, decode
from lsb.pictures.metadata import Metadata, fitting
from lsb.pictures.transparency import on_white, put_back

ERROR_CODES = {"transparent": "the picture has transparent pixels, and output.alpha is refuse"}


@dataclass(frozen=True)
class Kept:
    """What is kept of a source until its output is written.

    Attributes:
        format: of the output.
        quality: see `lsb.pictures.encoding.OutputSettings`.
        grey: whether the output is to be grey.
        transparent: the file's bytes, if its transparency is put back.
        rules: of decoding, for these.
        metadata: what goes into the output.
        found: kinds of metadata in the source, None if nobody looked.
    """

    format: ImageFormat = "png"
    quality: int | None = None
    grey: bool = False
    transparent: bytes | None = None
    rules: int = 0
    metadata: Metadata = field(default_factory=Metadata)
    found: tuple[str, ...] | None = None

    @property
    def held_bytes(self) -> int:
        return len(self.transparent or b"") + sum(len(getattr(self.metadata, kind)) for kind in self.metadata.kinds)


def kept_of(data: bytes, info: ImageInfo, settings: OutputSettings, decoder: Decoder, rules: int) -> Kept:
    """What an output needs of its source's file.

    Args:
        info: what decoding found out about it.
        rules: by which it was decoded.

    Raises:
        ImageError: it is transparent, and that is to be refused.
        DecodingError: looking for metadata took too much time or memory.
    """
    if info.transparent and settings.alpha == "refuse":
        raise ImageError(f"transparent: {ERROR_CODES['transparent']}", code="transparent")
    format = settings.format_for(info.format)
    found = decoder.metadata_of(data) if settings.metadata == "keep" else None
    return Kept(
        format=format,
        quality=settings.quality,
        grey=settings.grey == "keep" and info.grey,
        transparent=data if info.transparent and settings.alpha == "keep" else None,
        rules=rules,
        metadata=fitting(found, format) if found else Metadata(),
        found=None if found is None else found.kinds,
    )


def composed(working: Image.Image, frame: Frame, kept: Kept, decoder: Decoder) -> Image.Image:
    """What the network made, as it is written: grey, or with the source's transparency, mode L, RGB, LA or RGBA.

    Args:
        working: RGB, of the frame's size `working`.

    Raises:
        DecodingError: decoding the source again took too much time or memory.
    """
    if kept.transparent is None:
        image = frame.finish(working)
    else:
        source = decoder.decode_transparent(kept.transparent, kept.rules)
        image = put_back(frame.cut(working), source, frame.output)
    if kept.grey:
        image = image.convert("LA" if image.mode == "RGBA" else "L")
    return image


def written(image: Image.Image, kept: Kept) -> tuple[bytes, Image.Image]:
    """A composed image as a file, and the pixels that come out of it, in RGB on white.

    Raises:
        EncodingError: the encoder refuses it.
    """
    try:
        data = encode(image, kept.format, kept.quality, kept.metadata)
    except (OSError, ValueError, RuntimeError) as error:
        raise EncodingError(f"{type(error).__name__}: {error}") from error
    if is_lossy(kept.format, kept.quality):
        return data, decode(data)[0]
    return data, on_white(image.convert("RGBA")) if image.has_transparency_data else image.convert("RGB")
