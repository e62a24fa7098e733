"""Processor seconds an image of bare translation: ours, the published procedure, diffusers' img2img; one run, ratios.

    python benchmarks/throughput.py                   some minutes; all that is timed works on the embedded model
    python benchmarks/throughput.py --json

No pictures are read or written. The procedures take turns, and the median of the rounds counts. `tuned` is the path of
examples/emoji/job.yaml with 4 evaluations in place of 8 at tuned times: docs/benchmarks/solvers.md compares its solver
error with that of 8 Euler evaluations.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib import metadata
from pathlib import Path

import torch
from PIL import Image
from procedures import PATH, ImageToImage, Ours, Procedure, Published, Task

from lsb.bridge.settings import BridgeSettings

MODEL = Path(__file__).resolve().parent.parent / "examples" / "emoji" / "model"
TUNED = BridgeSettings(
    tau=0.1,
    t0=0.1,
    guidance=10,
    nfe=4,
    noise="mix",
    start="centred",
    solver="adams_moulton",
    grid="tuned",
    times=(0.1, 0.37, 0.7, 0.95),
)
PACKAGES = ("torch", "diffusers", "transformers")


def procedures(model: str, batch: int) -> dict[str, Callable[[], Procedure]]:
    """By name; the first one is what the others are compared with."""
    plain = Task(model, "a flat icon", "a 3d icon")
    half = Task(model, plain.source, plain.target, dtype=torch.bfloat16)
    count = 2 * PATH.nfe - 1
    return {
        "published procedure, float32": lambda: Published(plain),
        "ours, float32": lambda: Ours(plain, PATH, batch),
        "ours, bfloat16": lambda: Ours(half, PATH, batch),
        "ours tuned, 4 evaluations, float32": lambda: Ours(plain, TUNED, batch),
        "ours tuned, 4 evaluations, bfloat16": lambda: Ours(half, TUNED, batch),
        "img2img, float32": lambda: ImageToImage(plain, count, batch),
        "img2img, bfloat16": lambda: ImageToImage(half, count, batch),
    }


def measured(model: str, batch: int, rounds: int) -> list[dict[str, object]]:
    built = {name: build() for name, build in procedures(model, batch).items()}
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (batch, 64, 64, 3), generator=generator, dtype=torch.uint8).numpy()
    pictures = [Image.fromarray(row) for row in noise]
    seconds: dict[str, list[float]] = {name: [] for name in built}
    for turn in range(rounds + 1):  # the first one warms up
        for name, procedure in built.items():
            began = time.process_time()
            procedure(pictures)
            if turn:
                seconds[name].append((time.process_time() - began) / len(pictures))
        print(f"round {turn} of {rounds}", file=sys.stderr)
    first = statistics.median(seconds[next(iter(built))])
    return [
        {
            "procedure": name,
            "batch": procedure.batch,
            "forwards": procedure.forwards,
            "cpu_seconds_an_image": round(statistics.median(seconds[name]), 5),
            "spread": [round(min(seconds[name]), 5), round(max(seconds[name]), 5)],
            "times_the_published": round(first / statistics.median(seconds[name]), 2),
        }
        for name, procedure in built.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MODEL), help="a folder in diffusers' layout for pictures of 64 x 64")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = measured(arguments.model, arguments.batch, arguments.rounds)
    if arguments.json:
        machine = {"processor": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
        versions = {name: metadata.version(name) for name in PACKAGES}
        print(json.dumps({"date": str(date.today()), "machine": machine, "versions": versions, "rows": rows}, indent=2))
        return
    print("| procedure | batch | forwards | CPU seconds an image | times the published |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for row in rows:
        print(f"| {' | '.join(str(row[name]) for name in row if name != 'spread')} |")


if __name__ == "__main__":
    main()
