"""Train the embedded emoji model: first the VAE, then the text-conditioned UNet with its text encoder.

    python examples/emoji/train.py vae --minutes 20
    python examples/emoji/train.py latents
    python examples/emoji/train.py unet --minutes 60
    python examples/emoji/train.py export
    python examples/emoji/train.py all --vae-minutes 20 --minutes 60   # the four in order

The UNet sees two kinds of samples. In the first, noise is added to the latent of a picture and the network
predicts what makes the picture whole again: ordinary diffusion training. In the second, noise is added to the
latent of the same picture with its style hidden (flat palette, other light, other tones, blur), and the target
is still the picture: the style can then only come from the words, so that the network has to read them.

Every command resumes from `--work` (default out/train), stops after `--minutes`, keeps validation numbers
in `log.jsonl` and writes sample sheets as PNG. CPU or CUDA, bfloat16 autocast on both. `export` writes
the diffusers folder. Both networks train at a constant learning rate; what is exported is an exponential
moving average of the weights, so that training can stop at any time.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

import pictures
from card import write_card
from networks import (
    LATENT_CHANNELS,
    TOKENS,
    VAE_FACTOR,
    new_scheduler,
    new_text_encoder,
    new_tokenizer,
    new_unet,
    new_vae,
)

HERE = Path(__file__).parent
VAE_RATE, UNET_RATE = 1e-3, 6e-4
VARIANTS = 4
HIDDEN_SHARE = 0.5
SIGMAS = (0.3, 0.6, 1.15, 2.0, 4.0)


def parameters(module: torch.nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


def device_of(name: str | None) -> torch.device:
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


class Ema:
    """Exponential moving average of a module's parameters, warmed up so that early steps do not linger."""

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.shadow = {k: v.detach().clone().float() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        latest = [value.float() for value in module.state_dict().values()]
        torch._foreach_lerp_(list(self.shadow.values()), latest, 1 - decay)


class Session:
    """One resumable training: modules, optimiser, averages, the step counter and the log."""

    def __init__(self, name: str, work: Path, modules: dict[str, torch.nn.Module], lr: float, decay: float):
        self.name, self.work, self.modules = name, work, modules
        parameters = [p for module in modules.values() for p in module.parameters()]
        self.optimiser = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self.averages = {key: Ema(module, decay) for key, module in modules.items()}
        self.step, self.seconds = 0, 0.0
        self.file = work / f"{name}.pt"
        if self.file.exists():
            self.load()

    def load(self) -> None:
        state = torch.load(self.file, map_location="cpu", weights_only=True)
        for key, module in self.modules.items():
            module.load_state_dict(state["modules"][key])
            self.averages[key].shadow = {
                k: v.to(next(module.parameters()).device) for k, v in state["averages"][key].items()
            }
            self.averages[key].steps = state["step"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]

    def save(self) -> None:
        """Write to a temporary file first, so that an interruption leaves the last good state."""
        state = {
            "modules": {k: m.state_dict() for k, m in self.modules.items()},
            "averages": {k: e.shadow for k, e in self.averages.items()},
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        partial = self.file.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.file)

    def log(self, **values: float) -> None:
        line = {"run": self.name, "step": self.step, "minutes": round(self.seconds / 60, 2), **values}
        with (self.work / "log.jsonl").open("a") as handle:
            handle.write(json.dumps(line) + "\n")
        tqdm.write(json.dumps(line))


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
    generator = torch.Generator().manual_seed(session.step)
    started, last_save, base = time.monotonic(), time.monotonic(), session.seconds
    bar = tqdm(initial=session.step, unit="step", desc="vae")
    while (time.monotonic() - started) < args.minutes * 60:
        picked = torch.randint(len(train.images), (args.batch,), generator=generator).tolist()
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
                group["lr"] = (args.lr or VAE_RATE) * min(1.0, (session.step + 1) / 200)
            session.optimiser.step()
            session.averages["vae"].update(vae)
        session.optimiser.zero_grad(set_to_none=True)
        session.step += 1
        bar.update()
        if session.step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")
        if time.monotonic() - last_save > args.save_minutes * 60:
            session.seconds, last_save = base + time.monotonic() - started, time.monotonic()
            session.save()
            average.load_state_dict(session.averages["vae"].shadow)
            session.log(loss=round(loss.item(), 4), **check_vae(average, held_out, device))
    session.seconds = base + time.monotonic() - started
    session.save()
    average.load_state_dict(session.averages["vae"].shadow)
    session.log(**check_vae(average, held_out, device))
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
    stacked["scale"] = 1 / stacked["whole"].float().std()
    save_file(stacked, args.work / "latents.safetensors")
    tqdm.write(f"scaling factor {stacked['scale'].item():.4f}")


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


@torch.no_grad()
def listening(denoise: Denoiser, words: Words, latents: Tensor, held_out: pictures.Pictures) -> dict[str, float]:
    """How much the loss rises under the wrong style's words, and under none, in per cent, by sigma."""
    result: dict[str, float] = {}
    generator = torch.Generator().manual_seed(7)
    right = [f"a {pictures.STYLE_WORDS[pictures.STYLES[s]][0]}" for s in held_out.style]
    wrong = [f"a {pictures.STYLE_WORDS[pictures.STYLES[(s + 1) % 4]][0]}" for s in held_out.style]
    for sigma in SIGMAS:
        losses = dict.fromkeys(("right", "wrong", "null"), 0.0)
        for start in range(0, len(latents), 64):
            x = latents[start : start + 64]
            x_t = x + sigma * torch.randn(x.shape, generator=generator).to(x.device)
            level = torch.full((len(x),), sigma)
            for key, texts in (("right", right), ("wrong", wrong), ("null", [""] * len(right))):
                condition = words(texts[start : start + 64])
                losses[key] += (denoise(x_t, level, condition) - x).square().mean().item() * len(x)
        result[f"loss_{sigma}"] = round(losses["right"] / len(latents), 5)
        result[f"wrong_{sigma}"] = round(100 * (losses["wrong"] / losses["right"] - 1), 2)
        result[f"null_{sigma}"] = round(100 * (losses["null"] / losses["right"] - 1), 2)
    return result


def train_unet(args: argparse.Namespace) -> None:
    """Train the UNet and the text encoder on the latents, weighted by min-SNR."""
    device = device_of(args.device)
    train, held_out = pictures.load("train"), pictures.load("validation")
    stored = load_file(args.work / "latents.safetensors")
    scale = stored["scale"].item()
    folder = args.work / "tokenizer"
    tokenizer = (
        CLIPTokenizer.from_pretrained(folder) if (folder / "vocab.json").exists() else new_tokenizer(train, folder)
    )
    torch.manual_seed(0)
    unet = new_unet().to(device, memory_format=torch.channels_last)
    encoder = new_text_encoder(tokenizer).to(device)
    session = Session("unet", args.work, {"unet": unet, "text": encoder}, lr=args.lr or UNET_RATE, decay=0.999)
    denoise, words = Denoiser(unet, device), Words(tokenizer, encoder, device)
    average = {"unet": new_unet().to(device).eval(), "text": new_text_encoder(tokenizer).to(device).eval()}
    with torch.no_grad():
        vae = averaged_vae(args.work)
        check_rows = range(0, len(held_out.images), len(held_out.images) // 128)
        some = pictures.Pictures(
            held_out.images[list(check_rows)],
            held_out.style[list(check_rows)],
            [held_out.name[r] for r in check_rows],
            [held_out.category[r] for r in check_rows],
            [held_out.symbol[r] for r in check_rows],
        )
        check_latents = (vae.encode(some.batch(range(len(some.images)))).latent_dist.mode() * scale).to(device)

    def check() -> dict[str, float]:
        for key, module in average.items():
            module.load_state_dict(session.averages[key].shadow)
        return listening(
            Denoiser(average["unet"], device), Words(tokenizer, average["text"], device), check_latents, some
        )

    generator = torch.Generator().manual_seed(1000 + session.step)
    started, last_save, base = time.monotonic(), time.monotonic(), session.seconds
    bar = tqdm(initial=session.step, unit="step", desc="unet")
    running = 0.0
    while (time.monotonic() - started) < args.minutes * 60:
        rows = torch.randint(len(train.images), (args.batch,), generator=generator)
        variant = torch.randint(VARIANTS, (args.batch,), generator=generator)
        hidden = torch.rand(args.batch, generator=generator) < HIDDEN_SHARE
        whole = stored["whole"][variant, rows].float()
        seen = torch.where(hidden[:, None, None, None], stored["hidden"][variant, rows].float(), whole)
        # Text-to-image needs the whole range; the bridge works where the style can still be changed.
        wide = (0.2 + 1.2 * torch.randn(args.batch, generator=generator)).exp().clamp(0.03, 14.6)
        narrow = pictures.uniform((args.batch,), -2.3, 0.7, generator).exp()
        sigma = torch.where(hidden, narrow, wide)
        noise = torch.randn(whole.shape, generator=generator)
        x = (whole * scale).to(device)
        x_t = (seen * scale + sigma[:, None, None, None] * noise).to(device)
        condition = words([pictures.caption(train, int(row), generator) for row in rows])
        weight = (sigma**-2).clamp(max=args.min_snr) + 1
        error = (denoise(x_t, sigma, condition) - x).square().mean((1, 2, 3))
        loss = (weight.to(device) * error).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_([*unet.parameters(), *encoder.parameters()], 1.0)
        if torch.isfinite(loss) and torch.isfinite(norm):
            for group in session.optimiser.param_groups:
                group["lr"] = (args.lr or UNET_RATE) * min(1.0, (session.step + 1) / 300)
            session.optimiser.step()
            for key, module in session.modules.items():
                session.averages[key].update(module)
        session.optimiser.zero_grad(set_to_none=True)
        session.step += 1
        running += 0.02 * (loss.item() - running) if session.step > 1 else loss.item()
        bar.update()
        if session.step % 20 == 0:
            bar.set_postfix(loss=f"{running:.4f}")
        if time.monotonic() - last_save > args.save_minutes * 60:
            session.seconds, last_save = base + time.monotonic() - started, time.monotonic()
            session.save()
            session.log(loss=round(running, 4), samples=session.step * args.batch, **check())
    session.seconds = base + time.monotonic() - started
    session.save()
    session.log(loss=round(running, 4), samples=session.step * args.batch, **check())


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
    """Write the diffusers folder (fp16 safetensors) and a text-to-image sheet: 16 symbols x 4 styles."""
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
    sheet.save(args.work / "text-to-image.png")
    pipeline.to(dtype=torch.float16).save_pretrained(args.model, safe_serialization=True)
    train = pictures.load("train")
    sizes = {name: parameters(getattr(pipeline, name)) for name in ("unet", "text_encoder", "vae")}
    write_card(
        args.work / "log.jsonl", args.model, sizes, len(train.images), len(set(train.symbol)), args.vae_batch, args.note
    )
    size = sum(f.stat().st_size for f in args.model.rglob("*") if f.is_file())
    tqdm.write(f"{args.model}: {size / 1e6:.1f} MB; sheet {args.work / 'text-to-image.png'}")


def train_all(args: argparse.Namespace) -> None:
    """Every stage in order; a stage that had its minutes is left as it is."""
    done = 0.0
    if (args.work / "vae.pt").exists():
        done = torch.load(args.work / "vae.pt", map_location="cpu", weights_only=True)["seconds"] / 60
    if done < args.vae_minutes:
        train_vae(argparse.Namespace(**{**vars(args), "minutes": args.vae_minutes - done, "batch": args.vae_batch}))
        (args.work / "latents.safetensors").unlink(missing_ok=True)
    if not (args.work / "latents.safetensors").exists():
        encode_latents(args)
    train_unet(args)
    export(args)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    stages = {"vae": train_vae, "latents": encode_latents, "unet": train_unet, "export": export, "all": train_all}
    for name, run in stages.items():
        command = commands.add_parser(name, help=(run.__doc__ or "").splitlines()[0])
        command.set_defaults(run=run)
        command.add_argument("--work", type=Path, default=Path("out/train"), help="where checkpoints and logs are kept")
        command.add_argument("--minutes", type=float, default=60, help="stop after so long; the same command goes on")
        command.add_argument("--batch", type=int, default=32)
        command.add_argument("--vae-batch", type=int, default=24, help="batch of the VAE in `all`, for the card too")
        command.add_argument("--vae-minutes", type=float, default=20, help="what `all` gives the VAE")
        command.add_argument("--kl", type=float, default=3e-4, help="weight of the VAE's KL term")
        command.add_argument("--min-snr", type=float, default=5.0, help="cap of the loss weight 1/sigma^2")
        command.add_argument("--lr", type=float, help="1e-3 for the VAE, 6e-4 for the UNet unless given")
        command.add_argument("--save-minutes", type=float, default=4.0, help="time between checkpoints")
        command.add_argument("--model", type=Path, default=HERE / "model", help="the diffusers folder to write")
        command.add_argument("--note", default="", help="a sentence for the card: threads, other load")
        command.add_argument("--device", help="cuda if there is one, else cpu")
        command.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    args.run(args)


if __name__ == "__main__":
    main()
