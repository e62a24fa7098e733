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
from lsb.models.prompt import Prompt
from lsb.models.stable_diffusion import StableDiffusion
from tests.tiny import tiny_model
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
# The whole layout: two layers a block, four levels, downsamplers between them.
WHOLE_UNET = [
    *UNET[:5],
    (r"^down_blocks\.(\d)\.resnets\.(\d)", lambda m: f"input_blocks.{3 * int(m[1]) + int(m[2]) + 1}.0"),
    (r"^down_blocks\.(\d)\.attentions\.(\d)", lambda m: f"input_blocks.{3 * int(m[1]) + int(m[2]) + 1}.1"),
    (r"^down_blocks\.(\d)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{3 * int(m[1]) + 3}.0.op"),
    (r"^mid_block\.resnets\.0", "middle_block.0"),
    (r"^mid_block\.attentions\.0", "middle_block.1"),
    (r"^mid_block\.resnets\.1", "middle_block.2"),
    (r"^up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"output_blocks.{3 * int(m[1]) + int(m[2])}.0"),
    (r"^up_blocks\.(\d)\.attentions\.(\d)", lambda m: f"output_blocks.{3 * int(m[1]) + int(m[2])}.1"),
    (r"^up_blocks\.0\.upsamplers\.0\.conv", "output_blocks.2.1.conv"),
    (r"^up_blocks\.(\d)\.upsamplers\.0\.conv", lambda m: f"output_blocks.{3 * int(m[1]) + 2}.2.conv"),
]
ATTENTION = [
    (r"attentions\.0\.group_norm", "attn_1.norm"),
    (r"attentions\.0\.to_q", "attn_1.q"),
    (r"attentions\.0\.to_k", "attn_1.k"),
    (r"attentions\.0\.to_v", "attn_1.v"),
    (r"attentions\.0\.to_out\.0", "attn_1.proj_out"),
]


def vae_rules(levels: int) -> list:
    top = levels - 1
    return [
        (r"(..coder)\.down_blocks\.(\d)\.resnets\.(\d)", r"\1.down.\2.block.\3"),
        (r"(..coder)\.down_blocks\.(\d)\.downsamplers\.0\.conv", r"\1.down.\2.downsample.conv"),
        (r"(..coder)\.up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"{m[1]}.up.{top - int(m[2])}.block.{m[3]}"),
        (r"(..coder)\.up_blocks\.(\d)\.upsamplers\.0\.conv", lambda m: f"{m[1]}.up.{top - int(m[2])}.upsample.conv"),
        (r"(..coder)\.mid_block\.resnets\.(\d)", lambda m: f"{m[1]}.mid.block_{int(m[2]) + 1}"),
        *((rf"mid_block\.{pattern}", f"mid.{new}") for pattern, new in ATTENTION),
        (r"conv_norm_out", "norm_out"),
        (r"conv_shortcut", "nin_shortcut"),
    ]


def renamed(key: str, rules: list) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


OPEN_CLIP = [
    (r"^encoder\.layers\.(\d)\.layer_norm", r"transformer.resblocks.\1.ln_"),
    (r"^encoder\.layers\.(\d)\.self_attn\.out_proj", r"transformer.resblocks.\1.attn.out_proj"),
    (r"^encoder\.layers\.(\d)\.mlp\.fc1", r"transformer.resblocks.\1.mlp.c_fc"),
    (r"^encoder\.layers\.(\d)\.mlp\.fc2", r"transformer.resblocks.\1.mlp.c_proj"),
    (r"^embeddings\.token_embedding\.weight", "token_embedding.weight"),
    (r"^embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^final_layer_norm", "ln_final"),
]


def original_layout(folder: Path, unet: list = UNET, levels: int = 3, *, open_clip: bool = False) -> dict[str, Tensor]:
    """The folder's weights under the names of the original Stable Diffusion code."""
    weights: dict[str, Tensor] = {}
    for key, value in load_file(folder / "unet" / "diffusion_pytorch_model.safetensors").items():
        name = renamed(key, unet)
        if "resnets" in key:
            for ours, theirs in RESNET.items():
                name = name.replace(f".{ours}.", f".{theirs}.")
        weights[f"model.diffusion_model.{name}"] = value
    for key, value in load_file(folder / "vae" / "diffusion_pytorch_model.safetensors").items():
        name = vae_name(key, levels)
        # The middle's attention is written as convolutions of size 1.
        attention = "mid.attn_1" in name and name.endswith("weight") and value.ndim == 2
        weights[f"first_stage_model.{name}"] = value[:, :, None, None] if attention else value
    text = load_file(folder / "text_encoder" / "model.safetensors")
    text = {key.removeprefix("text_model."): value for key, value in text.items()}
    if open_clip:
        return weights | {f"cond_stage_model.model.{key}": value for key, value in open_clip_names(text).items()}
    return weights | {f"cond_stage_model.transformer.text_model.{key}": value for key, value in text.items()}


def open_clip_names(text: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of the text encoder of version 2: query, key and value in one matrix, and what diffusers leaves out."""
    weights = {renamed(key, OPEN_CLIP): value for key, value in text.items() if not re.search(r"[qkv]_proj", key)}
    for layer in range(2):
        for kind in ("weight", "bias"):
            parts = [text[f"encoder.layers.{layer}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            weights[f"transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(parts)
    # The last layer of the original, which version 2 does not use, and the projection.
    last = {key.replace("resblocks.1", "resblocks.23"): value + 1 for key, value in weights.items()}
    weights |= {key: value for key, value in last.items() if "resblocks.23" in key}
    return weights | {"text_projection": torch.eye(32), "logit_scale": torch.tensor(1.0)}


def vae_name(key: str, levels: int = 3) -> str:
    side, _, rest = key.partition(".")
    if not rest or side not in ("encoder", "decoder"):
        return key
    rules = [(pattern.replace("(..coder)", f"({side})"), new) for pattern, new in vae_rules(levels)]
    return renamed(key, rules)


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


@pytest.mark.parametrize(("layout", "prediction"), [("1.5", "epsilon"), ("2.1", "v_prediction")])
def test_the_whole_layouts(tmp_path: Path, layout: str, prediction: str) -> None:
    """Versions 1.5 and 2.1 in all but width: for 2.1 another text encoder, linear projections, v-prediction."""
    folder = tiny_model(tmp_path / "folder", prediction, layout=layout)  # type: ignore[arg-type]
    weights = original_layout(folder, WHOLE_UNET, 4, open_clip=layout == "2.1")
    save_file({key: value.contiguous() for key, value in weights.items()}, tmp_path / "model.safetensors")
    shutil.copytree(folder, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    one, other = (load_backbone(str(tmp_path / name), device="cpu") for name in ("folder", "model.safetensors"))
    prompt = Prompt("a flat icon of a dog")
    condition = one.embed(prompt)
    assert torch.equal(other.embed(prompt), condition)
    x_t, images = noise(one, 2), pictures(one, 2)
    assert torch.equal(other.predict(x_t, 1.0, condition), one.predict(x_t, 1.0, condition))
    assert torch.equal(other.encode(images), one.encode(images))
    assert torch.equal(other.decode(x_t), one.decode(x_t))
