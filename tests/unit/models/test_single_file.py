"""A single `.safetensors` file in the original layout gives the same model as the folder it was made from."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lsb.errors import ModelError
from lsb.models.load import load_backbone
from lsb.models.stable_diffusion import StableDiffusion
from lsb.prompts import Prompt
from tests.unit.models.contract import noise, pictures

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET = [
    (r"^time_embedding\.linear_1", "time_embed.0"),
    (r"^time_embedding\.linear_2", "time_embed.2"),
    (r"^conv_in", "input_blocks.0.0"),
    (r"^conv_norm_out", "out.0"),
    (r"^conv_out", "out.2"),
    # One layer a block: down blocks have a residual block and a downsampler, up blocks two residual blocks.
    (r"^down_blocks\.(\d)\.resnets\.0", lambda m: f"input_blocks.{2 * int(m[1]) + 1}.0"),
    (r"^down_blocks\.(\d)\.attentions\.0", lambda m: f"input_blocks.{2 * int(m[1]) + 1}.1"),
    (r"^down_blocks\.(\d)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{2 * int(m[1]) + 2}.0.op"),
    (r"^mid_block\.resnets\.0", "middle_block.0"),
    (r"^mid_block\.attentions\.0", "middle_block.1"),
    (r"^mid_block\.resnets\.1", "middle_block.2"),
    (r"^up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"output_blocks.{2 * int(m[1]) + int(m[2])}.0"),
    (r"^up_blocks\.(\d)\.attentions\.(\d)", lambda m: f"output_blocks.{2 * int(m[1]) + int(m[2])}.1"),
    (r"^up_blocks\.0\.upsamplers\.0\.conv", "output_blocks.1.2.conv"),
]
VAE = [
    (r"(..coder)\.down_blocks\.(\d)\.resnets\.(\d)", r"\1.down.\2.block.\3"),
    (r"(..coder)\.down_blocks\.(\d)\.downsamplers\.0\.conv", r"\1.down.\2.downsample.conv"),
    (r"(..coder)\.up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"{m[1]}.up.{2 - int(m[2])}.block.{m[3]}"),
    (r"(..coder)\.up_blocks\.(\d)\.upsamplers\.0\.conv", lambda m: f"{m[1]}.up.{2 - int(m[2])}.upsample.conv"),
    (r"(..coder)\.mid_block\.resnets\.(\d)", lambda m: f"{m[1]}.mid.block_{int(m[2]) + 1}"),
    (r"conv_norm_out", "norm_out"),
    (r"conv_shortcut", "nin_shortcut"),
]


def renamed(key: str, rules: list) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def original_layout(folder: Path) -> dict[str, Tensor]:
    """The folder's weights under the names of the original Stable Diffusion code."""
    weights: dict[str, Tensor] = {}
    for key, value in load_file(folder / "unet" / "diffusion_pytorch_model.safetensors").items():
        name = renamed(key, UNET)
        if "resnets" in key:
            for ours, theirs in RESNET.items():
                name = name.replace(f".{ours}.", f".{theirs}.")
        weights[f"model.diffusion_model.{name}"] = value
    for key, value in load_file(folder / "vae" / "diffusion_pytorch_model.safetensors").items():
        name = re.sub(r"^(en|de)coder", lambda m: f"{m[1]}coder", key)
        weights[f"first_stage_model.{vae_name(name)}"] = value
    for key, value in load_file(folder / "text_encoder" / "model.safetensors").items():
        weights[f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}"] = value
    return weights


def vae_name(key: str) -> str:
    side, _, rest = key.partition(".")
    return renamed(key, [(pattern.replace("(..coder)", f"({side})"), new) for pattern, new in VAE]) if rest else key


@pytest.fixture
def checkpoint(tiny_folder: Path, tmp_path: Path) -> Path:
    file = tmp_path / "model.safetensors"
    save_file(original_layout(tiny_folder), file, {"format": "pt"})
    shutil.copytree(tiny_folder, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    return file


def test_it_is_the_same_model(checkpoint: Path, tiny_backbone: StableDiffusion) -> None:
    backbone = load_backbone(str(checkpoint), device="cpu")
    prompt = Prompt("a flat icon of a dog")
    condition = backbone.embed(prompt)
    assert torch.equal(condition, tiny_backbone.embed(prompt))
    x_t, images = noise(backbone, 2), pictures(backbone, 2)
    assert torch.equal(backbone.predict(x_t, 1.0, condition), tiny_backbone.predict(x_t, 1.0, condition))
    assert torch.equal(backbone.encode(images), tiny_backbone.encode(images))
    assert torch.equal(backbone.decode(x_t), tiny_backbone.decode(x_t))


def test_its_identity_names_the_file_and_its_configuration(checkpoint: Path) -> None:
    identity = load_backbone(str(checkpoint), device="cpu").identity
    assert identity.id == "model.safetensors"
    assert "model.safetensors" in identity.files
    assert "unet/config.json" in identity.files
    assert not any("diffusion_pytorch_model" in name for name in identity.files)


def test_without_its_configuration_it_is_refused(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint.with_suffix(""))
    with pytest.raises(ModelError, match="needs its configuration"):
        load_backbone(str(checkpoint), device="cpu")


@pytest.mark.parametrize("part", ["model.diffusion_model", "first_stage_model", "cond_stage_model"])
def test_missing_weights_are_not_made_up(checkpoint: Path, part: str) -> None:
    weights = load_file(checkpoint)
    biases = [name for name in sorted(weights) if name.startswith(part) and "norm" in name and name.endswith("bias")]
    del weights[biases[-1]]
    save_file(weights, checkpoint, {"format": "pt"})
    with pytest.raises(ModelError, match="cannot load"):
        load_backbone(str(checkpoint), device="cpu")
