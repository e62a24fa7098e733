"""The listening test: how much worse a denoiser gets when the words name the wrong style, or nothing."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel, CLIPTokenizer

import pictures
from networks import TOKENS, new_scheduler

SIGMAS = (0.3, 0.6, 1.15, 2.0, 4.0)


class Words:
    """Captions to conditions, through the tokenizer and the text encoder that is being trained."""

    def __init__(self, tokenizer: CLIPTokenizer, encoder: CLIPTextModel, device: torch.device) -> None:
        self.tokenizer, self.encoder, self.device = tokenizer, encoder, device

    def __call__(self, texts: list[str]) -> Tensor:
        ids = self.tokenizer(texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
        return self.encoder(ids.input_ids.to(self.device)).last_hidden_state


class Denoiser:
    """x_hat = x_t - sigma eps_hat of the UNet under training, at any sigma of the schedule."""

    def __init__(self, unet: UNet2DConditionModel, device: torch.device) -> None:
        self.unet, self.device = unet, device
        alpha_bar = new_scheduler().alphas_cumprod.double()
        self.log_sigma = (0.5 * torch.log((1 - alpha_bar) / alpha_bar)).float()

    def time(self, sigma: Tensor) -> Tensor:
        """Network time, linear in log sigma between the schedule's steps."""
        wanted = sigma.log().clamp(self.log_sigma[0], self.log_sigma[-1])
        upper = torch.searchsorted(self.log_sigma, wanted).clamp(1, len(self.log_sigma) - 1)
        low, high = self.log_sigma[upper - 1], self.log_sigma[upper]
        return (upper - 1) + (wanted - low) / (high - low)

    def __call__(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        scale = (1 + sigma**2).sqrt()[:, None, None, None].to(self.device)
        y = (x_t / scale).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            v = self.unet(y, self.time(sigma).to(self.device), condition, added_cond_kwargs={}).sample
        spread = sigma[:, None, None, None].to(self.device) / scale
        return y / scale - spread * v.float()


def some(held_out: pictures.Pictures, every: int = 4) -> pictures.Pictures:
    """Every so many symbols, each in all styles; the data set has a symbol's styles behind each other."""
    count = len(pictures.STYLES)
    return held_out.only([row for row in range(len(held_out.images)) if (row // count) % every == 0])


@torch.no_grad()
def listening(denoise: Denoiser, words: Words, latents: Tensor, held_out: pictures.Pictures) -> dict[str, Any]:
    """How much the loss rises under another style's words, and under none, in per cent, by sigma and by style.

    Args:
        latents: (N, C, h, w) of the pictures `held_out`, which are whole: the noise alone hides their style.
    """
    result: dict[str, Any] = {"styles": {name: {} for name in pictures.STYLES}}
    generator = torch.Generator().manual_seed(7)
    style = torch.from_numpy(held_out.style)
    names = [f"a {pictures.STYLE_WORDS[name][0]}" for name in pictures.STYLES]
    said = {
        "right": [names[s] for s in style],
        "wrong": [names[(s + 1) % len(names)] for s in style],
        "null": [""] * len(style),
    }
    for sigma in SIGMAS:
        losses: dict[str, list[Tensor]] = {key: [] for key in said}
        for start in range(0, len(latents), 64):
            x = latents[start : start + 64]
            x_t = x + sigma * torch.randn(x.shape, generator=generator).to(x.device)
            level = torch.full((len(x),), sigma)
            for key, texts in said.items():
                error = denoise(x_t, level, words(texts[start : start + 64])) - x
                losses[key].append(error.square().mean((1, 2, 3)).cpu())
        by_picture = {key: torch.cat(parts) for key, parts in losses.items()}
        result[f"loss_{sigma}"] = round(by_picture["right"].mean().item(), 5)
        every = torch.ones_like(style, dtype=torch.bool)
        groups = [(result, every), *((result["styles"][n], style == i) for i, n in enumerate(pictures.STYLES))]
        for group, rows in groups:
            for key in ("wrong", "null"):
                ratio = by_picture[key][rows].mean() / by_picture["right"][rows].mean()
                group[f"{key}_{sigma}"] = round(100 * (ratio.item() - 1), 2)
    return result
