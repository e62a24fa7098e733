"""What `sizes.py` measures with: real photographs in forty sizes, and models with the strides of version 1.5."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import skimage
import torch
from PIL import Image
from whole_model import whole_model

from lsb.models.load import load_backbone
from lsb.models.protocol import Backbone
from lsb.pictures.geometry import Canvas
from tests.tiny import tiny_model

EMBEDDED = Path(__file__).resolve().parents[1] / "examples" / "emoji" / "model"
SIZES = [
    *((64, 64), (37, 53), (100, 75), (75, 100), (128, 96), (200, 133), (133, 200), (256, 256), (300, 200), (320, 240)),
    *((333, 217), (400, 300), (427, 640), (480, 360), (500, 100), (100, 500), (512, 512), (512, 384), (511, 513)),
    *((600, 150), (640, 427), (640, 480), (641, 479), (700, 467), (720, 1280), (768, 512), (800, 200), (200, 800)),
    *((801, 601), (960, 540), (1000, 872), (1024, 512), (1024, 768), (1080, 1350), (1200, 300), (1280, 720)),
    *((1411, 1411), (1500, 1000), (1600, 200), (1600, 1200)),
]
KINDS = ("RGB", "CMYK", "grey", "alpha", "rotated")


def photographs() -> dict[str, Image.Image]:
    """scikit-image's in colour, and scikit-learn's where that is installed."""
    folder = Path(skimage.__file__).parent / "data"
    files = [folder / name for name in ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png")]
    files += [folder / name for name in ("rocket.jpg", "hubble_deep_field.jpg", "retina.jpg", "ihc.png")]
    found = importlib.util.find_spec("sklearn")
    if found is not None and found.submodule_search_locations:
        images = Path(found.submodule_search_locations[0], "datasets", "images")
        files += [images / "china.jpg", images / "flower.jpg"]
    return {file.stem: Image.open(file).convert("RGB") for file in files}


def in_forty_sizes() -> list[Image.Image]:
    """Photographs, cropped to the sizes' aspects around their middles and scaled."""
    sources = list(photographs().values())
    return [scaled(sources[number % len(sources)], size) for number, size in enumerate(SIZES)]


def scaled(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The largest part of that aspect from its middle, at that size."""
    scale = min(image.width / size[0], image.height / size[1])
    width, height = scale * size[0], scale * size[1]
    left, top = max(0.0, (image.width - width) / 2), max(0.0, (image.height - height) / 2)  # a rounding below 0
    box = (left, top, min(left + width, image.width), min(top + height, image.height))
    return image.resize(size, Image.Resampling.LANCZOS, box)


def write_file(image: Image.Image, kind: str, folder: Path, number: int) -> Path:
    """The picture in a file of a kind, which is as large when it is read."""
    name = f"{number:02d}-{kind}-{image.width}x{image.height}"
    if kind == "CMYK":
        return _saved(image.convert("CMYK"), folder / f"{name}.jpg", quality=95)
    if kind == "grey":
        return _saved(image.convert("L"), folder / f"{name}.png")
    if kind == "alpha":
        ramp = Image.linear_gradient("L").resize(image.size)
        image = image.copy()
        image.putalpha(ramp)
        return _saved(image, folder / f"{name}.png")
    if kind == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 6
        return _saved(image.transpose(Image.Transpose.ROTATE_90), folder / f"{name}.jpg", quality=95, exif=exif)
    return _saved(image, folder / f"{name}.png")


def _saved(image: Image.Image, file: Path, **options: Any) -> Path:
    image.save(file, **options)
    return file


def narrow_folder(folder: Path) -> Path:
    """Random weights, all blocks of Stable Diffusion 1.5 with few channels, for pictures of 512 × 512."""
    tiny_model(folder, layout="1.5")
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "sample_size": 64}))
    return folder


def backbone_of(kind: str, folder: Path) -> Backbone:
    """`embedded`, `narrow` or `full`."""
    folders = {
        "embedded": lambda: EMBEDDED,
        "narrow": lambda: narrow_folder(folder),
        "full": lambda: whole_model(folder),
    }
    return load_backbone(str(folders[kind]()), device="cpu")


class Linear:
    """A stand-in for an autoencoder of factor 8: averages down, bilinear up."""

    canvas = Canvas(512, 64)
    device = "cpu"

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        return 3, height // 8, width // 8

    def encode(self, images: torch.Tensor, eps: torch.Tensor | None = None) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images, 8)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(latents, scale_factor=8, mode="bilinear", align_corners=False)
