"""The emoji data set in memory, its captions, and the augmentations that training uses."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.color import label2rgb
from skimage.segmentation import felzenszwalb
from torch import Tensor

SIZE = 64
STYLES = ("flat", "3d", "noto", "twemoji")
STYLE_WORDS = {
    "flat": (
        "flat icon",
        "flat vector icon",
        "flat colour drawing",
        "simple flat illustration",
        "flat emoji",
        "flat design",
        "flat clip art",
        "flat shapes in plain colours",
    ),
    "3d": (
        "3d icon",
        "glossy 3d render",
        "soft shaded 3d picture",
        "smooth 3d illustration",
        "3d emoji",
        "3d model",
        "shiny 3d figure with highlights",
        "rounded 3d shapes in soft light",
    ),
    "noto": (
        "noto emoji",
        "detailed cartoon icon",
        "noto cartoon drawing",
        "cartoon emoji",
        "noto icon",
        "google noto drawing",
        "cartoon with outlines and gradients",
        "noto style",
    ),
    "twemoji": (
        "twemoji",
        "minimal twitter emoji",
        "twitter icon",
        "plain twitter drawing",
        "twitter style emoji",
        "twemoji drawing",
        "bold twitter shapes",
        "twemoji style",
    ),
}
RESTORED = "restored"  # before a style's words: a picture that was seen in another style is to be put into this one
PARQUET = Path(__file__).parent / "emoji.parquet"


@dataclass(frozen=True)
class Pictures:
    """One split: images (N, 64, 64, 3) uint8, style index (N,), and the words about each picture."""

    images: np.ndarray
    style: np.ndarray
    name: list[str]
    category: list[str]
    symbol: list[str]
    cldr_name: list[str]
    keywords: list[list[str]]

    def only(self, rows: list[int]) -> Pictures:
        words = (self.name, self.category, self.symbol, self.cldr_name, self.keywords)
        return Pictures(self.images[rows], self.style[rows], *([column[row] for row in rows] for column in words))

    def batch(self, rows: Iterable[int]) -> Tensor:
        """Rows as (B, 3, 64, 64) float32 in [-1, 1]."""
        picked = torch.from_numpy(self.images[list(rows)])
        return picked.permute(0, 3, 1, 2).float() / 127.5 - 1


def load(split: str, path: Path = PARQUET) -> Pictures:
    table = pq.read_table(path, filters=[("split", "=", split)]).to_pydict()
    return Pictures(
        images=np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in table["image"]]),
        style=np.array([STYLES.index(style) for style in table["style"]]),
        name=table["name"],
        category=table["category"],
        symbol=table["symbol"],
        cldr_name=[name.lower() for name in table["cldr_name"]],
        keywords=[[word.lower() for word in words] for words in table["keywords"]],
    )


def uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def move(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the batch, then scale by 0.8 to 1.05 and shift by up to 10 %, on white ground."""
    count = len(images)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    scale = 1 / uniform((count,), 0.8, 1.05, generator)
    shift = uniform((count, 2), -0.2, 0.2, generator) * (torch.rand(count, 1, generator=generator) < 0.7)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = mirror * scale, scale, shift
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images - 1, grid, mode="bicubic", align_corners=False).add(1).clamp(-1, 1)


def recolour(images: Tensor, generator: torch.Generator, share: float = 0.4) -> Tensor:
    """Rotate hue and change saturation of a share of the batch; white stays white."""
    count = len(images)
    angle = uniform((count,), -math.pi, math.pi, generator)
    saturation = uniform((count,), 0.3, 1.3, generator)
    # YIQ: a luma axis and a chroma plane, which the rotation turns.
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    turn = torch.zeros(count, 3, 3)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = saturation * angle.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -saturation * angle.sin(), saturation * angle.sin()
    matrix = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    coloured = torch.einsum("bij,bjhw->bihw", matrix, images).clamp(-1, 1)
    chosen = torch.rand(count, generator=generator) < share
    return torch.where(chosen[:, None, None, None], coloured, images)


def symbol_words(pictures: Pictures, row: int, generator: torch.Generator) -> str:
    """What a picture shows: one of its two names, or a few of its keywords, or both."""
    names = (pictures.name[row], pictures.cldr_name[row])
    name = names[int(torch.randint(2, (), generator=generator))]
    words = pictures.keywords[row]
    few = [words[i] for i in torch.randperm(len(words), generator=generator)[:3].tolist()]
    drawn = float(torch.rand((), generator=generator))
    if drawn < 0.6 or not few:
        return name
    return f"{name}, {', '.join(few)}" if drawn < 0.85 else ", ".join(few)


