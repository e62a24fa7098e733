"""A Stable Diffusion folder small enough to build and load in a second: seeded random weights, real layout.

    folder = tiny_model(tmp_path / "model")
    folder = tiny_model(tmp_path / "model", prediction_type="v_prediction", vae="shifted")

Images of 32 x 32 pixels, latents of (4, 8, 8), prompts of 77 tokens with 32 features; 64 x 64 with the whole layout of
version 1.5 or 2.1, which is theirs in all but its widths and takes some seconds.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, UNet2DConditionModel
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

IMAGE_SIZE = 32
LATENT_SHAPE = (4, 8, 8)
TEXT_WIDTH = 32
TEXT_LENGTH = 77
SMALL: dict[str, Any] = {
    "unet": {
        "block_out_channels": (16, 32),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": 2,
    },
    "vae": {"levels": 3, "layers_per_block": 1, "mid_block_add_attention": False},
    "act": "quick_gelu",
}
_WHOLE_UNET: dict[str, Any] = {
    "block_out_channels": (16, 32, 32, 32),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
    "norm_num_groups": 8,
}
_WHOLE_VAE = {"levels": 4, "layers_per_block": 2, "mid_block_add_attention": True}
LAYOUTS: dict[str, Any] = {
    "small": SMALL,
    "1.5": {"unet": {**_WHOLE_UNET, "attention_head_dim": 4}, "vae": _WHOLE_VAE, "act": "quick_gelu"},
    "2.1": {
        "unet": {**_WHOLE_UNET, "attention_head_dim": (2, 4, 4, 4), "use_linear_projection": True},
        "vae": _WHOLE_VAE,
        "act": "gelu",
    },
}
WORDS = (
    "a picture of a flat icon an image in the style of a 3d icon ugly blurry black low res unrealistic , "
    "a red heart a smiling face a dog a cat the moon and the sun"
)


def tiny_model(
    folder: Path,
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon",
    vae: Literal["plain", "shifted"] = "plain",
    *,
    seed: int = 0,
    latent_channels: int = 4,
    text_only_conditions: bool = False,
    zero_terminal_snr: bool = False,
    scheduler: Literal["ddim", "pndm"] = "ddim",
    layout: Literal["small", "1.5", "2.1"] = "small",
) -> Path:
    """Write the folder and return it. Equal arguments give equal bytes.

    Args:
        vae: `shifted` has a scaling factor and a shift factor of its own, `plain` those of Stable Diffusion 1.
        layout: the blocks; `1.5` and `2.1` are those of Stable Diffusion, with a VAE of factor 8.
        text_only_conditions: a UNet with `addition_embed_type="text"`, which pools the prompt by itself.
    """
    blocks = LAYOUTS[layout]
    with seeded(seed):
        levels, vae_options = blocks["vae"]["levels"], {k: v for k, v in blocks["vae"].items() if k != "levels"}
        autoencoder = AutoencoderKL(
            block_out_channels=(8, 16, 16, 16)[:levels],
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            latent_channels=latent_channels,
            norm_num_groups=4,
            sample_size=LATENT_SHAPE[1] * 2 ** (levels - 1),
            **vae_options,
            **({"scaling_factor": 0.6, "shift_factor": 0.25} if vae == "shifted" else {"scaling_factor": 0.18215}),
        )
        extra: dict[str, Any] = {"addition_embed_type": "text", "addition_embed_type_num_heads": 2}
        unet = UNet2DConditionModel(
            sample_size=LATENT_SHAPE[1],
            in_channels=latent_channels,
            out_channels=latent_channels,
            cross_attention_dim=TEXT_WIDTH,
            **blocks["unet"],
            **(extra if text_only_conditions else {}),
        )
        tokenizer = tokenizer_of_words()
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=TEXT_WIDTH,
                intermediate_size=2 * TEXT_WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                hidden_act=blocks["act"],
                max_position_embeddings=TEXT_LENGTH,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    if scheduler == "pndm":
        schedule: Any = PNDMScheduler(prediction_type=prediction_type, skip_prk_steps=True, **betas)
    else:
        schedule = DDIMScheduler(
            prediction_type=prediction_type,
            rescale_betas_zero_snr=zero_terminal_snr,
            clip_sample=False,
            set_alpha_to_one=False,
            **betas,
        )
    save(folder, unet, autoencoder, text_encoder, tokenizer, schedule)
    return folder


def save(folder: Path, unet: Any, vae: Any, text_encoder: Any, tokenizer: Any, scheduler: Any) -> None:
    """Write a model's parts as a folder in diffusers' layout."""
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    text_encoder.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    scheduler.save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", type(scheduler).__name__],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random initialisation from `seed`; the caller's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def tokenizer_of_words() -> CLIPTokenizer:
    """A byte-level BPE trained on a few words. Every string can be spelled with it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _merges([(*word[:-1], word[-1] + "</w>") for word in WORDS.split()])
    pieces = [*alphabet, *(letter + "</w>" for letter in alphabet), *(one + two for one, two in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TEXT_LENGTH)


def _merges(words: list[tuple[str, ...]]) -> list[tuple[str, str]]:
    """Byte-pair encoding: the commonest pair first. The library's trainer settles ties at random."""
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for word in words for pair in pairwise(word)):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = [_merged(word, best) for word in words]
    return merges


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    pieces: list[str] = []
    for piece in word:
        if pieces and (pieces[-1], piece) == pair:
            pieces[-1] += piece
        else:
            pieces.append(piece)
    return tuple(pieces)
