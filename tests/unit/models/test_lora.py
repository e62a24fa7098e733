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
from lsb.models.prompt import Prompt
from lsb.models.stable_diffusion import StableDiffusion
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
    if folder != target:
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


CONV_LAYER = "mid_block.resnets.0.conv1"


def add(path: Path, **more: Tensor) -> Path:
    save_file({**load_file(path), **{key.replace("__", "."): value for key, value in more.items()}}, path)
    return path


def refusal(folder: Path, path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_backbone(str(folder), device="cpu", loras=[str(path)])
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    return str(caught.value)


def test_other_methods_are_refused_by_name(tiny_folder: Path, tmp_path: Path) -> None:
    kohya = f"lora_unet_{UNET_LAYER.replace('.', '_')}"
    plain = {f"unet.{UNET_LAYER}": factors(0)}
    cases = {
        "DoRA": {f"unet.{UNET_LAYER}.lora_magnitude_vector": torch.ones(32)},
        "LoKr": {f"{kohya}.lokr_w1": torch.ones(4, 4)},
        "LoHa": {f"{kohya}.hada_w1_a": torch.ones(4, 4)},
        "LoCon with a core matrix": {f"{kohya}.lora_mid.weight": torch.ones(2, 2, 3, 3)},
        "OFT": {f"{kohya}.oft_blocks": torch.ones(4, 4, 4)},
        "full differences": {f"{kohya}.diff": torch.ones(32, 32)},
        "biases": {f"unet.{UNET_LAYER}.lora_B.bias": torch.ones(32)},
    }
    for number, (method, keys) in enumerate(cases.items()):
        path = add(diffusers_file(tmp_path / f"{number}.safetensors", plain), **keys)
        assert f"holds {method} (" in refusal(tiny_folder, path)
    dora = kohya_file(tmp_path / "dora.safetensors", plain, alpha=1.0)
    assert "holds DoRA (" in refusal(tiny_folder, add(dora, **{f"{kohya}.dora_scale": torch.ones(32, 1)}))


def test_keys_that_fit_nothing_are_named_beside_those_that_fit(tiny_folder: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("unet.no.such.layer", "unet.up_blocks.9.conv", "text_encoder.text_model.no.such")):
        layers = {f"unet.{UNET_LAYER}": factors(0), f"text_encoder.text_model.{TEXT_LAYER}": factors(1)}
        path = diffusers_file(tmp_path / f"{number}.safetensors", {**layers, name: factors(2)})
        assert name in refusal(tiny_folder, path)
    layers = {f"unet.{UNET_LAYER}": factors(0), "unet.mid_block.attentions.7.proj_in": factors(1)}
    path = kohya_file(tmp_path / "kohya.safetensors", layers, alpha=1.0)
    assert "lora_unet_mid_block_attentions_7_proj_in" in refusal(tiny_folder, path)
    second = {f"lora_te2_{TEXT_LAYER.replace('.', '_')}.lora_down.weight": factors(3)[0]}
    second[f"lora_te2_{TEXT_LAYER.replace('.', '_')}.lora_up.weight"] = factors(3)[1]
    assert "holds no LoRA for a Stable Diffusion model" in refusal(tiny_folder, add(path, **second))


def test_wrong_shapes_and_halves_are_named(tiny_folder: Path, tmp_path: Path) -> None:
    wide = diffusers_file(tmp_path / "wide.safetensors", {f"unet.{UNET_LAYER}": factors(0, width=48)})
    assert "does not fit this model: " in refusal(tiny_folder, wide)
    good = {f"unet.{UNET_LAYER}": factors(0)}
    half = add(diffusers_file(tmp_path / "half.safetensors", good), **{"unet.x.lora_A.weight": factors(1)[0]})
    assert "lacks one of two matrices: unet.x" in refusal(tiny_folder, half)
    alone = kohya_file(tmp_path / "alone.safetensors", good, alpha=1.0)
    assert "lacks one of two matrices: lora_unet_x" in refusal(
        tiny_folder, add(alone, **{"lora_unet_x.alpha": torch.tensor(1.0)})
    )
    odd = add(diffusers_file(tmp_path / "odd.safetensors", good), **{"unet.x.weight": torch.ones(2)})
    assert "unet.x.weight" in refusal(tiny_folder, odd)


def test_an_alpha_is_applied_or_refused(tiny_folder: Path, tmp_path: Path) -> None:
    """Between keys of peft's kind loaders pass over it."""
    path = diffusers_file(tmp_path / "style.safetensors", {f"unet.{UNET_LAYER}": factors(0)})
    add(path, **{f"unet.{UNET_LAYER}.alpha": torch.tensor(float(RANK))})
    load_backbone(str(tiny_folder), device="cpu", loras=[str(path)])
    add(path, **{f"unet.{UNET_LAYER}.alpha": torch.tensor(1.0)})
    assert "an alpha that cannot be applied" in refusal(tiny_folder, path)


def test_kohya_files_of_every_kind_of_layer(tiny_folder: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(5)
    weights = load_file(tiny_folder / "unet/diffusion_pytorch_model.safetensors")
    out, inside = weights[f"{CONV_LAYER}.weight"].shape[:2]
    down = torch.randn(RANK, inside, 3, 3, generator=generator)
    up = torch.randn(out, RANK, 1, 1, generator=generator)
    layers = {f"unet.{UNET_LAYER}": factors(0), f"unet.{CONV_LAYER}": (down, up)}
    lora = kohya_file(tmp_path / "style.safetensors", layers, alpha=0.5)
    layer = TEXT_LAYER.replace("q_proj", "out_proj")
    text = f"lora_te_text_model_{layer.replace('.', '_')}"
    a, b = factors(7)
    add(lora, **{f"{text}.lora_down.weight": a, f"{text}.lora_up.weight": b, f"{text}.alpha": torch.tensor(4.0)})
    merged = load_backbone(str(tiny_folder), device="cpu", loras=[str(lora)])
    file, scale = "unet/diffusion_pytorch_model.safetensors", 0.5 / RANK
    by_hand = with_change(tiny_folder, tmp_path / "m", file, UNET_LAYER, factors(0)[1] @ factors(0)[0] * scale)
    change = torch.einsum("or,rihw->oihw", up[:, :, 0, 0], down) * scale
    weights = load_file(by_hand / file)
    weights[f"{CONV_LAYER}.weight"] += change
    save_file(weights, by_hand / file, {"format": "pt"})
    with_change(by_hand, by_hand, "text_encoder/model.safetensors", layer, b @ a * 4 / RANK)
    assert torch.allclose(outputs(merged), outputs(load_backbone(str(by_hand), device="cpu")), atol=1e-5)