def caption(pictures: Pictures, row: int, generator: torch.Generator) -> str:
    """Words about a picture: the style in 92 of 100, in 40 alone; nothing at all in 4."""
    words = STYLE_WORDS[STYLES[int(pictures.style[row])]]
    style = words[int(torch.randint(len(words), (), generator=generator))]
    symbol, category = symbol_words(pictures, row, generator), pictures.category[row]
    forms = (
        (0.15, style),
        (0.30, f"a {style}"),
        (0.40, f"a picture in the style of {style}"),
        (0.60, f"{style} of {symbol}"),
        (0.78, f"{symbol}, {style}"),
        (0.92, f"a picture of {symbol}, {category}, {style}"),
        (0.96, symbol),
    )
    drawn = float(torch.rand((), generator=generator))
    return next((text for share, text in forms if drawn < share), "")


def flatten(image: Image.Image, scale: float, sigma: float, smallest: int) -> np.ndarray:
    """Each segment in its mean colour, (H, W, 3) uint8: slow changes of light go, edges and small parts stay.

    Segments are those of Felzenszwalb and Huttenlocher, "Efficient Graph-Based Image Segmentation", IJCV 2004.
    """
    pixels = np.asarray(image)
    segments = felzenszwalb(pixels, scale=scale, sigma=sigma, min_size=smallest)
    return label2rgb(segments, pixels, kind="avg", bg_label=-1).round().astype(np.uint8)


def shade(images: Tensor, generator: torch.Generator) -> Tensor:
    """Light falling from a random side with a soft highlight, on everything but the white ground."""
    count, _, height, width = images.shape
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    angle = uniform((count, 1, 1), 0, 2 * math.pi, generator)
    slope = uniform((count, 1, 1), 0.05, 0.35, generator) * (angle.cos() * x + angle.sin() * y)
    centre = uniform((count, 2, 1, 1), -0.6, 0.6, generator)
    distance = (x - centre[:, 0]) ** 2 + (y - centre[:, 1]) ** 2
    spot = uniform((count, 1, 1), 0.0, 0.4, generator) * torch.exp(-distance / 0.2)
    ground = images.amin(1) > 0.97
    light = torch.where(ground, 0.0, slope + spot)
    return (images + light[:, None]).clamp(-1, 1)


def tone(images: Tensor, generator: torch.Generator) -> Tensor:
    """Gain, offset and saturation of everything but the white ground, by a little: who must undo much invents tints."""
    count = len(images)
    ground = images.amin(1, keepdim=True) > 0.97
    gain = uniform((count, 3, 1, 1), 0.92, 1.08, generator)
    offset = uniform((count, 3, 1, 1), -0.05, 0.05, generator)
    grey = images.mean(1, keepdim=True)
    changed = (grey + uniform((count, 1, 1, 1), 0.75, 1.2, generator) * (images - grey)) * gain + offset
    return torch.where(ground, images, changed.clamp(-1, 1))


def gaussian(images: Tensor, width: float) -> Tensor:
    """Gaussian blur of `width` pixels, at most 1.6."""
    offsets = torch.arange(-4, 5, dtype=torch.float32)
    kernel = torch.exp(-(offsets**2) / (2 * width**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    padded = F.pad(images, (4, 4, 4, 4), mode="replicate")
    across = F.conv2d(padded, kernel[:, :, None, :], groups=3)
    return F.conv2d(across, kernel[:, :, :, None], groups=3)


def blur(images: Tensor, generator: torch.Generator, most: float) -> Tensor:
    """Gaussian blur of one random width for the whole batch."""
    return gaussian(images, float(uniform((), 0.3, most, generator)))


def hide_style(images: Tensor, generator: torch.Generator) -> Tensor:
    """Remove what tells the styles apart, by chance: flat areas, other light, other tones, blur."""
    count = len(images)

    def some(share: float) -> Tensor:
        return (torch.rand(count, generator=generator) < share)[:, None, None, None]

    pixels = images.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()
    scale = uniform((count,), math.log(60), math.log(800), generator).exp()
    sigma = uniform((count,), 0.0, 0.5, generator)
    smallest = torch.randint(2, 6, (count,), generator=generator)
    flat = np.stack(
        [
            flatten(Image.fromarray(p), float(k), float(s), int(m))
            for p, k, s, m in zip(pixels, scale, sigma, smallest, strict=True)
        ]
    )
    few = torch.from_numpy(flat).permute(0, 3, 1, 2).float() / 127.5 - 1
    images = torch.where(some(0.8), few, images)
    images = torch.where(some(0.35), shade(images, generator), images)
    images = torch.where(some(0.6), tone(images, generator), images)
    return torch.where(some(0.5), blur(images, generator, most=0.8), images)
