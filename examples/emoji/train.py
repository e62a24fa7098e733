"""Train the embedded emoji model: first the VAE, then the text-conditioned UNet with its text encoder.

    python examples/emoji/train.py all --total 60 --minutes 8     # again and again, until it has exported
    python examples/emoji/train.py all --start examples/emoji/model --work out/more --total 60

`all` is `vae`, `latents`, `unet` and `export` in order; each is a command, too. `--total` and `--vae-total` are the
minutes that a stage has in all, over which its learning rate rises and, in the last two fifths, falls; `--minutes` is
what this call may take. After that, or on Ctrl-C or SIGTERM, the state is saved in `--work`, and the same command goes
on. `--start` begins from an exported model and keeps its VAE, tokenizer, latent scale and log.

The UNet sees two kinds of samples. In the first, noise is added to the latent of a picture and the network
predicts what makes the picture whole again: ordinary diffusion training. In the second, noise is added to the
latent of the same picture with its style hidden (flat segments, other light, other tones, blur), and the target
is still the picture: the style can then only come from the words, so that the network has to read them.

`--start examples/emoji/model --restore` trains on for the bridge's own noise levels, where the network sees pictures of
one style and is asked for another. `back`, a stage of its own, has the model it starts from translate each train
picture into the three other styles (LSB with the job's settings, the styles' words for prompts); of the samples 40 %
are such a translation, 20 % a picture with its style hidden, both with sigma from 0.2 to 2 and with the picture itself
under its own words as target, 40 % whole pictures at all sigmas. The word `restored` stands before the captions of the
first two kinds, so that captions without it go on naming pictures as they are.

Validation numbers go to `log.jsonl`. CPU or CUDA, bfloat16 autocast on both. What is exported is an exponential
moving average of the weights, as fp16 in diffusers' layout.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTokenizer

import pictures
from card import write_card
from directions import in_words
from listening import Denoiser, Words, listening, some
from lsb.bridge.noise import BatchNoise
from lsb.bridge.solve import translate_latents
from lsb.config.job import load_config
from lsb.models.load import load_backbone
from lsb.records import sha256
from networks import (
    LATENT_CHANNELS,
    VAE_FACTOR,
    new_scheduler,
    new_text_encoder,
    new_tokenizer,
    new_unet,
    new_vae,
)
from session import Session, begin

HERE = Path(__file__).parent
VAE_RATE, UNET_RATE = 1e-3, 6e-4
VARIANTS = 6
BACK_BATCH = 48


@dataclass(frozen=True)
class Recipe:
    """Shares of the samples that are not whole pictures, and the sigmas, log-uniform, at which those are shown."""

    hidden: float
    translated: float
    low: float
    high: float
    mark: str  # the word before their captions


ORDINARY = Recipe(hidden=0.6, translated=0.0, low=0.03, high=4.0, mark="")
RESTORING = Recipe(hidden=0.2, translated=0.4, low=0.2, high=2.0, mark=pictures.RESTORED)


def parameters(module: torch.nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


def device_of(name: str | None) -> torch.device:
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Per-image PSNR in dB of two batches (B, 3, H, W) in [-1, 1]."""
    mse = ((a.clamp(-1, 1) - b).div(2) ** 2).flatten(1).mean(1)
    return -10 * torch.log10(mse.clamp_min(1e-10))


@torch.no_grad()
def check_vae(vae: AutoencoderKL, held_out: pictures.Pictures, device: torch.device) -> dict[str, float]:
    scores = []
    for start in range(0, len(held_out.images), 64):
        batch = held_out.batch(range(start, min(start + 64, len(held_out.images)))).to(device)
        scores.append(psnr(vae.decode(vae.encode(batch).latent_dist.mode()).sample, batch).cpu())
    every = torch.cat(scores)
    styles = held_out.style
    per_style = {
        f"psnr_{name}": round(every[torch.from_numpy(styles == i)].mean().item(), 2)
        for i, name in enumerate(pictures.STYLES)
    }
    return {"psnr": round(every.mean().item(), 2), **per_style}


