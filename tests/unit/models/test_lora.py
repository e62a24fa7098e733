"""LoRA files end up in the weights: W + (alpha / r) B A."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lsb.errors import ModelError, UnsafeWeightsError
from lsb.models.load import identify, load_backbone
from lsb.models.stable_diffusion import StableDiffusion
from lsb.prompts import Prompt
from tests.unit.models.contract import noise

RANK = 2
UNET_LAYER = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
TEXT_LAYER = "encoder.layers.1.self_attn.q_proj"


def factors(seed: int, width: int = 32) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(RANK, width, generator=generator), torch.randn(width, RANK, generator=generator)


def diffusers_file(path: Path, layers: dict[str, tuple[Tensor, Tensor]]) -> Path:
    state = {}
    for name, (a, b) in layers.items():
        state[f"{name}.lora_A.weight"], state[f"{name}.lora_B.weight"] = a, b
    save_file(state, path)
    return path


def kohya_file(path: Path, layers: dict[str, tuple[Tensor, Tensor]], alpha: float) -> Path:
    state = {}
    for name, (a, b) in layers.items():
        key = f"lora_unet_{name.removeprefix('unet.').replace('.', '_')}"
        state[f"{key}.lora_down.weight"], state[f"{key}.lora_up.weight"] = a, b
        state[f"{key}.alpha"] = torch.tensor(alpha)
    save_file(state, path)
    return path


def with_change(folder: Path, target: Path, file: str, layer: str, change: Tensor) -> Path:
    """A copy of the model in which one weight is changed by hand."""
    shutil.copytree(folder, target, dirs_exist_ok=True)
    weights = load_file(target / file)
    (key,) = [key for key in weights if key.endswith(f"{layer}.weight")]
    weights[key] = weights[key] + change
    save_file(weights, target / file, {"format": "pt"})
    return target


def outputs(backbone: StableDiffusion) -> Tensor:
    return backbone.predict(noise(backbone, 2), 1.0, backbone.embed(Prompt("a flat icon of a dog")))


def test_a_unet_lora_is_merged(tiny_folder: Path, tmp_path: Path, tiny_backbone: StableDiffusion) -> None:
    a, b = factors(0)
    lora = diffusers_file(tmp_path / "style.safetensors", {f"unet.{UNET_LAYER}": (a, b)})
    merged = load_backbone(str(tiny_folder), device="cpu", loras=[str(lora)])
    by_hand = with_change(tiny_folder, tmp_path / "m", "unet/diffusion_pytorch_model.safetensors", UNET_LAYER, b @ a)
    assert torch.allclose(outputs(merged), outputs(load_backbone(str(by_hand), device="cpu")), atol=1e-6)
    assert not torch.allclose(outputs(merged), outputs(tiny_backbone), atol=1e-4)
    assert not any("lora" in name for name, _ in merged._unet.named_modules())


def test_a_kohya_lora_is_merged_with_its_alpha(tiny_folder: Path, tmp_path: Path) -> None:
    a, b = factors(1)
    lora = kohya_file(tmp_path / "style.safetensors", {f"unet.{UNET_LAYER}": (a, b)}, alpha=1.0)
    merged = load_backbone(str(tiny_folder), device="cpu", loras=[str(lora)])
    change = b @ a / RANK
    by_hand = with_change(tiny_folder, tmp_path / "m", "unet/diffusion_pytorch_model.safetensors", UNET_LAYER, change)
    assert torch.allclose(outputs(merged), outputs(load_backbone(str(by_hand), device="cpu")), atol=1e-6)


def test_a_text_encoder_lora_is_merged(tiny_folder: Path, tmp_path: Path, tiny_backbone: StableDiffusion) -> None:
    a, b = factors(2)
    lora = diffusers_file(tmp_path / "style.safetensors", {f"text_encoder.text_model.{TEXT_LAYER}": (a, b)})
    merged = load_backbone(str(tiny_folder), device="cpu", loras=[str(lora)])
    by_hand = with_change(tiny_folder, tmp_path / "m", "text_encoder/model.safetensors", TEXT_LAYER, b @ a)
    assert torch.allclose(outputs(merged), outputs(load_backbone(str(by_hand), device="cpu")), atol=1e-6)
    assert not torch.allclose(outputs(merged), outputs(tiny_backbone), atol=1e-4)


def test_two_loras_add_up_and_enter_the_identity(tiny_folder: Path, tmp_path: Path) -> None:
    (a, b), (c, d) = factors(3), factors(4)
    one = diffusers_file(tmp_path / "one.safetensors", {f"unet.{UNET_LAYER}": (a, b)})
    two = diffusers_file(tmp_path / "two.safetensors", {f"unet.{UNET_LAYER}": (c, d)})
    merged = load_backbone(str(tiny_folder), device="cpu", loras=[str(one), str(two)])
    change = b @ a + d @ c
    by_hand = with_change(tiny_folder, tmp_path / "m", "unet/diffusion_pytorch_model.safetensors", UNET_LAYER, change)
    assert torch.allclose(outputs(merged), outputs(load_backbone(str(by_hand), device="cpu")), atol=1e-5)
    assert {"lora/0/one.safetensors", "lora/1/two.safetensors"} < set(merged.identity.files)
    assert merged.identity.digest != identify(str(tiny_folder)).digest


def test_bad_lora_files(tiny_folder: Path, tmp_path: Path) -> None:
    def load(path: Path) -> None:
        load_backbone(str(tiny_folder), device="cpu", loras=[str(path)])

    (tmp_path / "pickle.bin").write_bytes(b"\x80\x04")
    with pytest.raises(UnsafeWeightsError, match=r"must be a \.safetensors"):
        load(tmp_path / "pickle.bin")
    with pytest.raises(ModelError, match="no LoRA file"):
        load(tmp_path / "missing.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="holds no LoRA"):
        load(tmp_path / "other.safetensors")
    diffusers_file(tmp_path / "wide.safetensors", {f"unet.{UNET_LAYER}": factors(0, width=48)})
    with pytest.raises(ModelError):
        load(tmp_path / "wide.safetensors")
    diffusers_file(tmp_path / "elsewhere.safetensors", {"unet.no.such.layer": factors(0)})
    with pytest.raises(ModelError):
        load(tmp_path / "elsewhere.safetensors")
