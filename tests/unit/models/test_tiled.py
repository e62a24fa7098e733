"""An autoencoder asked tile by tile gives nearly what it gives of the whole; and is left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lsb.models.load import load_backbone
from lsb.models.normalisation import Part, common_moments, normalised_by
from lsb.models.stable_diffusion import StableDiffusion
from lsb.models.tiled import Tiled
from lsb.pictures.images import to_tensor
from lsb.pictures.tiles import Tiles, tiles_of
from tests.tiny import tiny_model

EMBEDDED = Path(__file__).parents[3] / "examples" / "emoji" / "model"


def photograph() -> Image.Image:
    """Dark on one side and light on the other, so that no tile is like the whole."""
    y, x = np.mgrid[0:96, 0:160]
    shade = 20 + x * 1.2 + 25 * np.sin(x / 7) * np.cos(y / 9)
    return Image.fromarray(np.stack([shade, 230 - shade, shade / 2 + y], axis=-1).astype(np.uint8))


class ByItself:
    """The same backbone, of which nobody knows that it normalises."""

    def __init__(self, backbone: StableDiffusion) -> None:
        self._backbone = backbone
        self.latent_shape, self.encode, self.decode = backbone.latent_shape, backbone.encode, backbone.decode
        self.device, self.canvas = backbone.device, backbone.canvas


def through(backbone: Any, batch: int = 3) -> tuple[Tensor, Tensor]:
    """Latents, and the picture in levels of 255."""
    side, stride = backbone.canvas.side, backbone.canvas.stride
    tiled = Tiled(backbone, tiles_of((160, 96), side, stride), batch)
    latents = tiled.encode(photograph())
    return latents, torch.cat(list(tiled.decode(latents)), dim=2) * 127.5


def test_tiles_have_the_colours_of_the_whole() -> None:
    """Of a model that was trained: with random weights what is left of a picture is mostly where its edges are."""
    trained = load_backbone(str(EMBEDDED), device="cpu")
    latents = trained.encode(to_tensor([photograph()]))
    picture = trained.decode(latents) * 127.5
    apart = {}
    for name, backbone in (("alike", trained), ("by themselves", ByItself(trained))):
        of_tiles, in_tiles = through(backbone)
        difference = in_tiles - picture
        apart[name] = (
            float((of_tiles - latents).square().mean().sqrt()),
            float(difference.abs().mean()),
            float(difference.mean((0, 2, 3)).abs().max()),
        )
    assert all(alike < by_itself / 3 for alike, by_itself in zip(*apart.values(), strict=True)), apart
    assert apart["alike"][2] < 1
    again = trained.decode(trained.encode(to_tensor([photograph()]))) * 127.5
    assert torch.equal(again, picture)


def test_an_autoencoder_with_attention_is_asked_in_tiles_too(tmp_path: Path) -> None:
    """Its normalisation before attention is given all places in one row."""
    backbone = load_backbone(str(tiny_model(tmp_path, layout="1.5")), device="cpu")
    tiled = Tiled(backbone, tiles_of((128, 64), 64, 64), 2)
    image = photograph().resize((128, 64))
    (whole,), (in_tiles,) = backbone.encode(to_tensor([image])), tiled.encode(image)
    assert in_tiles.shape == whole.shape
    assert (in_tiles - whole).square().mean() < 0.5 * whole.square().mean()
    assert sum(band.shape[2] for band in tiled.decode(in_tiles[None])) == 64


def test_how_many_tiles_are_asked_at_once_changes_the_last_bits_alone(tiny_backbone: StableDiffusion) -> None:
    _, one = through(tiny_backbone, 1)
    _, many = through(tiny_backbone, 4)
    assert (one - many).abs().max() < 0.1


def test_parts_that_make_up_the_whole_give_its_moments() -> None:
    """Each place counts as often as it lies in the picture, however many tiles it is in."""
    torch.manual_seed(0)
    layer = nn.GroupNorm(2, 6)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    picture = 100 + torch.randn(1, 6, 24, 40) * torch.linspace(0.1, 3, 40)
    tiles = Tiles((40, 24), (16, 16), 8)
    places = [*tiles.places()]
    shares = [[torch.from_numpy(one).float() for one in pair] for pair in tiles.shares()]
    now = [0]

    def parts(count: int) -> Iterator[Part]:
        assert count == 16 * 16
        rows, columns = shares[now[0]]
        yield Part(0, (rows[:, None] * columns).flatten())

    def whole() -> None:
        for now[0], (rows, columns) in enumerate(places):
            layer(picture[..., rows, columns])

    with torch.no_grad():
        expected = layer(picture)
        common = common_moments([layer], parts, lambda: layer(picture[..., :16, :16]), whole)
        with normalised_by(common):
            for rows, columns in places:
                torch.testing.assert_close(
                    layer(picture[..., rows, columns]), expected[..., rows, columns], atol=1e-3, rtol=0
                )
        assert torch.equal(layer(picture), expected)


def test_a_failure_inside_leaves_the_layers_as_they_were() -> None:
    layer = nn.GroupNorm(1, 2)
    given = torch.randn(1, 2, 4, 4)
    expected = layer(given)

    def fail() -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        common_moments([layer], lambda places: (), lambda: layer(given), fail)
    assert torch.equal(layer(given), expected)


def test_the_sample_is_of_all_parts_of_the_picture() -> None:
    tiles = tiles_of((1024, 768), 512, 64)
    pairs = [*tiles.sample(8)]
    assert len(pairs) == 64
    taken = {(rows.start, columns.start) for (rows, columns), _ in pairs}
    assert len(taken) == 64
    assert {max(one) for one in zip(*taken, strict=True)} == {88, 120}  # to the last stride of 96 x 128
    assert {goal[0].stop for _, goal in pairs} == {goal[1].stop for _, goal in pairs} == {*range(8, 65, 8)}


class Counting(TorchDispatchMode):
    """How many tensors of at least so many numbers are made inside."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers, self.made = numbers, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        is_view = any(out.alias_info is not None for out in func._schema.returns)
        self.made += isinstance(result, Tensor) and result.numel() >= self.numbers and not is_view
        return result


def test_a_layer_that_is_normalised_by_others_moments_needs_no_more_than_its_result() -> None:
    layer = nn.GroupNorm(8, 32)
    x = torch.randn(1, 32, 16, 16)
    counting = Counting(x.numel())
    one_part = [Part(0, torch.ones(256))]
    with torch.no_grad(), counting:
        common = common_moments([layer], lambda places: one_part, lambda: layer(x), lambda: layer(x))
    passes = 2 * 3 + 1
    assert counting.made == passes
    with torch.no_grad(), normalised_by(common):
        assert torch.allclose(layer(x), torch.nn.functional.group_norm(x, 8), atol=1e-5)
    assert "forward" not in vars(layer)
