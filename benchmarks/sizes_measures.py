"""What `sizes.py` measures of a picture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image

from lsb.pictures.geometry import Frame
from lsb.pictures.images import to_images, to_tensor
from lsb.pictures.tiles import Tiles

_FARTHEST, _STEP = 6.0, 0.02  # pixels that a shift is looked for in
_STRONG = 0.01  # of the strongest frequency


def grey(image: Image.Image) -> np.ndarray:
    """(H, W) float64 in levels of 255."""
    return np.asarray(image).astype(float) @ [0.299, 0.587, 0.114]


def shift_between(one: Image.Image, other: Image.Image, band: float) -> float:
    """How far the second lies from the first, in pixels, by phase correlation.

    Args:
        band: share of the frequencies that the second picture can hold; half of it is looked at.
    """
    windowed = []
    for image in (one, other):
        values = grey(image)
        window = np.outer(*(np.hanning(side) for side in values.shape))
        windowed.append((values - values.mean()) * window)
    spectra = [np.fft.fft2(values) for values in windowed]
    cross = spectra[1] * spectra[0].conj()
    down, across = (np.fft.fftfreq(side) for side in cross.shape)
    low = np.hypot(down[:, None], across) < 0.25 * band
    low[0, 0] = False
    # Frequencies that the pictures hardly have are noise, and count less.
    strength = np.abs(cross) / np.abs(cross[low]).max()
    phase = np.where(low, cross / np.maximum(np.abs(cross), 1e-12) * np.minimum(1, strength / _STRONG), 0)
    places = np.arange(-_FARTHEST, _FARTHEST + _STEP / 2, _STEP)
    rows, columns = (np.exp(2j * np.pi * np.outer(places, one)) for one in (down, across))
    surface = (rows @ phase @ columns.T).real
    row, column = np.unravel_index(surface.argmax(), surface.shape)
    return float(np.hypot(places[row], places[column]))


def padding_cost(image: Image.Image, frame: Frame, backbone: Any) -> float:
    """By how many dB the picture is farther from what the network sees of its source than without what is added.

    Compared over what is left of the content when it is cut to whole cells of the latent.
    """
    content = frame.cut(frame.prepare(image))
    factor = frame.working[0] // backbone.latent_shape(*frame.working)[2]
    width, height = (side // factor * factor for side in content.size)
    cut = content.crop((0, 0, width, height))
    with torch.no_grad():
        padded = frame.cut(to_images(backbone.decode(backbone.encode(to_tensor([frame.prepare(image)]))))[0])
        plain = to_images(backbone.decode(backbone.encode(to_tensor([cut]))))[0]
    return psnr(plain, cut) - psnr(padded.crop((0, 0, width, height)), cut)


def psnr(one: Image.Image, other: Image.Image) -> float:
    """In dB."""
    apart = np.asarray(one).astype(float) - np.asarray(other)
    return float(10 * np.log10(255**2 / max(1e-9, np.square(apart).mean())))


def flat_sides(made: Image.Image, source: Image.Image) -> int:
    """Sides of which the outermost line has one colour, and the source's has not."""
    return sum(
        int(np.ptp(out, axis=0).max() <= 1 and np.ptp(before, axis=0).max() > 8)
        for out, before in zip(_sides(made), _sides(source), strict=True)
    )


def _sides(image: Image.Image) -> Iterable[np.ndarray]:
    values = np.asarray(image).astype(int)
    return values[0], values[-1], values[:, 0], values[:, -1]


def contrast(image: Image.Image) -> float:
    return float(grey(image).std())


def edges(image: Image.Image) -> float:
    """Mean step between neighbours."""
    values = grey(image)
    return float((np.abs(np.diff(values, axis=0)).mean() + np.abs(np.diff(values, axis=1)).mean()) / 2)


def seams_of(made: Image.Image, source: Image.Image, tiles: Tiles) -> dict[str, Any]:
    """Steps between neighbouring columns and rows where tiles begin, end or are evenly blended, against all that lie
    like them: at multiples of the stride, or of the middles' cells."""
    found: dict[str, Any] = {}
    for axis, name in ((1, "columns"), (0, "rows")):
        size, tile = (source.width, tiles.tile[0]) if axis else (source.height, tiles.tile[1])
        starts = sorted({place[axis].start for place in tiles.places()})
        ends = [start + tile for start in starts]
        middles = {(end + start) // 2 for end, start in zip(ends, starts[1:], strict=False)}
        borders = {*starts, *ends} - {0}
        out, before = (np.abs(np.diff(grey(image), axis=axis)).mean(1 - axis) for image in (made, source))

        def mean(places: Iterable[int], steps: np.ndarray, size: int = size) -> float:
            return float(np.mean([steps[place - 1] for place in places if 0 < place < size]))

        for where, places, like in (
            ("borders", borders, range(tiles.stride, size, tiles.stride)),
            ("middles", middles, range(8, size, 8)),
        ):
            if places:
                # What the source has there of its own is divided out.
                ratio = mean(places, out) / mean(like, out)
                own = mean(places, before) / mean(like, before)
                found[f"{name}_at_{where}"] = {
                    "steps": round(mean(places, out), 2),
                    "all_like_them": round(mean(like, out), 2),
                    "ratio": round(ratio, 3),
                    "source_ratio": round(own, 3),
                }
    return found
