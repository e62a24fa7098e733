"""The Stable Diffusion adapter: the backbones' contract, and agreement with diffusers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from lsb.errors import ModelError, UsageError
from lsb.models.load import load_backbone
from lsb.models.prompt import Prompt
from lsb.models.published import Published
from lsb.models.stable_diffusion import StableDiffusion
from lsb.pictures.geometry import Canvas
from tests.tiny import tiny_model
from tests.unit.models.contract import BackboneContract, noise, pictures

KINDS = {
    "epsilon": {},
    "v-prediction": {"prediction_type": "v_prediction", "vae": "shifted"},
    "zero-terminal-snr": {"prediction_type": "v_prediction", "zero_terminal_snr": True},
    "text-only-conditions": {"prediction_type": "v_prediction", "text_only_conditions": True, "latent_channels": 8},
    "pndm": {"scheduler": "pndm"},
}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / request.param, **KINDS[request.param])


@pytest.fixture(scope="module")
def backbone(folder: Path) -> StableDiffusion:
    return load_backbone(str(folder), device="cpu")


class TestContract(BackboneContract):
    pass


def test_shapes(backbone: StableDiffusion) -> None:
    assert backbone.canvas == Canvas(side=32, stride=8)
    assert backbone.latent_shape(40, 32)[1:] == (8, 10)
    assert (backbone.device, backbone.dtype) == ("cpu", "float32")


def test_prediction_agrees_with_diffusers_at_every_step_of_the_table(folder: Path, backbone: StableDiffusion) -> None:
    """The scheduler's own conversion of the network's output to noise, at integer times."""
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", local_files_only=True)
    scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True)
    table = scheduler.alphas_cumprod.double()
    condition = backbone.embed(Prompt("a flat icon"))
    x_t = 2 * noise(backbone, 2)
    for time in (0, 1, 19, 500, 950):
        alpha_bar = table[time]
        sigma = float(((1 - alpha_bar) / alpha_bar).sqrt())
        y = (x_t.double() * alpha_bar.sqrt()).float()
        with torch.no_grad():
            output = unet(y, time, encoder_hidden_states=condition.expand(2, -1, -1)).sample
        if scheduler.config.prediction_type == "v_prediction":
            output = alpha_bar.sqrt().float() * output + (1 - alpha_bar).sqrt().float() * y
        assert torch.allclose(backbone.predict(x_t, sigma, condition), output, atol=2e-5), time


def test_published_time_is_the_integer_step(folder: Path, backbone: StableDiffusion) -> None:
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", local_files_only=True)
    condition, x_t = backbone.embed(Prompt("a flat icon")), noise(backbone, 1)
    sigma = backbone.schedule.published_sigma(0.8)
    time = backbone.schedule.published_time(0.8)
    y = x_t / (1 + sigma**2) ** 0.5
    with torch.no_grad():
        output = unet(y, time, encoder_hidden_states=condition).sample
    if KINDS[folder.name].get("prediction_type") == "v_prediction":
        output = (output + sigma * y) / (1 + sigma**2) ** 0.5
    published = Published(backbone).predict(x_t, sigma, condition)
    assert torch.allclose(published, output, atol=1e-5)
    assert not torch.allclose(published, backbone.predict(x_t, sigma, condition), atol=1e-6)


def test_scaling_and_shift_are_those_of_the_vae(folder: Path, backbone: StableDiffusion) -> None:
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae", local_files_only=True)
    images = pictures(backbone, 2)
    shift = vae.config.shift_factor or 0.0
    with torch.no_grad():
        mode = vae.encode(images).latent_dist.mode()
    latents = backbone.encode(images)
    assert torch.allclose(latents, (mode - shift) * vae.config.scaling_factor, atol=1e-6)
    with torch.no_grad():
        decoded = vae.decode(mode).sample.clamp(-1, 1)
    assert torch.allclose(backbone.decode(latents), decoded, atol=1e-5)


@pytest.mark.parametrize("text", ["a flat icon", "Zebra ☃, 3 dogs!", "a  dog\nand a cat"])
def test_text_agrees_with_diffusers(tiny_folder: Path, tiny_backbone: StableDiffusion, text: str) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder, local_files_only=True)
    expected, _ = pipeline.encode_prompt(text, "cpu", 1, do_classifier_free_guidance=False)
    assert torch.equal(tiny_backbone.embed(Prompt(text)), expected)


def test_padding_is_masked_where_the_configuration_says_so(tmp_path: Path, tiny_backbone: StableDiffusion) -> None:
    folder = tiny_model(tmp_path / "model")
    edit(folder, "text_encoder/config.json", use_attention_mask=True)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    expected, _ = pipeline.encode_prompt("a dog", "cpu", 1, do_classifier_free_guidance=False)
    embedded = load_backbone(str(folder), device="cpu").embed(Prompt("a dog"))
    assert torch.equal(embedded, expected)
    assert not torch.equal(embedded, tiny_backbone.embed(Prompt("a dog")))


def test_sixteen_bits_for_the_network_alone(tiny_folder: Path, tiny_backbone: StableDiffusion) -> None:
    half = load_backbone(str(tiny_folder), device="cpu", dtype="bfloat16")
    assert half.dtype == "bfloat16"
    images, x_t = pictures(half, 2), noise(half, 2)
    assert torch.equal(half.encode(images), tiny_backbone.encode(images))
    condition = half.embed(Prompt("a dog"))
    assert torch.equal(condition, tiny_backbone.embed(Prompt("a dog")))
    rough, exact = half.predict(x_t, 1.0, condition), tiny_backbone.predict(x_t, 1.0, condition)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert (rough - exact).abs().max() < 0.05


def test_the_networks_are_frozen(tiny_backbone: StableDiffusion) -> None:
    for network in (tiny_backbone._unet, tiny_backbone._vae, tiny_backbone._text._encoder):
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(("side", "twice"), [(32, False), (256, True)])
def test_a_network_of_large_pictures_calculates_twice_what_it_need_not_keep(
    tiny_backbone: StableDiffusion, side: int, twice: bool
) -> None:
    parts = (tiny_backbone._unet.config | {"sample_size": side // 4}, tiny_backbone._vae, tiny_backbone._text)
    unet = UNet2DConditionModel.from_config(parts[0])
    StableDiffusion(tiny_backbone.identity, unet, *parts[1:], tiny_backbone.schedule, predicts_v=False)
    assert unet.is_gradient_checkpointing is twice


def edit(folder: Path, name: str, **changes: object) -> None:
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "epsilon and v_prediction"),
        ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "variance-preserving"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "unheard of"}, "no usable noise schedule"),
        ("unet/config.json", {"in_channels": 9}, "inpainting"),
        ("unet/config.json", {"addition_embed_type": "text_time"}, "supported are 1.x and 2.x"),
        ("unet/config.json", {"sample_size": [8, 4]}, "square"),
        ("unet/config.json", {"cross_attention_dim": 48}, "cannot load"),
        ("unet/config.json", {"layers_per_block": 2}, "cannot load"),
        ("vae/config.json", {"latents_mean": [0.0, 0.0, 0.0, 0.0]}, "latents_mean"),
        ("text_encoder/config.json", {"num_hidden_layers": 3}, "missing"),
    ],
)
def test_layouts_that_the_adapter_does_not_know(tmp_path: Path, name: str, changes: dict, message: str) -> None:
    folder = tiny_model(tmp_path / "model")
    edit(folder, name, **changes)
    with pytest.raises(ModelError, match=message) as caught:
        load_backbone(str(folder), device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "component", ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"]
)
def test_missing_weights_are_not_made_up(tmp_path: Path, component: str) -> None:
    """The libraries would fill them with random numbers."""
    folder = tiny_model(tmp_path / "model")
    weights = folder / f"{component}.safetensors"
    tensors = load_file(weights)
    del tensors[next(name for name in sorted(tensors) if "weight" in name)]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(ModelError, match="weights are missing"):
        load_backbone(str(folder), device="cpu")


def test_damaged_weights(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot load model"):
        load_backbone(str(folder), device="cpu")


@pytest.mark.parametrize("device", ["cuda:99", "no such device"])
def test_unknown_device(tiny_folder: Path, device: str) -> None:
    with pytest.raises(UsageError, match="this machine has auto, cpu"):
        load_backbone(str(tiny_folder), device=device)


def test_unknown_dtype(tiny_folder: Path) -> None:
    with pytest.raises(ModelError, match="float32, bfloat16, float16"):
        load_backbone(str(tiny_folder), device="cpu", dtype="int8")
