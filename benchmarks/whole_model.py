"""Stable Diffusion 1.5's layout at its whole width with random weights: what speed and memory are measured on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lsb.bridge.schedule import NoiseSchedule
from lsb.ledger.transform import ModelIdentity
from lsb.models.stable_diffusion import DTYPES, StableDiffusion
from lsb.models.text import TextConditioner
from tests.tiny import TEXT_LENGTH, save, seeded, tokenizer_of_words

SIDE = 512
WORDS = 49408  # in the table, more than the tokenizer knows here
_BETAS = 0.00085, 0.012


def whole_model(folder: Path, *, seed: int = 0) -> Path:
    """Write the folder, 4.3 GB in float32, and return it. Pictures of 512 x 512, latents of (4, 64, 64)."""
    tokenizer = tokenizer_of_words()
    with seeded(seed):
        networks = _unet(), _autoencoder(), _text_encoder(tokenizer)
    save(folder, *networks, tokenizer, _schedule())
    return folder


def whole_backbone(dtype: str = "float32") -> StableDiffusion:
    """The same as it is after loading, on the CPU, of any weights. With fake tensors it takes no memory."""
    tokenizer = tokenizer_of_words()
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES[dtype])  # fake weights cannot be converted
    try:
        unet = _unet()
    finally:
        torch.set_default_dtype(before)
    networks: tuple[nn.Module, ...] = (unet, _autoencoder(), _text_encoder(tokenizer))
    for network in networks:
        network.eval().requires_grad_(False)
    text = TextConditioner(tokenizer, networks[2])
    betas = np.linspace(_BETAS[0] ** 0.5, _BETAS[1] ** 0.5, 1000) ** 2
    schedule = NoiseSchedule.of(np.cumprod(1 - betas).tolist())
    return StableDiffusion(ModelIdentity("whole", None, "0" * 64, {}), *networks[:2], text, schedule, predicts_v=False)


def _unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(sample_size=SIDE // 8, cross_attention_dim=768, attention_head_dim=8)


def _autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=2,
        sample_size=SIDE,
        scaling_factor=0.18215,
    )


def _text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=WORDS,
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            max_position_embeddings=TEXT_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _schedule() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=_BETAS[0],
        beta_end=_BETAS[1],
        beta_schedule="scaled_linear",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )
