"""Bytes to pixels and back."""

from __future__ import annotations

import hashlib
import io
import pickle
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from lsb.errors import ImageError
from lsb.pictures import images
from lsb.pictures.images import (
    Box,
    ImageInfo,
    centred,
    decode,
    from_square,
    pixels_sha256,
    to_images,
    to_square,
    to_tensor,
)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def gradient(width: int = 40, height: int = 24) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) * 3 % 256], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def close(one: Image.Image, two: Image.Image) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(two).astype(int)).max())


@pytest.mark.parametrize(
    ("format", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("BMP", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("JPEG", {"quality": 98, "subsampling": 0}, 20),
        ("AVIF", {"quality": 95}, 30),
    ],
)
def test_every_format_decodes_to_rgb(format: str, options: dict, tolerance: int) -> None:
    picture, info = decode(saved(gradient(), format, **options))
    assert picture.mode == "RGB"
    assert close(picture, gradient()) <= tolerance
    assert info == ImageInfo(format, "RGB", 40, 24, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int) -> None:
    upright = gradient()
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for format, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        picture, info = decode(saved(stored, format, exif=exif, **options))
        assert close(picture, upright) == 0, format
        assert info.orientation == orientation


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_transparency_lies_on_white(mode: str) -> None:
    colour = Image.new("RGBA", (8, 8), (200, 0, 0, 255))
    colour.paste((0, 0, 0, 0), (0, 0, 4, 8))
    if mode == "P":
        data = saved(colour.quantize(4), "PNG")
    else:
        data = saved(colour.convert(mode), "PNG" if mode != "PA" else "TIFF")
    pixels = np.asarray(decode(data)[0])
    assert (pixels[:, :4] == 255).all()
    assert (pixels[:, 4:] != 255).any()


def test_half_transparent_black_is_grey() -> None:
    pixels = np.asarray(decode(saved(Image.new("RGBA", (2, 2), (0, 0, 0, 128)), "PNG"))[0])
    assert (pixels == 127).all()


def test_a_transparent_colour_key_is_white() -> None:
    data = saved(Image.new("RGB", (4, 4), (10, 20, 30)), "PNG", transparency=(10, 20, 30))
    assert (np.asarray(decode(data)[0]) == 255).all()


def test_sixteen_bits_are_scaled_not_saturated() -> None:
    samples = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    for format in ("PNG", "TIFF"):
        pixels = np.asarray(decode(saved(Image.fromarray(samples), format))[0])
        assert pixels[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255], format


def test_sixteen_bit_colour_is_scaled() -> None:
    """Pillow writes no 48-bit PNG, so that this one is made by hand."""
    row = b"\0" + struct.pack(">6H", 0, 32768, 65535, 65535, 256, 0)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    assert np.asarray(decode(data)[0])[0].tolist() == [[0, 128, 255], [255, 1, 0]]


def test_float_and_wide_integer_samples() -> None:
    unit = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    assert np.asarray(decode(saved(unit, "TIFF"))[0])[0, :, 0].tolist() == [0, 128, 255]
    wide = Image.fromarray(np.array([[0, 65535]], dtype=np.int32))
    assert np.asarray(decode(saved(wide, "TIFF"))[0])[0, :, 0].tolist() == [0, 255]
    for bad in (np.array([[2.0]], dtype=np.float32), np.array([[np.nan]], dtype=np.float32), np.array([[70000]])):
        with pytest.raises(ImageError) as caught:
            decode(saved(Image.fromarray(bad.astype(np.int32) if bad.dtype == np.int64 else bad), "TIFF"))
        assert caught.value.code == "unsupported_depth"


def test_a_colour_profile_is_converted() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert close(decode(saved(gradient(), "PNG", icc_profile=srgb))[0], gradient()) <= 1
    for ignored in (lab, b"not a profile"):
        assert close(decode(saved(gradient(), "PNG", icc_profile=ignored))[0], gradient()) == 0
    swapped = swap_primaries(srgb)
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    pixel = decode(saved(red, "PNG", icc_profile=swapped))[0].getpixel((0, 0))
    assert pixel == (0, 255, 0)


def swap_primaries(profile: bytes) -> bytes:
    """An sRGB profile whose red and green have changed places."""
    tags = int.from_bytes(profile[128:132], "big")
    table = bytearray(profile[132 : 132 + 12 * tags])
    for position in range(0, len(table), 12):
        name = bytes(table[position : position + 4])
        table[position : position + 4] = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}.get(name, name)
    return profile[:132] + bytes(table) + profile[132 + 12 * tags :]


