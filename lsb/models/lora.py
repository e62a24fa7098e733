"""LoRA files merged into a model's weights: W + (alpha / r) B A, once, at loading.

Loaders pass over what they do not know. So the file is looked at before, and what has arrived in the model's layers is
compared with it afterwards: every pair of matrices with its strength, or the file is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lsb.errors import LsbError, ModelError
from lsb.records import sha256

# What other methods than plain LoRA call their weights.
_OTHERS = {
    "DoRA": ("dora_scale", "lora_magnitude_vector"),
    "LoKr": ("lokr_",),
    "LoHa": ("hada_",),
    "LoCon with a core matrix": ("lora_mid",),
    "OFT": ("oft_", "boft_"),
    "IA3": ("on_input",),
    "full differences": (".diff", ".diff_b"),
    "biases": (".lora_B.bias", ".lora_up.bias"),
}
_DOWN = re.compile(r"(.+?)[._](?:lora_A|lora_down|lora\.down|lora_linear_layer\.down)(?:\.default)?\.weight")
_UP = re.compile(r"(.+?)[._](?:lora_B|lora_up|lora\.up|lora_linear_layer\.up)(?:\.default)?\.weight")


@dataclass(frozen=True)
class _Pair:
    """The matrices of one layer, and its alpha (None: as large as the rank)."""

    down: Tensor
    up: Tensor
    alpha: float | None

    @property
    def mark(self) -> tuple[str, str]:
        return _mark(self.down), _mark(self.up)

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.down.shape[0]


def add_lora(path: Path, unet: Any, text_encoder: Any) -> None:
    """Merge a `.safetensors` file of diffusers, peft or kohya keys, at strength 1.

    Raises:
        ModelError: no LoRA weights, weights of another method, weights that fit no layer of this model, or the package
            peft is missing.
    """
    if find_spec("peft") is None:
        raise ModelError(f"LoRA {path.name} needs the package peft; pip install 'lsb[lora]'")
    pairs = _pairs(path)
    try:
        told, marks = _load(path, unet, text_encoder)
    except LsbError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"LoRA {path.name} does not fit this model: {reason}; use one made for it") from error
    missing = sorted(name for name, pair in pairs.items() if pair.mark not in marks)
    asked = Counter(pair.mark for pair in pairs.values())
    missing = missing or sorted(name for name, pair in pairs.items() if asked[pair.mark] > len(marks[pair.mark]))
    if missing:
        raise ModelError(
            f"LoRA {path.name} has weights that fit no layer of this model: {_few(missing)}; use one made for it"
        )
    if told:  # the file says itself how strong it is, layer by layer
        return
    off = sorted(name for name, pair in pairs.items() if all(abs(s - pair.scale) > 1e-4 for s in marks[pair.mark]))
    if off:
        raise ModelError(f"LoRA {path.name} has an alpha that cannot be applied: {_few(off)}; use another file")


def _pairs(path: Path) -> dict[str, _Pair]:
    """The pairs of matrices in a file by the layer's name there; ModelError if there is anything else."""
    try:
        state = load_file(str(path))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"cannot read LoRA {path.name}: {reason}; restore the file") from error
    for method, words in _OTHERS.items():
        found = [key for key in state if any(word in key for word in words)]
        if found:
            raise ModelError(f"LoRA {path.name} holds {method} ({_few(found)}); lsb merges plain LoRA only")
    parts: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for key, value in state.items():
        down, up = _DOWN.fullmatch(key), _UP.fullmatch(key)
        if down or up:
            parts.setdefault((down or up)[1], {})["down" if down else "up"] = value  # type: ignore[index]
        elif key.endswith(".alpha") and value.numel() == 1:
            parts.setdefault(re.sub(r"[._]lora$", "", key.removesuffix(".alpha")), {})["alpha"] = value
        else:
            unknown.append(key)
    if unknown or not parts:
        raise ModelError(
            f"{path.name} holds no LoRA for a Stable Diffusion model, or more than that: "
            f"{_few(unknown) or 'it has no keys'}"
        )
    single = sorted(name for name, part in parts.items() if not {"down", "up"} <= part.keys())
    if single:
        raise ModelError(f"LoRA {path.name} lacks one of two matrices: {_few(single)}; restore the file")
    return {
        name: _Pair(part["down"], part["up"], float(part["alpha"]) if "alpha" in part else None)
        for name, part in parts.items()
    }


def _load(path: Path, unet: Any, text_encoder: Any) -> tuple[bool, dict[tuple[str, str], list[float]]]:
    """Load and merge. Whether the file tells of its strengths, and those of all layers by their matrices' marks."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

    state, alphas, metadata = Loader.lora_state_dict(
        str(path.parent),
        weight_name=path.name,
        use_safetensors=True,
        local_files_only=True,
        unet_config=unet.config,
        return_lora_metadata=True,
    )
    if any(key.endswith("use_dora") and value for key, value in (metadata or {}).items()):
        raise ModelError(f"LoRA {path.name} holds DoRA, by its metadata; lsb merges plain LoRA only")
    state = {key: value for key, value in state.items() if not key.endswith(".alpha")}
    prefixes = {key.split(".", 1)[0] for key in state}
    if not state or not prefixes <= {"unet", "text_encoder"}:
        raise ModelError(
            f"{path.name} holds no LoRA for a Stable Diffusion model; its keys begin {_few(sorted(state))}"
        )
    marks: dict[tuple[str, str], list[float]] = {}
    if "unet" in prefixes:
        Loader.load_lora_into_unet(state, network_alphas=alphas, unet=unet, metadata=metadata)
        _merge(unet, marks)
    if "text_encoder" in prefixes:
        Loader.load_lora_into_text_encoder(
            state, network_alphas=alphas, text_encoder=text_encoder, prefix="text_encoder", metadata=metadata
        )
        _merge(text_encoder, marks)
    return bool(metadata), marks


def _merge(network: Any, marks: dict[tuple[str, str], list[float]]) -> None:
    """Merge every adapter and take its layers out again, so that the network is as plain as before."""
    from diffusers.utils.peft_utils import recurse_remove_peft_layers
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in network.modules():
        if isinstance(module, BaseTunerLayer):
            layer: Any = module
            for name, down in layer.lora_A.items():
                mark = _mark(down.weight), _mark(layer.lora_B[name].weight)
                marks.setdefault(mark, []).append(float(layer.scaling[name]))
            module.merge(safe_merge=True)
    recurse_remove_peft_layers(network)
    del network.peft_config
    network._hf_peft_config_loaded = False


def _mark(weights: Tensor) -> str:
    """Digest of the numbers in a matrix, whatever its shape and dtype."""
    return sha256(weights.detach().float().cpu().contiguous().numpy().tobytes())


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
