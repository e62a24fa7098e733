"""Weights that a user gives for features: looked at before anything is done, run only if their digest is stated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from lsb.errors import ConfigError, LsbError, ModelError, UnsafeWeightsError
from lsb.metrics.features import Features
from lsb.metrics.given import GivenFiles, GivenWeights
from lsb.metrics.tower import GivenFeatures
from lsb.records import sha256

SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES = {"image_size": 32, "patch_size": 16}


class Layout:
    """Stands for the embedded network."""

    id, digest, dimension = "layout", "0" * 64, 1

    def __call__(self, images: Any) -> Features:
        return Features(np.zeros((len(images), 1), np.float32), torch.full((len(images), 1, 4, 4), 7.0))


def located(**given: str | None) -> GivenFiles:
    files = GivenWeights.model_validate(given).located()
    assert files is not None
    return files


def clip(folder: Path) -> int:
    """Its embeddings' length."""
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(text_config={**SMALL, "vocab_size": 10}, vision_config={**SMALL, **SIZES}, projection_dim=6)
    CLIPModel(config).save_pretrained(folder)
    statistics = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "crop_size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics))
    return 6


def dino(folder: Path) -> int:
    from transformers import Dinov2Config, Dinov2Model

    shape = {name: value for name, value in SMALL.items() if name != "intermediate_size"}
    Dinov2Model(Dinov2Config(**shape, **SIZES)).save_pretrained(folder)
    return 16


class Inception(torch.nn.Module):
    """In the manner of the published script: uint8 in, and vectors only if it is asked for them."""

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        vectors = x.float().mean(dim=(2, 3)).repeat(1, 2)
        return vectors if return_features else vectors.sum()


def script(file: Path) -> str:
    """Its digest."""
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.script(Inception()).save(str(file))
    return sha256(file.read_bytes())


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 255, (40, 56, 3), np.uint8)) for _ in range(9)]


@pytest.mark.parametrize("make", [clip, dino])
def test_a_tower_of_transformers_gives_one_vector_a_picture(
    make: Callable[[Path], int], tmp_path: Path, images: list[Image.Image]
) -> None:
    torch.manual_seed(0)
    length = make(tmp_path / "tower")
    files = located(weights=str(tmp_path / "tower"))
    extractor = GivenFeatures(files, "cpu", Layout())
    features = extractor(images)
    assert (features.pooled.shape, extractor.dimension) == ((9, length), length)
    assert float(features.maps.max()) == 7.0  # the embedded network's
    assert (extractor.id, extractor.digest) == (
        "tower",
        sha256((tmp_path / "tower" / "model.safetensors").read_bytes()),
    )
    assert np.abs(features.pooled[0] - features.pooled[1]).max() > 0
    alone = extractor(images[4:5]).pooled
    assert (alone[0] == features.pooled[4]).all()  # whatever is beside it
    assert extractor([]).pooled.shape == (0, length)


def test_a_tower_is_given_what_its_file_says(tmp_path: Path) -> None:
    clip(tmp_path)
    files = located(weights=str(tmp_path))
    assert files.preparation is not None
    assert (files.preparation.side, list(files.preparation.mean)) == (32, [0.4, 0.5, 0.6])


def test_an_inception_in_torchscript_is_given_bytes_and_asked_for_features(
    tmp_path: Path, images: list[Image.Image]
) -> None:
    digest = script(tmp_path / "inception.pt")
    files = located(weights=str(tmp_path / "inception.pt"), sha256=digest)
    extractor = GivenFeatures(files, "cpu", Layout())
    assert (extractor.digest, extractor.dimension) == (digest, 6)
    white = Image.new("RGB", (299, 299), (10, 20, 30))
    assert extractor([white]).pooled[0].tolist() == [10, 20, 30, 10, 20, 30]
    assert extractor(images).pooled.shape == (9, 6)


def test_a_script_is_not_loaded_unless_it_is_the_one_that_is_stated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path / "inception.pt")
    monkeypatch.setattr("torch.jit.load", lambda *_, **__: pytest.fail("it was loaded"))
    for stated, error, words in (
        (None, ConfigError, r"trust in evaluate\.features\.sha256"),
        ("0" * 64, UnsafeWeightsError, "it is not loaded"),
    ):
        with pytest.raises(error, match=words):
            located(weights=str(tmp_path / "inception.pt"), sha256=stated)


def test_what_is_loaded_are_the_bytes_that_were_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "inception.pt"
    digest = script(file)
    files = located(weights=str(file), sha256=digest)
    file.write_bytes(b"something else")
    assert GivenFeatures(files, "cpu", Layout()).digest == digest


@pytest.mark.parametrize(
    ("inside", "given", "error", "words"),
    [
        ({}, {}, ModelError, "config.json"),
        ({"config.json": "{}", "pytorch_model.bin": ""}, {}, UnsafeWeightsError, "may run code"),
        ({"config.json": "{}"}, {}, UnsafeWeightsError, "has no weights"),
        ({"config.json": "{", "model.safetensors": ""}, {}, ModelError, "not readable JSON"),
        ({"config.json": "{}", "model.safetensors": ""}, {}, ModelError, "which size"),
        *(
            (
                {"config.json": '{"image_size": 32}', "model.safetensors": "", "preprocessor_config.json": prepared},
                {},
                ModelError,
                words,
            )
            for prepared, words in (
                ('{"image_mean": null}', "image_mean must be three numbers"),
                ('{"image_std": [0.5, "much", 0.5]}', "image_std must be three numbers"),
                ('{"image_std": [0.5, 0.5, 0]}', "image_std must be above 0"),
            )
        ),
        ({}, {"revision": "a" * 40}, ConfigError, "no revisions"),
        ({}, {"sha256": "a" * 64}, ConfigError, "no TorchScript"),
        (None, {}, ModelError, "no such folder"),
        (None, {"weights": "owner/name"}, ConfigError, "full commit"),
        (None, {"weights": "owner/name", "revision": "main"}, ConfigError, "full commit"),
        (None, {"weights": "owner/name", "revision": "a" * 40}, ModelError, "the hub gives none"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_line(
    tmp_path: Path, inside: dict[str, str] | None, given: dict[str, str], error: type[LsbError], words: str
) -> None:
    folder = tmp_path / "tower"
    if inside is not None:
        folder.mkdir()
        for name, content in inside.items():
            (folder / name).write_text(content)
    with pytest.raises(error, match=words) as caught:
        located(**{"weights": str(folder), **given})
    assert "\n" not in caught.value.message


def test_a_network_of_texts_and_one_without_all_its_weights_are_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    BertModel(BertConfig(**SMALL, vocab_size=10)).save_pretrained(tmp_path / "bert")
    dino(tmp_path / "dino")
    with safe_open(tmp_path / "dino" / "model.safetensors", "pt") as found:
        weights = {name: found.get_tensor(name) for name in found.keys() if "layernorm" not in name}  # noqa: SIM118
    save_file(weights, tmp_path / "dino" / "model.safetensors", metadata={"format": "pt"})
    for name, words in (("bert", "takes no pictures"), ("dino", "has no weights for layernorm")):
        (tmp_path / name / "preprocessor_config.json").write_text('{"size": 32}')
        with pytest.raises(ModelError, match=words):
            GivenFeatures(located(weights=str(tmp_path / name)), "cpu", Layout())
