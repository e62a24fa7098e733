"""Judges of style: two small classifiers that say in which of the four styles a picture is drawn.

    python examples/emoji/judges.py       # trains both, an hour on one core, and writes examples/emoji/judges

`guide` may be asked while settings are chosen. `judge` is used in no loss and for no choice: it gives the figures
that are reported. They differ in architecture and seed. Both learn from real train pictures, seven of ten as the
model's VAE gives them back, and some of all blurred, toned, lit or moved by chance, whatever their style, so that
neither blur nor tint nor the VAE's softness gives a style away. They see shapes, and beside them single colours: each
style has a palette. `judges.json` holds what they say about held-out pictures, and the digests of the weights: a judge
with another digest is refused.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

import pictures
from lsb.metrics.pixels import unit_pixels
from lsb.records import sha256

HERE = Path(__file__).parent
FOLDER = HERE / "judges"
BATCH, RATE, SOFT = 48, 2e-3, 0.7


def block(into: int, out: int, side: int = 3, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(into, out, side, stride=stride, padding=side // 2, bias=False)
    return [convolution, nn.BatchNorm2d(out), nn.ReLU()]


class BothPools(nn.Module):
    """Average and maximum of each channel over the picture."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)


class Residual(nn.Module):
    """relu(x + f(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*block(width, width), nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


class Colours(nn.Module):
    """What colours occur, wherever they are: every second pixel by itself, (N, 3, 64, 64) to (N, 2 width).

    Sines and cosines of each channel tell apart what differs by a few levels: each style has a palette of its own.
    """

    def __init__(self, width: int, octaves: int = 4) -> None:
        super().__init__()
        self.octaves = octaves
        mixed = nn.Conv2d(3 * (1 + 2 * octaves), width, 1)
        self.body = nn.Sequential(mixed, nn.ReLU(), *block(width, width, 1), BothPools())

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, ::2, ::2].float()
        waves = torch.cat([math.pi * 2**octave * x for octave in range(self.octaves)], 1)
        return self.body(torch.cat([x, waves.sin(), waves.cos()], 1).contiguous(memory_format=torch.channels_last))


class Classifier(nn.Module):
    """(N, 3, 64, 64) in [-1, 1] to scores of the four styles, by shapes and by colours."""

    def __init__(self, shapes: list[nn.Module], width: int, colours: int) -> None:
        super().__init__()
        self.shapes, self.colours = nn.Sequential(*shapes, BothPools()), Colours(colours)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(2 * (width + colours), len(pictures.STYLES)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.shapes(x), self.colours(x)], 1))


def guide() -> Classifier:
    """Plain convolutions."""
    shapes = [*block(3, 32, 5, 2), *block(32, 64), *block(64, 96, 3, 2), *block(96, 96), *block(96, 128, 3, 2)]
    return Classifier(shapes, 128, colours=64)


def judge() -> Classifier:
    """Residual blocks behind patches of 4 x 4 and 2 x 2."""
    return Classifier([*block(3, 32, 4, 2), Residual(32), *block(32, 96, 2, 2), Residual(96)], 96, colours=96)


NETWORKS: dict[str, tuple[Callable[[], Classifier], int]] = {"guide": (guide, 1), "judge": (judge, 2)}


def restored(name: str, weights: dict[str, Tensor]) -> Classifier:
    """The network with weights as they are stored, in half precision."""
    network = NETWORKS[name][0]()
    network.load_state_dict(weights)
    return network.eval()


class Judge:
    """A trained judge. Calling it gives the style index of each picture, (N,) int64, in the order of STYLES.

    Raises:
        SystemExit: the weights are not those whose digest `judges.json` names.
    """

    def __init__(self, name: str, folder: Path = FOLDER) -> None:
        self.name, file = name, folder / f"{name}.safetensors"
        self.digest = sha256(file.read_bytes())
        expected = json.loads((folder / "judges.json").read_text())[name]["sha256"]
        if self.digest != expected:
            raise SystemExit(f"{file}: SHA-256 {self.digest}, judges.json names {expected}; run judges.py for new ones")
        self.network = restored(name, load_file(file))

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        return decide(self.network, unit_pixels(images) * 2 - 1)

    def accuracy(self, images: Sequence[Image.Image], style: str) -> float:
        """Share of the pictures that the judge calls `style`, 0 to 1."""
        return float((self(images) == pictures.STYLES.index(style)).float().mean())


@torch.no_grad()
def decide(network: nn.Module, images: Tensor) -> Tensor:
    """Style index of each of (N, 3, 64, 64) in [-1, 1]."""
    return torch.cat([network(batch).argmax(1) for batch in images.split(64)])


@torch.no_grad()
def round_trip(vae: AutoencoderKL, images: Tensor) -> Tensor:
    parts = images.split(32)
    return torch.cat([vae.decode(vae.encode(part).latent_dist.mode()).sample.clamp(-1, 1) for part in parts])


def disturb(images: Tensor, generator: torch.Generator) -> Tensor:
    """What must not decide the style, each by chance: place, tone, light, blur, noise."""
    count = len(images)

    def some(share: float) -> Tensor:
        return (torch.rand(count, generator=generator) < share)[:, None, None, None]

    images = torch.where(some(0.5), images.flip(3), images)
    images = torch.where(some(0.5), pictures.move(images, generator), images)
    images = torch.where(some(0.1), pictures.tone(images, generator), images)
    images = torch.where(some(0.1), pictures.shade(images, generator), images)
    images = torch.where(some(0.2), pictures.blur(images, generator, most=1.6), images)
    noise = pictures.uniform((count, 1, 1, 1), 0.0, 0.04, generator) * torch.randn(images.shape, generator=generator)
    return torch.where(some(0.1), images + noise, images).clamp(-1, 1)


def train(name: str, real: Tensor, softened: Tensor, style: Tensor, epochs: int) -> Classifier:
    """One judge from pictures (N, 3, 64, 64), a share of SOFT as the VAE gives them back."""
    build, seed = NETWORKS[name]
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = build().to(memory_format=torch.channels_last)
    epoch = len(real) // BATCH
    steps = epochs * epoch
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    running = 0.0
    bar = tqdm(range(steps), desc=name, leave=False)
    for step in bar:
        if step % epoch == 0:
            order = torch.randperm(len(real), generator=generator)
        rows = order[step % epoch * BATCH :][:BATCH]
        soft = (torch.rand(BATCH, generator=generator) < SOFT)[:, None, None, None]
        images = disturb(torch.where(soft, softened[rows], real[rows]), generator)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(images.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), style[rows], label_smoothing=0.05)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        right = (logits.argmax(1) == style[rows]).float().mean().item()
        running += (right - running) / min(step + 1, 50)
        bar.set_postfix(right=f"{running:.3f}")
    return network.eval()


def figures(network: nn.Module, real: Tensor, softened: Tensor, style: Tensor) -> dict[str, dict[str, float]]:
    """By kind of picture: the share of right answers over all styles, and of `3d` among flat and among 3D pictures."""
    kinds = {"real": real, "through the VAE": softened}
    kinds |= {f"blurred by {width} pixels": pictures.gaussian(real, width) for width in (0.5, 1.0, 1.5)}
    target = pictures.STYLES.index("3d")
    result = {}
    for kind, images in kinds.items():
        said = decide(network, images)
        result[kind] = {"right": round((said == style).float().mean().item(), 4)} | {
            f"{name} called 3d": round((said[style == index] == target).float().mean().item(), 4)
            for index, name in enumerate(pictures.STYLES)
        }
    return result


def tensors(model: Path, split: str, work: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures of a split, the same through the model's VAE (kept in `work`), and their styles."""
    loaded = pictures.load(split)
    real = loaded.batch(range(len(loaded.images)))
    weights = (model / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    file = work / f"{split}-{sha256(weights)[:12]}.safetensors"
    if not file.exists():
        vae = AutoencoderKL.from_pretrained(model / "vae").float().eval()
        work.mkdir(parents=True, exist_ok=True)
        save_file({"softened": round_trip(vae, real).half().contiguous()}, file)
    return real, load_file(file)["softened"].float(), torch.from_numpy(loaded.style)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=70)
    parser.add_argument("--names", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--model", type=Path, default=HERE / "model", help="whose VAE softens the pictures")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--work", type=Path, default=Path("out/judges"), help="where softened pictures are kept")
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    seen, held_out = (tensors(args.model, split, args.work) for split in ("train", "validation"))
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "judges.json"
    book = json.loads(file.read_text()) if file.exists() else {}
    for name in args.names:
        started = time.monotonic()
        network = train(name, *seen, args.epochs)
        state = network.state_dict().items()
        weights = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state}
        save_file(weights, args.out / f"{name}.safetensors")
        network = restored(name, weights)
        book[name] = {
            "sha256": sha256((args.out / f"{name}.safetensors").read_bytes()),
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "seed": NETWORKS[name][1],
            "epochs": args.epochs,
            "validation": figures(network, *held_out),
        }
        print(f"{name}: {time.monotonic() - started:.0f} s", json.dumps(book[name]["validation"]), flush=True)
        file.write_text(json.dumps(book, indent=2) + "\n")


if __name__ == "__main__":
    main()
