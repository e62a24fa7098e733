"""What a translation is written as."""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping
from typing import Any, Literal

from PIL import Image
from pydantic import Field, model_validator

from lsb.fields import Frozen
from lsb.pictures.metadata import Metadata, options_for

ImageFormat = Literal["png", "webp", "jpeg", "avif"]

# Pixels on a side that encoder and decoder take; PNG takes any number.
LONGEST_SIDE = {"webp": 16_383, "jpeg": 65_500, "avif": 32_768}
# What Pillow calls a source's format, and what its translation is written as; all others as PNG.
_SAME: dict[str, ImageFormat] = {"JPEG": "jpeg", "MPO": "jpeg", "WEBP": "webp", "AVIF": "avif"}
_QUALITY = {"jpeg": 95, "avif": 90}
# Of the encoder, whose work may depend on the number: the same file on every machine.
_AVIF_THREADS = 1
_UNTRACED = {"format"}  # stands in a transform by itself, as `encoder`


class OutputSettings(Frozen):
    """What the translations are written as. Part of the transform id."""

    format: Literal["png", "webp", "jpeg", "avif", "source"] = Field(
        default="png",
        description="The images' format. `source`: each in that of its source, if that is JPEG, WebP or AVIF, else in "
        "PNG.",
    )
    quality: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description="In units of the encoder. Of JPEG (95 if none is given), AVIF (90) and WebP, which is lossless if "
        "none is given.",
    )
    alpha: Literal["white", "keep", "refuse"] = Field(
        default="white",
        description="What becomes of transparency, which the network sees on white. `white`: it stays so. `keep`: the "
        "source's is put back, and the white taken out of the colours. `refuse`: the record is set aside.",
    )
    metadata: Literal["none", "keep"] = Field(
        default="none",
        description="What becomes of EXIF, XMP and IPTC. `keep`: they are copied but for orientation, size and "
        "thumbnail. They may say who took the picture, and where.",
    )
    grey: Literal["colour", "keep"] = Field(
        default="colour",
        description="What is made of a grey picture. `keep`: a grey one.",
    )

    @model_validator(mode="after")
    def _go_together(self) -> OutputSettings:
        if self.quality is not None and self.format == "png":
            raise ValueError("quality is for jpeg, webp, avif and source; png loses nothing, leave it out")
        if self.alpha == "keep" and self.format == "jpeg":
            raise ValueError(
                "alpha: keep needs a format that has transparency, which jpeg has not; use png, webp or avif"
            )
        return self

    @property
    def trace(self) -> dict[str, Any] | None:
        """What stands in a transform beside the format: what is not at its default; None if nothing is."""
        return self.model_dump(mode="json", exclude_defaults=True, exclude=_UNTRACED) or None

    @classmethod
    def of_transform(cls, transform: Mapping[str, Any]) -> OutputSettings:
        """The settings that a transform names."""
        return cls.model_validate({"format": transform["encoder"], **transform.get("output", {})})

    def format_for(self, source: str) -> ImageFormat:
        """The format of a translation.

        Args:
            source: Pillow's name of the source's; none is as good as one that is not written.
        """
        return _SAME.get(source, "png") if self.format == "source" else self.format


def is_lossy(format: ImageFormat, quality: int | None) -> bool:
    """Whether a file has other pixels than the image that it was made of."""
    return format in _QUALITY or (format == "webp" and quality is not None)


def encode(
    image: Image.Image, format: ImageFormat, quality: int | None = None, metadata: Metadata = Metadata()
) -> bytes:
    """An image to file bytes, the same on every machine with the same codecs.

    Args:
        image: mode RGB, RGBA, L or LA; JPEG takes none with transparency.
        quality: 1 to 100, see `OutputSettings`; PNG knows none.
        metadata: what fits into the format, see `lsb.pictures.metadata.fitting`.
    """
    options = options_for(format, metadata)
    if format == "png":
        # Of what a network paints, next to nothing repeats: looking for it takes four times as long, and saves nothing.
        options |= {"optimize": False, "compress_level": 6, "compress_type": zlib.Z_RLE}
    elif format == "jpeg":
        options |= {"quality": quality or _QUALITY["jpeg"], "subsampling": 0, "optimize": False}
    elif format == "avif":
        options |= {"quality": quality or _QUALITY["avif"], "subsampling": "4:4:4", "max_threads": _AVIF_THREADS}
    elif format != "webp":
        raise ValueError(f"format must be png, webp, jpeg or avif, got {format!r}")
    elif quality is None:
        # Half the time that method 4 takes; the files are 1 to 2 % larger.
        options |= {"lossless": True, "quality": 20, "method": 3, "exact": True}
    else:
        options |= {"quality": quality, "method": 4, "exact": True}
    if format in ("webp", "avif") and image.mode in ("L", "LA"):
        image = image.convert("RGB" if image.mode == "L" else "RGBA")
    buffer = io.BytesIO()
    image.save(buffer, format.upper(), **options)
    return buffer.getvalue()
