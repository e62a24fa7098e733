"""What a Stable Diffusion model's files say of it before its weights are read, and without torch."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from lsb.bridge.schedule import NoiseSchedule
from lsb.errors import BridgeError, ModelError
from lsb.models.canvas import check_sample_size
from lsb.models.files import ModelFiles

_POSITIONS = 77  # of a text encoder whose configuration does not say how many it has


@dataclass(frozen=True)
class Facts:
    """What a job's settings must fit to.

    Attributes:
        latent_side: of the latent of a square picture that has the canvas's side.
        sigma_max: the schedule's largest sigma, right to 1e-4 of it; None if that is not to be known.
        longest: tokens of a prompt that the text encoder reads at most.
        tokens: how many a prompt has, by the texts around its learned words and the number of these words' vectors; it
            may say too many, but not so many that it is above `longest`.
    """

    latent_side: int
    sigma_max: float | None
    longest: int
    tokens: Callable[[Sequence[str], int], int]


def stable_diffusion_facts(files: ModelFiles) -> Facts:
    """Those of a folder in diffusers' layout.

    Raises:
        ModelError: a configuration is missing or damaged.
    """
    check_sample_size(files)
    positions = files.config("text_encoder").get("max_position_embeddings", _POSITIONS)
    longest = int(min(positions, files.config("tokenizer").get("model_max_length", positions))) - 2
    return Facts(
        latent_side=int(files.config("unet")["sample_size"]),
        sigma_max=largest_sigma(files.config("scheduler")),
        longest=longest,
        tokens=partial(_tokens, files, longest),
    )


def largest_sigma(scheduler: Mapping[str, Any]) -> float | None:
    """Of a scheduler's configuration, as diffusers reads it; None for what diffusers would not read either."""
    try:
        alpha_bar = np.cumprod(1.0 - _betas(scheduler))
        if scheduler.get("rescale_betas_zero_snr"):
            roots = np.sqrt(alpha_bar)
            alpha_bar = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
        return NoiseSchedule.of(alpha_bar).sigma_max
    except (ArithmeticError, BridgeError, IndexError, TypeError, ValueError):
        return None


def _betas(scheduler: Mapping[str, Any]) -> np.ndarray:
    if scheduler.get("trained_betas") is not None:
        return np.asarray(scheduler["trained_betas"], dtype=np.float64)
    low, high = float(scheduler.get("beta_start", 0.0001)), float(scheduler.get("beta_end", 0.02))
    steps, kind = int(scheduler.get("num_train_timesteps", 1000)), scheduler.get("beta_schedule", "linear")
    if kind == "linear":
        return np.linspace(low, high, steps)
    if kind == "scaled_linear":
        return np.linspace(math.sqrt(low), math.sqrt(high), steps) ** 2
    if kind == "squaredcos_cap_v2":
        left = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.minimum(1.0 - left[1:] / left[:-1], 0.999)
    raise ValueError(f"no such schedule as {kind}")


def _tokens(files: ModelFiles, longest: int, texts: Sequence[str], vectors: int) -> int:
    """None of CLIP's tokens has less than a byte; where there are more bytes, the tokenizer is asked."""
    size = sum(len(unicodedata.normalize("NFC", text).lower().encode(errors="replace")) for text in texts)
    if size + vectors <= longest:
        return size + vectors
    from transformers import CLIPTokenizer  # which takes a second or two

    try:
        tokenizer: Any = CLIPTokenizer.from_pretrained(files.folder / "tokenizer", local_files_only=True)
        return vectors + sum(len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids) for text in texts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"cannot load the tokenizer of {files.id}: {reason}; restore its files") from error
