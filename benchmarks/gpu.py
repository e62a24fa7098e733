"""Images a second on an accelerator: ours, the published procedure and diffusers' img2img on SD 1.5's layout.

    PYTHONPATH=. python benchmarks/gpu.py --json           at most eight minutes; needs a CUDA device and 20 GB of disk
    PYTHONPATH=. python benchmarks/gpu.py --narrow         the same code on any machine; its figures say nothing

Weights are random (speed does not depend on them), pictures 512 x 512 of noise, nothing is downloaded. Beside torch it
needs diffusers, transformers, pydantic, pyarrow, pillow and numpy; neither Prefect nor a server. Operations are counted
by torch's FlopCounterMode, and the card's peak is what a product of two 8192 x 8192 bfloat16 matrices reaches here.
Of SDXL's layout the UNet alone is timed, at 1024 x 1024 with its text and time inputs fixed.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from procedures import PATH, ImageToImage, Ours, Procedure, Published, Task
from torch.utils.flop_counter import FlopCounterMode
from whole_model import whole_model

from lsb.models.load import load_backbone
from lsb.models.prompt import Prompt
from tests.tiny import tiny_model

PACKAGES = ("torch", "diffusers", "transformers")
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@dataclass(frozen=True)
class Bench:
    """Where and how long: `seconds` is about what each figure may take once warm."""

    device: str
    side: int
    batch: int
    seconds: float

    def wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()

    def timed(self, work: Callable[[], object]) -> float:
        """Median wall-clock seconds of a call, after one that warms up."""
        work()
        self.wait()
        took: list[float] = []
        while not took or sum(took) < self.seconds:
            began = time.perf_counter()
            work()
            self.wait()
            took.append(time.perf_counter() - began)
        return statistics.median(took)

    def pictures(self) -> list[Image.Image]:
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch, self.side, self.side, 3)
        return [
            Image.fromarray(row) for row in torch.randint(256, shape, generator=generator, dtype=torch.uint8).numpy()
        ]


def peak(bench: Bench, side: int) -> float:
    """TFLOP/s of a product of two bfloat16 matrices."""
    a, b = (torch.randn(side, side, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / bench.timed(lambda: a @ b) / 1e12


def image_tflop(model: str, bench: Bench, forwards: int) -> float:
    """Operations an image takes: the VAE both ways and the network's forwards, in TFLOP."""
    backbone = load_backbone(model, device=bench.device, dtype="float32")
    pixels = torch.zeros(1, 3, bench.side, bench.side, device=bench.device)
    condition = backbone.embed(Prompt("a flat icon"))
    with torch.inference_mode():
        with FlopCounterMode(display=False) as vae:
            latents = backbone.encode(pixels)
            backbone.decode(latents)
        with FlopCounterMode(display=False) as network:
            backbone.predict(latents, 1.0, condition)
    return (vae.get_total_flops() + forwards * network.get_total_flops()) / 1e12


def procedures(model: str, bench: Bench) -> dict[str, Callable[[], Procedure]]:
    """By name; the first one is what the others are compared with."""
    plain = Task(model, "a flat icon", "a 3d icon", bench.device)
    half = Task(model, plain.source, plain.target, bench.device, torch.bfloat16)
    count = 2 * PATH.nfe - 1
    return {
        "published procedure, float32": lambda: Published(plain),
        "ours, bfloat16": lambda: Ours(half, PATH, bench.batch),
        "img2img, bfloat16": lambda: ImageToImage(half, count, bench.batch),
    }


def translation(model: str, bench: Bench, ceiling: float) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    pictures = bench.pictures()
    for name, build in procedures(model, bench).items():
        procedure = build()
        shown = pictures[: procedure.batch]
        speed = len(shown) / bench.timed(lambda procedure=procedure, shown=shown: procedure(shown))
        tflop = image_tflop(model, bench, procedure.forwards)
        rows.append(
            {
                "procedure": name,
                "batch": procedure.batch,
                "forwards": procedure.forwards,
                "images_a_second": round(speed, 3),
                "times_the_published": round(speed / float(str(rows[0]["images_a_second"])), 2) if rows else 1.0,
                "tflop_an_image": round(tflop, 6),
                "share_of_peak": round(speed * tflop / ceiling, 4),
            }
        )
        print(rows[-1], file=sys.stderr)
        del procedure
        release(bench)
    return rows


def sdxl(bench: Bench, ceiling: float, narrow: bool) -> dict[str, object]:
    """SDXL's UNet alone: what of the card's peak its products reach."""
    layout = dict(SDXL, sample_size=16, transformer_layers_per_block=1) if narrow else SDXL
    with torch.device(bench.device):
        unet = UNet2DConditionModel(**layout).to(torch.bfloat16).eval()
    side, batch = layout["sample_size"], 1 if narrow else 8
    made = {"device": bench.device, "dtype": torch.bfloat16}
    x, words = torch.randn(batch, 4, side, side, **made), torch.randn(batch, 77, 2048, **made)
    added = {"text_embeds": torch.randn(batch, 1280, **made), "time_ids": torch.zeros(batch, 6, **made)}

    def forward() -> Any:
        with torch.inference_mode():
            return unet(x, 500, encoder_hidden_states=words, added_cond_kwargs=added).sample

    with FlopCounterMode(display=False) as counted:
        forward()
    tflop = counted.get_total_flops() / 1e12
    seconds = bench.timed(forward)
    return {
        "network": "SDXL's UNet, bfloat16",
        "batch": batch,
        "forwards_a_second": round(batch / seconds, 2),
        "tflop_a_forward": round(tflop / batch, 3),
        "share_of_peak": round(tflop / seconds / ceiling, 4),
    }


def release(bench: Bench) -> None:
    gc.collect()
    if bench.device != "cpu":
        torch.cuda.empty_cache()


def table(rows: Sequence[dict[str, object]]) -> str:
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([str(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=15.0, help="about what each figure may take once warm")
    parser.add_argument("--narrow", action="store_true", help="a tiny model: tries the code, measures nothing")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() and not arguments.narrow:
        raise SystemExit("there is no CUDA device here; --narrow tries the code on the processor")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    narrow = arguments.narrow
    bench = Bench(device, 64 if narrow else 512, 2 if narrow else arguments.batch, 0 if narrow else arguments.seconds)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "model")
        model = str(tiny_model(place, layout="1.5") if narrow else whole_model(place))
        ceiling = peak(bench, 256 if narrow else 8192)
        rows = translation(model, bench, ceiling)
    network = sdxl(bench, ceiling, narrow)
    if not arguments.json:
        print(f"peak {ceiling:.0f} TFLOP/s\n\n{table(rows)}\n\n{table([network])}")
        return
    found = {
        "date": str(date.today()),
        "card": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "narrow": narrow,
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "peak_tflops": round(ceiling, 1),
        "translation": rows,
        "network": network,
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
