"""Faster ways to the same pictures: what they change, and that each row and each replay knows of them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lsb.audit.replay import CONDITIONS
from lsb.bridge.settings import BridgeSettings
from lsb.errors import ModelError
from lsb.ledger.schemas import MANIFEST
from lsb.models import load
from lsb.models.prompt import Prompt
from lsb.models.stable_diffusion import StableDiffusion
from lsb.translation.engine import Engine
from lsb.translation.execution import Shortcuts, describe
from tests.ledger import picture

SETTINGS = {
    "mix": BridgeSettings(tau=0.6, nfe=3),
    "published": BridgeSettings(preset="published", nfe=3),
    "switch": BridgeSettings(tau=0.6, nfe=3, noise="switch"),
    "partial": BridgeSettings(tau=0.6, nfe=3, partial=0.7),
}
IMAGES = [picture(index, (32, 32)) for index in range(3)]
DIGESTS = ["0" * 64, "1" * 64, "2" * 64]


def engine(backbone: StableDiffusion, settings: BridgeSettings, *, joint: bool, target: str = "a 3d icon") -> Engine:
    return Engine(backbone, Prompt("a flat icon"), Prompt(target), settings, "7", 4, joint=joint)


def rows_asked(backbone: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call of the network has, from now on."""
    rows: list[int] = []
    network = backbone._network

    def listening(y: torch.Tensor, *rest: Any) -> torch.Tensor:
        rows.append(len(y))
        return network(y, *rest)

    monkeypatch.setattr(backbone, "_network", listening)
    return rows


def apart(images: list[Image.Image], others: list[Image.Image]) -> int:
    """The largest difference of a value, in levels of 8 bits."""
    pairs = zip(images, others, strict=True)
    return max(int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max()) for one, other in pairs)


@pytest.mark.parametrize("name", SETTINGS)
def test_both_prompts_in_one_call_give_the_same_pictures_with_as_many_rows(
    tiny_backbone: StableDiffusion, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    rows = rows_asked(tiny_backbone, monkeypatch)
    by_two = engine(tiny_backbone, SETTINGS[name], joint=False).translate(IMAGES, DIGESTS)
    asked_by_two, rows[:] = [*rows], []
    by_one = engine(tiny_backbone, SETTINGS[name], joint=True).translate(IMAGES, DIGESTS)
    assert apart(by_one, by_two) <= 1
    assert sum(rows) == sum(asked_by_two)
    assert {*asked_by_two} == {4}
    assert 8 in rows
    assert len(rows) <= len(asked_by_two) // 2 + 1


def test_channels_last_gives_the_same_pictures(tiny_folder: Any) -> None:
    plain, ordered = (load.load_backbone(str(tiny_folder), device="cpu", channels_last=on) for on in (False, True))
    assert isinstance(ordered, StableDiffusion)
    weights = [weight for weight in ordered._unet.parameters() if weight.dim() == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert isinstance(plain, StableDiffusion)
    made = [engine(one, SETTINGS["mix"], joint=False).translate(IMAGES, DIGESTS) for one in (plain, ordered)]
    assert apart(*made) <= 1


def test_a_model_that_has_one_layout_only_is_refused(tiny_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(load.STABLE_DIFFUSION, load=lambda files, device, dtype: SimpleNamespace(dtype=dtype))
    monkeypatch.setitem(load.FAMILIES, "StableDiffusionPipeline", other)
    with pytest.raises(ModelError, match=r"one layout only; leave execution\.channels_last out"):
        load.load_backbone(str(tiny_folder), device="cpu", channels_last=True)


def test_rows_and_replays_know_of_them() -> None:
    every = Shortcuts(joint=True, channels_last=True)
    names = {"joint", "channels_last"}
    assert names <= {*CONDITIONS}
    assert {name: describe("cpu", "float32", 8, 1)[name] for name in names} == dict.fromkeys(names)  # type: ignore[literal-required]
    row = describe("cpu", "float32", 8, 1, every)
    assert {name: row[name] for name in names} == dict.fromkeys(names, True)  # type: ignore[literal-required]
    assert all(MANIFEST.arrow.field(name).nullable for name in names)
    assert (Shortcuts.of(row), Shortcuts.of({"device": "cpu", "batch": 2})) == (every, Shortcuts())
