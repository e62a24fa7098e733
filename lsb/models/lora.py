"""LoRA files merged into a model's weights: W + (alpha / r) B A, once, at loading."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lsb.errors import ModelError


def add_lora(path: Path, unet: Any, text_encoder: Any) -> None:
    """Merge a `.safetensors` file of diffusers, peft or kohya keys, at strength 1.

    Raises:
        ModelError: no LoRA weights for this model in it, or the package peft is missing.
    """
    if find_spec("peft") is None:
        raise ModelError(f"LoRA {path.name} needs the package peft; pip install 'lsb[lora]'")
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

    state, alphas, metadata = Loader.lora_state_dict(
        str(path.parent),
        weight_name=path.name,
        use_safetensors=True,
        local_files_only=True,
        unet_config=unet.config,
        return_lora_metadata=True,
    )
    prefixes = {key.split(".", 1)[0] for key in state}
    if not state or not prefixes <= {"unet", "text_encoder"} or not all("lora" in key for key in state):
        raise ModelError(f"{path.name} holds no LoRA for a Stable Diffusion model; its keys begin {sorted(state)[:2]}")
    if "unet" in prefixes:
        Loader.load_lora_into_unet(state, network_alphas=alphas, unet=unet, metadata=metadata)
        _merge(unet)
    if "text_encoder" in prefixes:
        Loader.load_lora_into_text_encoder(
            state, network_alphas=alphas, text_encoder=text_encoder, prefix="text_encoder", metadata=metadata
        )
        _merge(text_encoder)


def _merge(network: Any) -> None:
    """Merge every adapter and take its layers out again, so that the network is as plain as before."""
    from diffusers.utils.peft_utils import recurse_remove_peft_layers
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in network.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
    recurse_remove_peft_layers(network)
    del network.peft_config
    network._hf_peft_config_loaded = False
