"""Files are known by their first bytes; packages that read some of them may be missing."""

from __future__ import annotations

import importlib

import numpy as np
import pillow_heif
import pillow_jxl  # noqa: F401  registers itself
import pytest
from PIL import Image

from lsb.errors import ImageError
from lsb.pictures.codecs import formats
from lsb.pictures.codecs.formats import HEAD_BYTES, OWN, PLUGINS, format_of
from lsb.pictures.decoder import Decoder
from lsb.pictures.images import ImageInfo, decode, decoding_version
from tests.bombs import saved

pillow_heif.register_heif_opener()

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))


def variants(format: str) -> list[bytes]:
    options: dict[str, list[dict[str, object]]] = {
        "JPEG": [{}, {"progressive": True}],
        "JPEG2000": [{}, {"no_jp2": True}],
        "TIFF": [{}, {"compression": "tiff_lzw"}],
        "WEBP": [{}, {"lossless": True}],
    }
    return [saved(PICTURE, format, **chosen) for chosen in options.get(format, [{}])]


@pytest.mark.parametrize("format", [*OWN, *PLUGINS])
def test_a_file_is_known_by_its_first_bytes_and_read(format: str) -> None:
    for data in variants(format):
        assert format_of(data[:HEAD_BYTES]) == format
        picture, info = decode(data)
        assert (info.format, picture.size, info.frames) == (format, (50, 40), 1)


@pytest.mark.parametrize(
    "head",
    [b"", b"BM", b"BMy letter begins like this", b"GIF", b"RIFF1234WAVE", b"%PDF-1.7", b"\0\0\0\x18ftypmp42", b"II"],
)
def test_what_begins_otherwise_is_none(head: bytes) -> None:
    assert format_of(head) is None


@pytest.mark.parametrize("format", PLUGINS)
def test_without_its_package_a_file_is_refused_with_what_to_install(
    format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImageError, match=r"pip install 'lsb\[formats\]'") as caught:
        decode(saved(PICTURE, format))
    assert caught.value.code == "codec_missing"
    assert decode(saved(PICTURE, "PNG"))[1].format == "PNG"


def test_a_package_that_comes_later_is_another_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what was refused without it is looked at again."""
    with_all = decoding_version()
    assert "pillow-heif=" in with_all
    decoding_version.cache_clear()
    monkeypatch.setattr(formats, "PLUGINS", {})
    assert decoding_version() not in ("", with_all)
    decoding_version.cache_clear()


@pytest.mark.parametrize("format", PLUGINS)
@pytest.mark.parametrize("part", [0.3, 0.9, 0.999])
def test_half_a_file_is_refused(format: str, part: float) -> None:
    data = saved(PICTURE, format)
    with pytest.raises(ImageError) as caught:
        decode(data[: int(len(data) * part)])
    assert caught.value.code in ("corrupt", "truncated")


@pytest.mark.parametrize("format", PLUGINS)
def test_the_process_that_decodes_reads_them_too(format: str) -> None:
    data = saved(PICTURE, format)
    with Decoder() as decoder:
        found, info = decoder.decode(data)
    assert found.tobytes() == decode(data)[0].tobytes()
    assert info == ImageInfo(format, "RGB", 50, 40)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "PNG", "AVIF", "HEIF"])
def test_of_several_pictures_the_first_is_taken_and_all_are_counted(format: str) -> None:
    others = [PICTURE.rotate(angle) for angle in (90, 180)]
    options = {"lossless": True} if format == "WEBP" else {"quality": 100} if format in ("AVIF", "HEIF") else {}
    data = saved(PICTURE, format, save_all=True, append_images=others, **options)
    picture, info = decode(data)
    assert info.frames == 3
    assert picture.tobytes() == decode(saved(PICTURE, format, **options))[0].tobytes()
