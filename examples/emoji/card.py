"""The model card, written from the training log by `train.py export`."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pictures

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

**Captions.** Name, category and style in plain words ("3d icon of parrot"), since sample {captions:,} with the names
and keywords of Unicode CLDR and eight forms for each style; the style alone in 40 % of the captions, symbol and style
in 52 %, the symbol alone in 4 %, nothing in 4 %. Before that: four forms, 35 %, 53 %, 6 %, 6 %.

**Training.** `python examples/emoji/train.py all`; AdamW, exponential moving averages exported. At first 60 % of the
UNet's samples have their style hidden before noise is added (flat segments, other light, other tones, blur; made from
the same picture), with log-uniform sigma from 0.03 to 4, and the target is still the picture itself, so that the style
has to come from the words. The others are ordinary diffusion training.

The recipe changed three times, each time begun anew from the exported weights: no optimiser state, the rate raised
again over 300 steps, then falling to 2 % of itself at the end. Up to sample {captions:,}: 50 % hidden, sigma from 0.1
to 2, a constant rate of 6e-4. Up to sample {segments:,}: hidden by a median filter and a palette of 4 to 12 colours,
which left shading as bands and took small parts away, in two versions of each picture; the rate fell in the last
quarter. Up to sample {restored:,}: hidden by graph-based segments in their mean colours, which look like a flat drawing
and keep small parts, in six versions; the rate fell in the last two fifths. Since then (`--restore`, at most 4e-4):
40 % of the samples are a picture that the model of before had put into another style (LSB at tau 0.1, guidance 10),
20 % one with its style hidden, both with sigma from 0.2 to 2 and with the real picture as target; 40 % whole pictures
at all sigmas. Here too each sample is one picture: what is put into another style and asked back is that picture.

**The word `restored`** stands before the captions of those 60 % alone. "restored 3d icon" asks for a picture that was
seen in another style to be put into this one, which is what a translation wants; "3d icon" names pictures as they are,
and what the network answers is the mean of what such pictures may be.

| stage | steps | samples | wall-clock minutes | device |
|---|---|---|---|---|
| VAE | {vae_steps} | {vae_samples} | {vae_minutes} | {device} |
| UNet and text encoder | {unet_steps} | {unet_samples} | {unet_minutes} | {device} |

The minutes are wall-clock. {note}

## Validation figures

VAE, PSNR in dB on validation symbols: {vae_figures}.

The listening test: how much the squared error of the prediction rises on validation pictures (every fourth symbol in
all four styles, fixed noise), in per cent, when the words name another style, and when there are no words, by noise
level sigma. Every line is a point of the training run; the last one is the model. Lines marked * were measured on
flat pictures alone.

{listening}

The model, by the style of the picture (the wrong words: flat is called 3d, 3d noto, noto twemoji, twemoji flat):

{by_style}

## Text to image

![16 symbols in four styles](text-to-image.webp)

Rows: {styles}. Columns, all from validation: {names}. 25 steps, guidance 4.

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


CAPTIONS, SEGMENTS, RESTORED = 249_408, 337_760, 534_048  # samples after which the recipe changed


def signed(values: dict[str, float], sigmas: list[str]) -> list[str]:
    return [f"{values[f'{kind}_{sigma}']:+.1f}" for kind in ("wrong", "null") for sigma in sigmas]


def rows(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines))


def write_card(
    log: Path, folder: Path, sizes: dict[str, float], images: int, symbols: int, names: list[str], note: str
) -> None:
    """Fill the card from `log.jsonl` and copy the log beside it. `names`: the symbols of text-to-image.webp."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    vae = [line for line in lines if line["run"] == "vae"]
    unet = [line for line in lines if line["run"] == "unet"]
    sigmas = [key.removeprefix("wrong_") for key in unet[-1] if key.startswith("wrong_")]
    heads = [f"{kind}, sigma {sigma}" for kind in ("wrong", "null") for sigma in sigmas]
    kept = [*unet[: -1 : max(1, len(unet) // 15)], unet[-1]]
    curve = [
        [
            f"{line['samples']:,}" + ("" if "styles" in line else " *"),
            f"{line['minutes']:.0f}",
            f"{line.get('loss_1.15', 0):.4f}",
            *signed(line, sigmas),
        ]
        for line in kept
    ]
    figures = ", ".join(f"{k.removeprefix('psnr_')} {v}" for k, v in vae[-1].items() if k.startswith("psnr_"))
    (folder / "README.md").write_text(
        TEXT.format(
            sizes="\n".join(f"| {name} | {value:.2f} |" for name, value in sizes.items()),
            images=f"{images:,}",
            symbols=f"{symbols:,}",
            captions=CAPTIONS,
            segments=SEGMENTS,
            restored=RESTORED,
            vae_steps=f"{vae[-1]['step']:,}",
            # The first log did not count the VAE's samples; its batches were of 24.
            vae_samples=f"{vae[-1].get('samples', 24 * vae[-1]['step']):,}",
            vae_minutes=f"{vae[-1]['minutes']:.0f}",
            unet_steps=f"{unet[-1]['step']:,}",
            unet_samples=f"{unet[-1]['samples']:,}",
            unet_minutes=f"{unet[-1]['minutes']:.0f}",
            device=machine(),
            note=note,
            vae_figures=f"all {vae[-1]['psnr']}, {figures}",
            listening=rows(["samples", "minutes", "error at sigma 1.15", *heads], curve),
            by_style=rows(
                ["style", *heads], [[name, *signed(said, sigmas)] for name, said in unet[-1]["styles"].items()]
            ),
            styles=", ".join(pictures.STYLES),
            names=", ".join(names),
        )
    )
    (folder / "training.jsonl").write_text(log.read_text())