def test_cmyk_and_grey_and_bilevel() -> None:
    assert (
        close(decode(saved(Image.new("CMYK", (4, 4), (0, 0, 0, 0)), "JPEG"))[0], Image.new("RGB", (4, 4), "white")) < 3
    )
    assert decode(saved(Image.new("L", (4, 4), 77), "PNG"))[0].getpixel((1, 1)) == (77, 77, 77)
    assert decode(saved(Image.new("1", (4, 4), 1), "PNG"))[0].getpixel((1, 1)) == (255, 255, 255)


def test_of_an_animation_the_first_frame() -> None:
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "blue")]
    for format in ("GIF", "WEBP", "PNG"):
        data = saved(
            frames[0],
            format,
            save_all=True,
            append_images=frames[1:],
            **({"lossless": True} if format == "WEBP" else {}),
        )
        assert decode(data)[0].getpixel((3, 3)) == (255, 0, 0), format


def test_bad_files_have_codes() -> None:
    whole = saved(gradient(), "PNG")
    cases = {
        b"": "empty_file",
        b"hello, this is text": "not_an_image",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n": "not_an_image",
        saved(gradient(400, 300), "JPEG")[:-2000]: "truncated",
        whole[:-30]: "truncated",
        whole.replace(b"IDAT", b"IDAX"): "corrupt",
    }
    for data, code in cases.items():
        with pytest.raises(ImageError) as caught:
            decode(data)
        assert caught.value.code == code
        assert caught.value.code in images.ERROR_CODES
        assert "\n" not in str(caught.value)
        assert pickle.loads(pickle.dumps(caught.value)).code == code  # noqa: S301


def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    for side in (10_001, 60_000):
        header = struct.pack(">IIBBBBB", side, 10_000, 8, 2, 0, 0, 0)
        body = b"IHDR" + header
        data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
        data += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
        with pytest.raises(ImageError) as caught:
            decode(data)
        assert caught.value.code == "too_large"


