"""Stable Diffusion 1.x and 2.x, and models of the same layout, as a `Backbone`.

The UNet computes in the dtype asked for; the state stays float32. The text encoder always computes in float32, and
so does the VAE unless its configuration allows less (`force_upcast: false`): both run once an image or a prompt, and
16 bits would cost more there than they save.

Where gradients flow through the UNet of a model whose own pictures are large, it keeps no more than what its blocks
begin with, and calculates the rest once more on the way back, to the same bits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from lsb.bridge.schedule import NoiseSchedule
from lsb.errors import BridgeError, ModelError
from lsb.ledger.transform import ModelIdentity
from lsb.models.canvas import canvas_from, check_sample_size, halvings
from lsb.models.files import ModelFiles
from lsb.models.lora import add_lora
from lsb.models.prompt import Prompt
from lsb.models.text import TextConditioner
from lsb.models.variance_preserving import alpha_bar_of, eps_from_v, network_state

logger = logging.getLogger(__name__)

_LARGE = 256  # pixels of a model's own side from which on memory is dearer than work
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class StableDiffusion:
    """A `Timed` backbone around a frozen UNet, VAE and text encoder. Build it with `load_backbone`."""

    def __init__(
        self,
        identity: ModelIdentity,
        unet: Any,
        vae: Any,
        text: TextConditioner,
        schedule: NoiseSchedule,
        *,
        predicts_v: bool,
    ) -> None:
        self.identity = identity
        self.schedule = schedule
        self._unet, self._vae, self._text = unet, vae, text
        self._predicts_v = predicts_v
        self._scale = float(vae.config.scaling_factor)
        self._shift = float(vae.config.shift_factor or 0.0)
        self.canvas = canvas_from(unet.config, vae.config)
        self._factor = halvings(vae.config)
        if self.canvas.side >= _LARGE:
            unet.enable_gradient_checkpointing()

    @property
    def sigma_max(self) -> float:
        return self.schedule.sigma_max

    @property
    def device(self) -> str:
        return str(self._unet.device)

    @property
    def dtype(self) -> str:
        return str(self._unet.dtype).removeprefix("torch.")

    @property
    def autoencoder_norms(self) -> list[nn.GroupNorm]:
        return [layer for layer in self._vae.modules() if isinstance(layer, nn.GroupNorm)]

    def put_channels_last(self) -> None:
        for network in (self._unet, self._vae):
            network.to(memory_format=torch.channels_last)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        return int(self._unet.config.in_channels), height // self._factor, width // self._factor

    @torch.no_grad()
    def encode(self, images: Tensor, eps: Tensor | None = None) -> Tensor:
        posterior = self._vae.encode(images.to(self._vae.device, self._vae.dtype)).latent_dist
        latents = posterior.mode() if eps is None else posterior.mean + posterior.std * eps.to(posterior.mean)
        return (latents.float() - self._shift) * self._scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        latents = latents / self._scale + self._shift
        images = self._vae.decode(latents.to(self._vae.device, self._vae.dtype)).sample
        return images.float().clamp(-1, 1)

    def embed(self, prompt: Prompt, vectors: Tensor | None = None) -> Tensor:
        return self._text.encode_with(prompt, prompt.vectors if vectors is None else vectors)

    def table_vectors(self, text: str) -> Tensor:
        return self._text.table_vectors(text)

    def table_scale(self) -> tuple[float, float]:
        return self._text.table_scale()

    def predict(self, x_t: Tensor, sigma: float | Sequence[float], condition: Tensor) -> Tensor:
        sigmas = [sigma] if isinstance(sigma, int | float) else list(sigma)
        return self.predict_at(x_t, sigmas, [self.schedule.network_time(value) for value in sigmas], condition)

    def predict_at(self, x_t: Tensor, sigmas: Sequence[float], times: Sequence[float], condition: Tensor) -> Tensor:
        if len(sigmas) not in (1, len(x_t)):
            raise BridgeError(f"{len(sigmas)} sigmas for {len(x_t)} rows; give one, or one a row")
        alpha_bar = alpha_bar_of(sigmas, x_t)
        y = network_state(x_t, alpha_bar)
        asked = torch.tensor(times, dtype=torch.float32, device=x_t.device)
        output = self._network(y, asked.expand(len(x_t)), condition.expand(len(x_t), -1, -1))
        return eps_from_v(output, y, alpha_bar) if self._predicts_v else output

    def _network(self, y: Tensor, times: Tensor, condition: Tensor) -> Tensor:
        """The one place where the state's dtype and the network's meet."""
        kind = self._unet.dtype
        return self._unet(y.to(kind), times, encoder_hidden_states=condition.to(kind)).sample.to(y.dtype)


def load_stable_diffusion(files: ModelFiles, device: str, dtype: str = "float32") -> StableDiffusion:
    """Build the networks from files that `lsb.models.files` has checked, on a device that `usable_device` has named.

    Raises:
        ModelError: damaged weights, an unknown dtype, or a layout that the adapter does not know.
    """
    if dtype not in DTYPES:
        raise ModelError(f"dtype is {dtype!r}; allowed: {', '.join(DTYPES)}")
    schedule, predicts_v = _schedule(files)
    _check_layout(files)
    identity = files.identity()
    try:
        with _quiet():
            unet, vae, encoder = _networks(files)
            tokenizer = CLIPTokenizer.from_pretrained(files.folder / "tokenizer", local_files_only=True)
            for lora in files.loras:
                add_lora(lora, unet, encoder)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"cannot load {files.id}: {reason}; restore its files") from error
    kinds = (DTYPES[dtype], DTYPES[dtype] if vae.config.force_upcast is False else torch.float32, torch.float32)
    for network, kind in zip((unet, vae, encoder), kinds, strict=True):
        _own_memory(nn.Module.to(network, torch.device(device), kind).eval().requires_grad_(False))
    text = TextConditioner(tokenizer, encoder)
    _check_widths(unet, text, files)
    logger.info("loaded %s (%s) on %s in %s", files.id, identity.digest[:12], device, dtype)
    return StableDiffusion(identity, unet, vae, text, schedule, predicts_v=predicts_v)


def _own_memory(network: nn.Module) -> None:
    """Copy weights that lie in a mapped file, unaligned: the last bits of a result depend on the alignment."""
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = tensor.data.clone()


def _networks(files: ModelFiles) -> tuple[Any, Any, Any]:
    """UNet, VAE and text encoder in float32."""
    options: dict[str, Any] = {"local_files_only": True, "torch_dtype": torch.float32}
    if files.checkpoint is not None:
        return _original_networks(files, options)
    options |= {"use_safetensors": True, "output_loading_info": True}
    parts: dict[str, dict[str, Any]] = {
        name: {"subfolder": name, "variant": variant} for name, variant in files.variants.items()
    }
    unet: Any = UNet2DConditionModel.from_pretrained(files.folder, **parts["unet"], **options)
    vae: Any = AutoencoderKL.from_pretrained(files.folder, **parts["vae"], **options)
    options["dtype"] = options.pop("torch_dtype")
    encoder: Any = CLIPTextModel.from_pretrained(files.folder, **parts["text_encoder"], **options)
    for _, report in (unet, vae, encoder):
        # What a file lacks would be filled with random numbers.
        missing = sorted(report["missing_keys"])
        if missing or report["mismatched_keys"]:
            raise ValueError(f"weights are missing or of another shape: {missing[:3] or report['mismatched_keys']}")
    return unet[0], vae[0], encoder[0]


def _original_networks(files: ModelFiles, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The same from a single file in the original layout."""
    from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
    from safetensors.torch import load_file

    folder = str(files.folder)
    weights = load_file(str(files.checkpoint))
    unet = UNet2DConditionModel.from_single_file(dict(weights), config=folder, subfolder="unet", **options)
    vae = AutoencoderKL.from_single_file(dict(weights), config=folder, subfolder="vae", **options)
    encoder = create_diffusers_clip_model_from_ldm(
        CLIPTextModel, weights, subfolder="text_encoder", config=folder, **options
    )
    for network in (unet, vae, encoder):
        missing = [name for name, value in network.named_parameters() if value.is_meta]
        if missing:
            raise ValueError(f"weights are missing: {missing[:3]}")
    return unet, vae, encoder


