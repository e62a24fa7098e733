"""The model card, written from the training log by `train.py export`."""

from __future__ import annotations

import json
import platform
from pathlib import Path

TEXT = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---

# The embedded emoji model

A small latent diffusion model in Stable Diffusion's layout: 64x64 pictures, latents 8x16x16, v-prediction,
text encoder and tokenizer of its own. It exists so that `lsb` can be tried, tested and shown without a download.
It draws emoji-like pictures and nothing else.

| part | million parameters |
|---|---|
{sizes}

**Data.** `examples/emoji/emoji.parquet`, train split: {images} pictures of {symbols} symbols in four styles
(Fluent flat and Fluent 3D, MIT; Noto, Apache-2.0; Twemoji, CC-BY 4.0). Validation and test symbols were never
trained on, and neither the pairs nor the pairing of styles were used: each sample is one picture with its words.

**Captions.** Name, category and style in plain words ("3d icon of parrot"); the style alone in 35 % of the
captions, symbol and style in 53 %, the symbol alone in 6 %, nothing in 6 %.

**Training.** `python examples/emoji/train.py vae`, then `latents`, then `unet`; AdamW, constant learning
rate, exponential moving averages exported. Half of the UNet's samples are ordinary diffusion training. In the other
half the noised picture has its style hidden (flat palette, other light, other tones, blur; made from the same
picture) and the target is still the picture itself, so that the style has to come from the words.

| stage | steps | samples | wall-clock minutes | device |
|---|---|---|---|---|
| VAE | {vae_steps} | {vae_samples} | {vae_minutes} | {device} |
| UNet and text encoder | {unet_steps} | {unet_samples} | {unet_minutes} | {device} |

The minutes are wall-clock. {note}

## Validation figures

VAE, PSNR in dB on validation symbols: {vae_figures}.

The listening test: how much the squared error of the prediction rises on validation pictures (128 of them, fixed
noise), in per cent, when the words name the wrong style, and when there are no words, by noise level sigma. Every
line is a point of the training run; the last one is the model.

{listening}

## Limits

A small network with little training: what it draws from words alone is rough, often no more than a coloured
shape. It has learned what the styles do to light, tone and surface far better than what the symbols look like, and
it does not redraw shapes.
The full log is `training.jsonl` beside this card; figures on translations are in `examples/emoji/RESULTS.md`.
"""


def machine() -> str:
    """The accelerator, or the model of the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else platform.processor()


def write_card(
    log: Path, folder: Path, sizes: dict[str, float], images: int, symbols: int, vae_batch: int, note: str
) -> None:
    """Fill the card from `log.jsonl` and copy the log beside it."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    vae = [line for line in lines if line["run"] == "vae"]
    unet = [line for line in lines if line["run"] == "unet"]
    sigmas = [key.removeprefix("wrong_") for key in unet[-1] if key.startswith("wrong_")]
    header = "| samples | minutes |" + "".join(f" wrong, sigma {s} |" for s in sigmas)
    header += "".join(f" null, sigma {s} |" for s in sigmas)
    rows = [header, "|" + "---|" * (2 + 2 * len(sigmas))]
    kept = [*unet[: -1 : max(1, len(unet) // 10)], unet[-1]]
    for line in kept:
        values = [f"{line[f'{kind}_{s}']:+.1f}" for kind in ("wrong", "null") for s in sigmas]
        rows.append(f"| {line['samples']:,} | {line['minutes']:.0f} | " + " | ".join(values) + " |")
    figures = ", ".join(f"{k.removeprefix('psnr_')} {v}" for k, v in vae[-1].items() if k.startswith("psnr_"))
    (folder / "README.md").write_text(
        TEXT.format(
            sizes="\n".join(f"| {name} | {value:.2f} |" for name, value in sizes.items()),
            images=f"{images:,}",
            symbols=f"{symbols:,}",
            vae_steps=f"{vae[-1]['step']:,}",
            vae_samples=f"{vae[-1]['step'] * vae_batch:,}",
            vae_minutes=f"{vae[-1]['minutes']:.0f}",
            unet_steps=f"{unet[-1]['step']:,}",
            unet_samples=f"{unet[-1]['samples']:,}",
            unet_minutes=f"{unet[-1]['minutes']:.0f}",
            device=machine(),
            note=note,
            vae_figures=f"all {vae[-1]['psnr']}, {figures}",
            listening="\n".join(rows),
        )
    )
    (folder / "training.jsonl").write_text(log.read_text())