def test_a_jpeg_of_more_pixels_is_read_smaller_and_right_way_up(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = gradient(401, 299)
    whole = saved(picture, "JPEG", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = saved(picture, "JPEG", quality=95, exif=exif)
    for pixels, size in ((401 * 299, (401, 299)), (401 * 299 - 1, (201, 150)), (201 * 150 - 1, (101, 75))):
        monkeypatch.setattr(images, "MAX_PIXELS", pixels)
        found, info = decode(whole)
        assert (found.size, info.width, info.height, info.reduced_size) == (size, 401, 299, size)
        assert decode(turned)[0].size == size[::-1]
        assert np.array_equal(np.asarray(images.to_rgb(Image.open(io.BytesIO(whole)))), np.asarray(found))
        near = picture.resize(size, Image.Resampling.BOX)
        assert np.abs(np.asarray(near, float) - np.asarray(found, float)).mean() < 4
    refused = [whole, saved(picture, "PNG"), saved(picture, "WEBP")]
    monkeypatch.setattr(images, "MAX_PIXELS", 51 * 38 - 1)
    for data in refused:
        with pytest.raises(ImageError) as caught:
            decode(data)
        assert caught.value.code == "too_large"


def test_by_how_much_a_picture_is_reduced_follows_from_its_sides_alone() -> None:
    sides = {(10_000, 10_000): 1, (12_000, 9_000): 2, (16_320, 12_240): 2, (20_001, 20_000): 4, (65_535, 65_535): 8}
    assert {size: images.reduction(*size) for size in sides} == sides
    assert images.reduction(1_000_000, 1_000_000) is None


def test_a_jpeg_of_200_megapixels_is_read_though_pillow_takes_it_for_a_bomb() -> None:
    found, info = decode(saved(Image.new("L", (16_320, 12_240), 90), "JPEG"))
    assert (found.size, info.width, info.height) == ((8_160, 6_120), 16_320, 12_240)
    assert found.getpixel((8_000, 6_000)) == (90, 90, 90)


def test_mutated_files_decode_or_raise_an_image_error_and_never_warn() -> None:
    rng = random.Random(0)
    seeds = [
        saved(gradient(), "PNG"),
        saved(gradient(), "JPEG"),
        saved(gradient(), "TIFF", compression="tiff_lzw"),
        saved(gradient(), "WEBP"),
        saved(gradient().quantize(8), "GIF"),
    ]
    codes: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(300):
            data = bytearray(rng.choice(seeds))
            for _ in range(rng.randint(1, 8)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            try:
                assert decode(bytes(data))[0].mode == "RGB"
            except ImageError as error:
                codes.append(error.code)
    assert len(codes) > 50
    assert set(codes) <= set(images.ERROR_CODES)


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((64, 64), Box(0, 0, 64, 64)),
        ((300, 150), Box(0, 16, 64, 32)),
        ((7, 21), Box(21, 0, 21, 64)),
        ((1, 5000), Box(31, 0, 1, 64)),
    ],
)
def test_letterbox_and_back(size: tuple[int, int], box: Box) -> None:
    picture = Image.new("RGB", size, (10, 60, 200))
    square, found = to_square(picture, 64)
    assert found == box
    assert square.size == (64, 64)
    inside = from_square(square, found)
    assert inside.size == (box.width, box.height)
    assert (np.asarray(inside) == (10, 60, 200)).all()
    outside = np.asarray(square).copy()
    outside[box.top : box.top + box.height, box.left : box.left + box.width] = 255
    assert (outside == 255).all()


def test_a_square_of_the_right_size_is_not_resampled() -> None:
    picture = gradient(64, 64)
    assert close(to_square(picture, 64)[0], picture) == 0


def test_tensor_round_trip_is_exact() -> None:
    every_level = Image.fromarray(np.arange(768, dtype=np.uint32).reshape(16, 16, 3).astype(np.uint8))
    tensor = to_tensor([every_level, every_level])
    assert tensor.shape == (2, 3, 16, 16)
    assert tensor.dtype == torch.float32
    assert tensor.min() == -1
    assert tensor.max() == 1
    assert [close(picture, every_level) for picture in to_images(tensor)] == [0, 0]


def test_pixels_are_clamped_and_halves_rounded_up() -> None:
    half = 0.5 / 127.5 - 1
    values = torch.tensor([-7.0, half, half - 1e-4, 7.0]).expand(1, 3, 1, 4)
    assert np.asarray(to_images(values)[0])[0, :, 0].tolist() == [0, 1, 0, 255]
    with pytest.raises(ValueError, match="NaN"):
        to_images(torch.full((1, 3, 2, 2), torch.nan))


def test_pixel_digest_is_of_the_pixels_alone() -> None:
    picture = Image.new("RGB", (2, 1), (1, 2, 3))
    expected = hashlib.sha256(b"RGB" + b"\0\0\0\2\0\0\0\1" + bytes([1, 2, 3] * 2)).hexdigest()
    assert pixels_sha256(picture) == expected
    assert pixels_sha256(decode(saved(picture, "PNG"))[0]) == pixels_sha256(decode(saved(picture, "BMP"))[0])
    assert pixels_sha256(picture.transpose(Image.Transpose.ROTATE_90)) != expected


@pytest.mark.parametrize(("size", "place"), [((3, 8), (2, 0)), ((8, 3), (0, 2)), ((5, 2), (1, 3)), ((8, 8), (0, 0))])
def test_a_picture_in_the_middle_of_a_square_keeps_its_pixels_and_an_odd_rest_is_right_and_below(
    size: tuple[int, int], place: tuple[int, int]
) -> None:
    square, box = centred(Image.new("RGB", size, (9, 8, 7)), 8)
    assert (box.left, box.top, box.width, box.height) == (*place, *size)
    assert set(from_square(square, box).get_flattened_data()) == {(9, 8, 7)}
    pixels = np.asarray(square)
    assert (pixels == 255).all(axis=2).sum() == 64 - size[0] * size[1]
