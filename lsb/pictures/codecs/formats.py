"""The formats that are read, by the names and the first bytes of their files."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib import metadata

import PIL
from PIL import features

from lsb.pictures.codecs import jpeg, png

SUFFIXES = frozenset(
    {
        *(".png", ".webp", ".gif", ".bmp", ".avif"),
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k"),
        *(".tif", ".tiff"),
        *(".heic", ".heif", ".jxl"),
    }
)
# Of Pillow's names. EPS and the like, which start other programs, are left out.
OWN = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000")
HEAD_BYTES = 32  # of a file, by which its format is known

_CODECS = ("libjpeg_turbo", "jpg", "jpg_2000", "zlib_ng", "zlib", "webp", "libtiff", "avif", "littlecms2")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_STARTS = {
    "PNG": (png.SIGNATURE,),
    "JPEG": (jpeg.START,),
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\0", b"MM\0*"),
    "JPEG2000": (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
    "JXL": (b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\x0a"),
    # Two letters begin many a text; the length of the next header is one of those that exist.
    "BMP": (b"BM",),
}
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)


@dataclass(frozen=True)
class Plugin:
    """A format that Pillow reads with the help of another package, of the extra `formats`."""

    package: str
    module: str
    register: str | None  # what of the module is called; None where importing it does all


PLUGINS = {
    "HEIF": Plugin("pillow-heif", "pillow_heif", "register_heif_opener"),
    "JXL": Plugin("pillow-jxl-plugin", "pillow_jxl", None),
}


class CodecMissingError(Exception):
    """The message says what to install."""


def format_of(head: bytes) -> str | None:
    """Pillow's name of the format whose files begin like this, None if it is none of those that are read.

    Args:
        head: the first `HEAD_BYTES` of a file, or more.
    """
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        if head[8:12] in (b"avif", b"avis") or b"avif" in head[16:HEAD_BYTES]:
            return "AVIF"
        return "HEIF" if head[8:12] in _HEIF_BRANDS else None
    found = next((name for name, starts in _STARTS.items() if head.startswith(starts)), None)
    if found == "BMP" and int.from_bytes(head[14:18], "little") not in _BMP_HEADERS:
        return None
    return found


def readable_as(head: bytes) -> tuple[str, ...]:
    """What Pillow is to try on a file that begins like this.

    Raises:
        CodecMissingError: it is of a format for which a package is missing.
    """
    found = format_of(head)
    if found not in PLUGINS:
        return OWN
    plugin = PLUGINS[found]
    try:
        module = importlib.import_module(plugin.module)
    except ModuleNotFoundError as error:
        raise CodecMissingError(f"{found} needs {plugin.package}; pip install 'lsb[formats]'") from error
    if plugin.register:
        getattr(module, plugin.register)()
    return (found,)


def codec_versions() -> dict[str, str]:
    """The version of Pillow, of each codec in it, and of the packages of `PLUGINS` that are installed."""
    versions = {"pillow": PIL.__version__} | {name: str(features.version(name)) for name in _CODECS}
    for plugin in PLUGINS.values():
        try:
            versions[plugin.package] = metadata.version(plugin.package)
        except metadata.PackageNotFoundError:
            continue
    return versions
