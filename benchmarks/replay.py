"""How far pixels move when a picture is translated again under other conditions: what `lsb verify --replay` allows.

    python benchmarks/replay.py                                   about ten minutes on two cores
    python benchmarks/replay.py --out docs/benchmarks/replay.md

Validation emoji go through the embedded model with the settings of `examples/emoji/job.yaml`, but prompts of plain
words. The reference uses all that the processor has and batches of 16. Each variant runs in a process of its own, with
narrower instructions for torch (`ATEN_CPU_CAPABILITY`) and oneDNN (`ONEDNN_MAX_CPU_ISA`), or with other batches.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass, field
from datetime import date
from importlib import metadata
from pathlib import Path

import numpy as np

from lsb.audit.replay import TOLERANCES

HERE = Path(__file__).resolve().parent.parent
EMOJI = HERE / "examples" / "emoji"


@dataclass(frozen=True)
class Variant:
    name: str
    batch: int = 16
    environment: dict[str, str] = field(default_factory=dict)


AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
NONE = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
REFERENCE = Variant("reference")
VARIANTS = [
    Variant("one thread", environment={"OMP_NUM_THREADS": "1"}),
    Variant("batches of 5", batch=5),
    Variant("batches of 1", batch=1),
    Variant("AVX2", environment=AVX2),
    Variant("no AVX", environment=NONE),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path, help="where to write the table")
    parser.add_argument("--child", nargs=3, metavar=("DTYPE", "BATCH", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        dtype, batch, file = arguments.child
        np.save(file, translated(arguments.images, dtype, int(batch)))
        return
    lines = []
    for dtype in arguments.dtypes:
        reference = run_child(REFERENCE, dtype, arguments.images)
        for variant in VARIANTS:
            apart = np.abs(run_child(variant, dtype, arguments.images) - reference)
            same = int((apart.reshape(len(apart), -1).max(axis=1) == 0).sum())
            means = apart.reshape(len(apart), -1).mean(axis=1)
            lines.append(
                f"| {dtype} | {variant.name} | {same} of {len(apart)} | {apart.max()} | {means.max():.4f} "
                f"| {means.mean():.4f} |"
            )
            print(lines[-1], file=sys.stderr)
    text = page(arguments.images, lines)
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


def page(images: int, lines: list[str]) -> str:
    """What is written, as Markdown."""
    where = f"{os.cpu_count()} cores of {processor()}, "
    where += f"Python {platform.python_version()}, torch {metadata.version('torch')}"
    text = (
        f"Made by `python benchmarks/replay.py` on {date.today()}, on {where}: {images} validation emoji through the "
        "embedded model. Differences from the reference (all instructions, batches of 16, all threads) are in levels "
        "of 8 bits: the largest of any value, and means over all values of a picture."
    )
    allowed = "; ".join(f"{kind} {one.largest} and {one.mean}" for kind, one in TOLERANCES.items())
    limits = (
        "`lsb verify --replay` demands equal bits under equal conditions. Under others it allows for the largest "
        f"difference and for a picture's mean: {allowed}. What lies above the figures of this page is room for "
        "other models, processors and GPUs: nothing was measured with them, nor in a dtype that is not in the table. "
        "The number of threads is one of the conditions: a replay sets the number that the row has."
    )
    return "\n".join(
        [
            "# Translating again under other conditions",
            "",
            *textwrap.wrap(text, 120, break_on_hyphens=False),
            "",
            "| dtype | variant | same to the bit | largest | largest mean of a picture | mean |",
            "|---|---|---:|---:|---:|---:|",
            *lines,
            "",
            *textwrap.wrap(limits, 120, break_on_hyphens=False),
            "",
        ]
    )


def run_child(variant: Variant, dtype: str, images: int) -> np.ndarray:
    """The pictures of one variant, (N, H, W, 3) int16."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pictures.npy")
        command = [sys.executable, __file__, "--images", str(images), "--child", dtype, str(variant.batch), str(file)]
        subprocess.run(command, check=True, env={**os.environ, **variant.environment})  # noqa: S603
        return np.load(file).astype(np.int16)


def translated(count: int, dtype: str, batch: int) -> np.ndarray:
    """The first pictures of the validation split, translated."""
    import pyarrow.parquet as pq

    from lsb.config.job import load_config
    from lsb.models.load import load_backbone
    from lsb.models.prompt import Prompt
    from lsb.pictures.images import decode
    from lsb.records import sha256
    from lsb.translation.translator import Translator

    job = load_config(EMOJI / "job.yaml")
    flat = [("style", "=", "flat"), ("split", "=", "validation")]
    rows = pq.read_table(EMOJI / "emoji.parquet", columns=["symbol", "image"], filters=flat).to_pylist()
    chosen = sorted(rows, key=lambda row: row["symbol"])[:count]
    translator = Translator(
        load_backbone(job.model, device="cpu", dtype=dtype),
        Prompt("a flat icon"),
        Prompt("a 3d icon"),
        settings=job.bridge,
        batch=batch,
    )
    images = [decode(row["image"])[0] for row in chosen]
    return np.stack([np.asarray(image) for image in translator.translate(images, [sha256(r["image"]) for r in chosen])])


def processor() -> str:
    """The model's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