def write_sheet(rows: list[Tensor], path: Path) -> None:
    """Rows of pictures (N, 3, H, W) in [-1, 1], one below the other, as PNG."""
    sheet = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    pixels = sheet.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(1, 2, 0).cpu()
    Image.fromarray(pixels.numpy()).save(path)


def train_vae(args: argparse.Namespace) -> None:
    """Train the VAE: L1 and squared error of pixels, L1 of image gradients, a small KL term."""
    device = device_of(args.device)
    train, held_out = pictures.load("train"), pictures.load("validation")
    vae = new_vae().to(device, memory_format=torch.channels_last)
    session = Session("vae", args.work, {"vae": vae}, lr=args.lr or VAE_RATE, decay=0.9995)
    average = new_vae().to(device).eval()
    session.obey_signals()
    generator = torch.Generator().manual_seed(session.step)
    total, last_save = args.vae_total * 60, time.monotonic()
    bar = tqdm(initial=session.step, unit="step", desc="vae")
    while session.running(args.until, total):
        picked = torch.randint(len(train.images), (args.vae_batch,), generator=generator).tolist()
        images = pictures.move(train.batch(picked), generator)
        images = pictures.recolour(images, generator).to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            posterior = vae.encode(images).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        kl = posterior.kl().float().mean() / (LATENT_CHANNELS * (pictures.SIZE // VAE_FACTOR) ** 2)
        decoded = decoded.float()
        loss = F.l1_loss(decoded, images) + F.mse_loss(decoded, images)
        for got, wanted in zip(gradients(decoded), gradients(images), strict=True):
            loss = loss + F.l1_loss(got, wanted)
        loss = loss + args.kl * kl
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        if torch.isfinite(loss):
            for group in session.optimiser.param_groups:
                group["lr"] = (args.lr or VAE_RATE) * session.rate_share(total)
            session.optimiser.step()
            session.averages["vae"].update(vae)
        session.optimiser.zero_grad(set_to_none=True)
        session.step, session.samples = session.step + 1, session.samples + args.vae_batch
        bar.update()
        if session.step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")
        if time.monotonic() - last_save > args.save_minutes * 60:
            last_save = time.monotonic()
            session.save()
            average.load_state_dict(session.averages["vae"].shadow)
            session.log(loss=round(loss.item(), 4), samples=session.samples, **check_vae(average, held_out, device))
    session.save()
    average.load_state_dict(session.averages["vae"].shadow)
    session.log(samples=session.samples, **check_vae(average, held_out, device))
    shown = held_out.batch(range(0, len(held_out.images), len(held_out.images) // 24)).to(device)
    with torch.no_grad():
        write_sheet([shown, average.decode(average.encode(shown).latent_dist.mode()).sample], args.work / "vae.png")


def averaged_vae(work: Path) -> AutoencoderKL:
    state = torch.load(work / "vae.pt", map_location="cpu", weights_only=True)
    vae = new_vae()
    vae.load_state_dict(state["averages"]["vae"])
    return vae.eval()


@torch.no_grad()
def encode_latents(args: argparse.Namespace) -> None:
    """Latents of moved pictures, and of the same pictures with their style hidden, once for all steps."""
    device = device_of(args.device)
    vae = averaged_vae(args.work).to(device, memory_format=torch.channels_last)
    train = pictures.load("train")
    generator = torch.Generator().manual_seed(0)
    chunks: dict[str, list[Tensor]] = {"whole": [], "hidden": []}
    for _ in range(VARIANTS):
        for start in tqdm(range(0, len(train.images), 64), desc="latents", leave=False):
            whole = pictures.move(train.batch(range(start, min(start + 64, len(train.images)))), generator)
            for key, batch in (("whole", whole), ("hidden", pictures.hide_style(whole, generator))):
                with torch.autocast(device.type, torch.bfloat16):
                    mean = vae.encode(batch.to(device, memory_format=torch.channels_last)).latent_dist.mode()
                chunks[key].append(mean.half().cpu())
    stacked = {
        key: torch.cat(parts).reshape(VARIANTS, len(train.images), *parts[0].shape[1:]).contiguous()
        for key, parts in chunks.items()
    }
    kept = args.work / "scale.safetensors"
    stacked["scale"] = load_file(kept)["scale"] if kept.exists() else 1 / stacked["whole"].float().std()
    save_file(stacked, args.work / "latents.safetensors")
    tqdm.write(f"scaling factor {stacked['scale'].item():.4f}")


@torch.no_grad()
def translate_back(args: argparse.Namespace) -> None:
    """Each train latent in every other style by the model of `--start`, one file for each style, in the time given."""
    train, stored = pictures.load("train"), load_file(args.work / "latents.safetensors")
    backbone = load_backbone(str(args.start or args.model), device=args.device or "cpu")
    bridge = load_config(HERE / "job.yaml").bridge
    condition = [backbone.embed(in_words(style)) for style in pictures.STYLES]
    rows = torch.arange(len(train.images))
    whole = stored["whole"][rows % VARIANTS, rows].float() * stored["scale"]
    digests = [sha256(f"{symbol} {style}".encode()) for symbol, style in zip(train.symbol, train.style, strict=True)]
    for target, name in enumerate(pictures.STYLES):
        file = args.work / f"back-{name}.safetensors"
        if file.exists():
            continue
        translated = whole.clone()
        for source in range(len(pictures.STYLES)):
            those = torch.from_numpy(train.style == source).nonzero()[:, 0]
            if source == target:
                continue
            asked = {"source": condition[source], "target": condition[target]}
            for part in tqdm(those.split(BACK_BATCH), desc=f"{pictures.STYLES[source]} to {name}", leave=False):
                if time.monotonic() > args.until:
                    return
                translated[part] = translate_latents(
                    whole[part],
                    lambda x_t, sigma, domain, asked=asked: backbone.predict(x_t, sigma, asked[domain]),
                    bridge,
                    BatchNoise(whole.shape[1:], seed="back", digests=[digests[row] for row in part.tolist()]),
                )
        save_file({"latents": (translated / stored["scale"]).half()}, file)


def train_unet(args: argparse.Namespace) -> None:
    """Train the UNet and the text encoder on the latents, weighted by min-SNR."""
    device = device_of(args.device)
    train, held_out = pictures.load("train"), pictures.load("validation")
    stored = load_file(args.work / "latents.safetensors")
    scale = stored["scale"].item()
    recipe = RESTORING if args.restore else ORDINARY
    back = [load_file(args.work / f"back-{style}.safetensors")["latents"] for style in pictures.STYLES if args.restore]
    folder = args.work / "tokenizer"
    known = (folder / "tokenizer_config.json").exists()
    tokenizer = CLIPTokenizer.from_pretrained(folder) if known else new_tokenizer(train, folder)
    torch.manual_seed(0)
    unet = new_unet().to(device, memory_format=torch.channels_last)
    encoder = new_text_encoder(tokenizer).to(device)
    session = Session("unet", args.work, {"unet": unet, "text": encoder}, lr=args.lr or UNET_RATE, decay=0.999)
    if args.compile:
        unet.compile(dynamic=False)
    denoise, words = Denoiser(unet, device), Words(tokenizer, encoder, device)
    average = {"unet": new_unet().to(device).eval(), "text": new_text_encoder(tokenizer).to(device).eval()}
    heard = some(held_out)
    with torch.no_grad():
        shown = heard.batch(range(len(heard.images)))
        check_latents = (averaged_vae(args.work).encode(shown).latent_dist.mode() * scale).to(device)

    def check() -> dict[str, Any]:
        for key, module in average.items():
            module.load_state_dict(session.averages[key].shadow)
        return listening(
            Denoiser(average["unet"], device), Words(tokenizer, average["text"], device), check_latents, heard
        )

    session.obey_signals()
    generator = torch.Generator().manual_seed(1000 + session.step)
    total, last_save = args.total * 60, time.monotonic()
    bar = tqdm(initial=session.step, unit="step", desc="unet")
    running = 0.0
    while session.running(args.until, total):
        rows = torch.randint(len(train.images), (args.batch,), generator=generator)
        variant = torch.randint(VARIANTS, (args.batch,), generator=generator)
        kind = torch.rand(args.batch, generator=generator)
        hidden, translated = kind < recipe.hidden, kind >= 1 - recipe.translated
        variant = torch.where(translated, rows % VARIANTS, variant)  # the one that was translated
        whole = stored["whole"][variant, rows].float()
        seen = torch.where(hidden[:, None, None, None], stored["hidden"][variant, rows].float(), whole)
        for place in translated.nonzero()[:, 0].tolist():
            other = 1 + int(torch.randint(len(back) - 1, (), generator=generator))
            seen[place] = back[(int(train.style[rows[place]]) + other) % len(back)][rows[place]].float()
        # Text-to-image needs the whole range; the bridge works where the style can still be changed.
        wide = (0.2 + 1.2 * torch.randn(args.batch, generator=generator)).exp().clamp(0.03, 14.6)
        narrow = pictures.uniform((args.batch,), math.log(recipe.low), math.log(recipe.high), generator).exp()
        marked = hidden | translated
        sigma = torch.where(marked, narrow, wide)
        noise = torch.randn(whole.shape, generator=generator)
        x = (whole * scale).to(device)
        x_t = (seen * scale + sigma[:, None, None, None] * noise).to(device)
        captions = [pictures.caption(train, int(row), generator) for row in rows]
        condition = words(
            [f"{recipe.mark} {text}".strip() if mark else text for text, mark in zip(captions, marked, strict=True)]
        )
        weight = (sigma**-2).clamp(max=args.min_snr) + 1
        error = (denoise(x_t, sigma, condition) - x).square().mean((1, 2, 3))
        loss = (weight.to(device) * error).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_([*unet.parameters(), *encoder.parameters()], 1.0)
        if torch.isfinite(loss) and torch.isfinite(norm):
            for group in session.optimiser.param_groups:
                group["lr"] = (args.lr or UNET_RATE) * session.rate_share(total)
            session.optimiser.step()
            for key, module in session.modules.items():
                session.averages[key].update(module)
        session.optimiser.zero_grad(set_to_none=True)
        session.step, session.samples = session.step + 1, session.samples + args.batch
        running += 0.02 * (loss.item() - running) if running else loss.item()
        bar.update()
        if session.step % 20 == 0:
            bar.set_postfix(loss=f"{running:.4f}")
        if time.monotonic() - last_save > args.save_minutes * 60:
            last_save = time.monotonic()
            session.save()
            session.log(loss=round(running, 4), samples=session.samples, **check())
    session.save()
    session.log(loss=round(running, 4), samples=session.samples, **check())


def pipeline_of(work: Path) -> StableDiffusionPipeline:
    """The averaged weights as the pipeline that `save_pretrained` writes and a sheet is drawn with."""
    state = torch.load(work / "unet.pt", map_location="cpu", weights_only=True)
    vae, unet = averaged_vae(work), new_unet()
    vae.register_to_config(scaling_factor=load_file(work / "latents.safetensors")["scale"].item())
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    encoder = new_text_encoder(tokenizer)
    unet.load_state_dict(state["averages"]["unet"])
    encoder.load_state_dict(state["averages"]["text"])
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def export(args: argparse.Namespace) -> None:
    """Write the diffusers folder (fp16 safetensors), its card and a text-to-image sheet: 16 symbols x 4 styles."""
    pipeline = pipeline_of(args.work)
    pipeline.set_progress_bar_config(disable=True)
    held_out = pictures.load("validation")
    names = list(dict.fromkeys(held_out.name))[:: len(set(held_out.name)) // 16][:16]
    sheet = Image.new("RGB", (16 * pictures.SIZE, 4 * pictures.SIZE), "white")
    for row, style in enumerate(pictures.STYLES):
        prompts = [f"{pictures.STYLE_WORDS[style][0]} of {name}" for name in names]
        drawn = pipeline(
            prompts, num_inference_steps=25, guidance_scale=4.0, generator=torch.Generator().manual_seed(0)
        ).images
        for column, image in enumerate(drawn):
            sheet.paste(image, (column * pictures.SIZE, row * pictures.SIZE))
    pipeline.to(dtype=torch.float16).save_pretrained(args.model, safe_serialization=True)
    sheet.save(args.model / "text-to-image.webp", lossless=True)
    train = pictures.load("train")
    sizes = {name: parameters(getattr(pipeline, name)) for name in ("unet", "text_encoder", "vae")}
    write_card(args.work / "log.jsonl", args.model, sizes, len(train.images), len(set(train.symbol)), names, args.note)
    size = sum(f.stat().st_size for f in args.model.rglob("*") if f.is_file())
    tqdm.write(f"{args.model}: {size / 1e6:.1f} MB")


def left(work: Path, name: str, total: float) -> float:
    """Minutes that a stage still has to go."""
    file = work / f"{name}.pt"
    if not file.exists():
        return total
    state = torch.load(file, map_location="cpu", weights_only=True)
    return total - (state["seconds"] - state["first_seconds"]) / 60


def train_all(args: argparse.Namespace) -> None:
    """Every stage in order, as far as `--minutes` goes; the same command goes on, and exports at the end."""
    if not (args.work / "scale.safetensors").exists() and left(args.work, "vae", args.vae_total) > 0:
        train_vae(args)
        (args.work / "latents.safetensors").unlink(missing_ok=True)
        if left(args.work, "vae", args.vae_total) > 0:
            return
    if not (args.work / "latents.safetensors").exists():
        encode_latents(args)
    if args.restore:
        translate_back(args)
        if not all((args.work / f"back-{style}.safetensors").exists() for style in pictures.STYLES):
            return
    if left(args.work, "unet", args.total) > 0:
        train_unet(args)
    if left(args.work, "unet", args.total) <= 0:
        export(args)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    stages = {
        "vae": train_vae,
        "latents": encode_latents,
        "back": translate_back,
        "unet": train_unet,
        "export": export,
        "all": train_all,
    }
    for name, run in stages.items():
        command = commands.add_parser(name, help=(run.__doc__ or "").splitlines()[0])
        command.set_defaults(run=run)
        command.add_argument("--work", type=Path, default=Path("out/train"), help="where checkpoints and logs are kept")
        command.add_argument("--minutes", type=float, default=math.inf, help="stop this call after so long")
        command.add_argument("--total", type=float, default=60, help="minutes of the UNet's training, all calls")
        command.add_argument("--vae-total", type=float, default=20, help="minutes of the VAE's training, all calls")
        command.add_argument("--start", type=Path, help="begin from this exported model; --work must be empty")
        command.add_argument("--restore", action="store_true", help="train for the bridge's own noise levels")
        command.add_argument("--batch", type=int, default=32, help="of the UNet")
        command.add_argument("--vae-batch", type=int, default=24)
        command.add_argument("--kl", type=float, default=3e-4, help="weight of the VAE's KL term")
        command.add_argument("--min-snr", type=float, default=5.0, help="cap of the loss weight 1/sigma^2")
        command.add_argument("--lr", type=float, help="1e-3 for the VAE, 6e-4 for the UNet unless given")
        command.add_argument("--save-minutes", type=float, default=4.0, help="time between checkpoints")
        command.add_argument("--model", type=Path, default=HERE / "model", help="the diffusers folder to write")
        command.add_argument("--note", default="", help="a sentence for the card: threads, other load")
        command.add_argument("--device", help="cuda if there is one, else cpu")
        command.add_argument("--compile", action="store_true", help="compile the UNet first: some minutes, then faster")
        command.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.until = time.monotonic() + 60 * args.minutes
    args.work.mkdir(parents=True, exist_ok=True)
    if args.start:
        begin(args.start, args.work)
    args.run(args)


if __name__ == "__main__":
    main()