def _schedule(files: ModelFiles) -> tuple[NoiseSchedule, bool]:
    """The table of alphas_cumprod, and whether the network predicts v. Any variance-preserving scheduler's config."""
    config = files.config("scheduler")
    name = str(config.get("_class_name"))
    prediction = config.get("prediction_type", "epsilon")
    if "Flow" in name or prediction not in ("epsilon", "v_prediction"):
        raise ModelError(
            f"{files.id} has scheduler {name} with prediction {prediction}; allowed: epsilon and v_prediction of a "
            "variance-preserving scheduler"
        )
    betas = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    try:
        scheduler: Any = DDIMScheduler(
            **{key: config[key] for key in (*betas, "rescale_betas_zero_snr") if key in config}
        )
        return NoiseSchedule.of(scheduler.alphas_cumprod.double().tolist()), prediction == "v_prediction"
    except (NotImplementedError, TypeError, ValueError, BridgeError) as error:
        raise ModelError(f"{files.id} has no usable noise schedule: {error}; restore scheduler_config.json") from error


def _check_layout(files: ModelFiles) -> None:
    check_sample_size(files)
    unet, vae = files.config("unet"), files.config("vae")
    channels, latent = unet.get("in_channels"), vae.get("latent_channels")
    if channels != latent or unet.get("out_channels") != latent:
        raise ModelError(f"{files.id} has a UNet of {channels} channels for latents of {latent}; an inpainting model?")
    for key, allowed in (("addition_embed_type", (None, "text")), ("class_embed_type", (None,))):
        if unet.get(key) not in allowed:
            raise ModelError(f"{files.id} has {key} {unet[key]!r} in its UNet; supported are 1.x and 2.x models")
    if vae.get("latents_mean") is not None:
        raise ModelError(f"{files.id} has latents_mean in its VAE; supported are scaling_factor and shift_factor")


def _check_widths(unet: Any, text: TextConditioner, files: ModelFiles) -> None:
    if unet.config.cross_attention_dim != text.width:
        raise ModelError(
            f"{files.id} has a UNet for prompts of {unet.config.cross_attention_dim} features and a text encoder of "
            f"{text.width}: its parts belong to different models"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of other libraries while a model is loaded."""
    shown = transformers_logging.is_progress_bar_enabled(), diffusers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    diffusers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown[0]:
            transformers_logging.enable_progress_bar()
        if shown[1]:
            diffusers_logging.enable_progress_bar()
