"""Vision towers of transformers, which measure pictures and make none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel

from lsb.errors import ModelError
from lsb.redaction import redact


def load_tower(name: str, folder: Path, device: str) -> Callable[[Tensor], Tensor]:
    """The network in a folder as transformers writes it: pictures (N, 3, side, side), normalised as it was trained
    with, to vectors (N, D).

    Of one that was trained with texts these are its picture embeddings, of another one its pooled output.

    Args:
        name: as which it is named in an error.
        device: a torch device.

    Raises:
        ModelError: transformers does not know it, its weights do not fit, or it takes no pictures.
    """
    try:
        loaded: tuple[Any, Any] = AutoModel.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"feature network {name} cannot be loaded: {redact(str(error))}") from error
    model, how = loaded
    if missing := sorted(how["missing_keys"]):  # which would be filled in by chance
        raise ModelError(f"feature network {name} has no weights for {missing[0]} and {len(missing) - 1} more")
    if not hasattr(model, "get_image_features") and model.main_input_name != "pixel_values":
        raise ModelError(f"feature network {name} takes no pictures; give a vision tower")
    model = model.eval().requires_grad_(False).to(device)
    ask = getattr(model, "get_image_features", model)

    def network(pixels: Tensor) -> Tensor:
        found = ask(pixel_values=pixels)
        return found if isinstance(found, Tensor) else getattr(found, "pooler_output", found)

    return network
