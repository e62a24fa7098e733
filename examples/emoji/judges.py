"""Judges of style: two small classifiers that say in which of the four styles a picture is drawn.

    python examples/emoji/judges.py       # trains both, half an hour on two cores, and writes examples/emoji/judges

`guide` may be asked while settings are chosen. `judge` is used in no loss and for no choice: it gives the figures
that are reported. They differ in architecture and seed. Both learn from real train pictures, half of them through the
model's VAE, all moved, blurred, toned and lit by chance, whatever their style, so that neither blur nor tint nor the
VAE's softness gives a style away. `judges.json` holds what they say about held-out pictures, and the digests of the
weights: a judge with another digest is refused.
"""

from __future__ import annotations

import argparse
import json
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
BATCH, RATE = 48, 3e-3


def block(into: int, out: int, side: int = 3, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(into, out, side, stride=stride, padding=side // 2, bias=False)
    return [convolution, nn.BatchNorm2d(out), nn.ReLU()]


def guide() -> nn.Sequential:
    """Plain convolutions, averaged over the picture."""
    layers = [*block(3, 32, 5, 2), *block(32, 48), *block(48, 64, 3, 2), *block(64, 64), *block(64, 96, 3, 2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(96, 4))


class Residual(nn.Module):
    """relu(x + f(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*block(width, width), nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


class BothPools(nn.Module):
    """Average and maximum of each channel over the picture."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)


def judge() -> nn.Sequential:
    """Residual blocks behind 4x4 patches; both the average and the strongest response of each channel count."""
    return nn.Sequential(
        *block(3, 32, 4, 2),
        Residual(32),
        *block(32, 64, 2, 2),
        Residual(64),
        BothPools(),
        nn.Dropout(0.1),
        nn.Linear(128, 4),
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Sequential], int]] = {"guide": (guide, 1), "judge": (judge, 2)}


def restored(name: str, weights: dict[str, Tensor]) -> nn.Sequential:
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

    images = pictures.move(images, generator)
    images = torch.where(some(0.4), pictures.tone(images, generator), images)
    images = torch.where(some(0.2), pictures.shade(images, generator), images)
    images = torch.where(some(0.4), pictures.blur(images, generator, most=1.6), images)
    noise = pictures.uniform((count, 1, 1, 1), 0.0, 0.04, generator) * torch.randn(images.shape, generator=generator)
    return torch.where(some(0.2), images + noise, images).clamp(-1, 1)


def train(name: str, real: Tensor, softened: Tensor, style: Tensor, epochs: int) -> nn.Sequential:
    """One judge from pictures (N, 3, 64, 64), half of the time as the VAE gives them back."""
    build, seed = NETWORKS[name]
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = build().to(memory_format=torch.channels_last)
    steps = epochs * (len(real) // BATCH)
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    running = 0.0
    bar = tqdm(range(steps), desc=name, leave=False)
    for step in bar:
        rows = torch.randint(len(real), (BATCH,), generator=generator)
        soft = (torch.rand(BATCH, generator=generator) < 0.5)[:, None, None, None]
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
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--names", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--model", type=Path, default=HERE / "model", help="whose VAE softens the pictures")
    parser.add_argument("--work", type=Path, default=Path("out/judges"), help="where softened pictures are kept")
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
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
