"""Measure the embedded example and write RESULTS.md: flat emoji translated to 3D, on symbols that were held out.

    python examples/emoji/quality.py

Learns both prompts from the training pictures with the settings of job.yaml, translates the flat pictures of the
validation and the test split, and compares them with the 3D pictures of the same symbols. results_notes.md, written
by hand, is appended as it is.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import torch
from PIL import Image

from lsb.bridge.settings import BridgeSettings
from lsb.config import DomainPrompt, JobConfig, load_config
from lsb.errors import LsbError
from lsb.execution import describe
from lsb.images import decode
from lsb.learning import LearnedPrompt, learn_prompt
from lsb.metrics.comparison import Comparison, EvaluationResult, evaluate_images, through_vae
from lsb.metrics.features import EfficientNetLite0
from lsb.metrics.pixels import unit_pixels
from lsb.metrics.scores import psnr
from lsb.metrics.table import COLUMNS, ROWS, shown
from lsb.models.load import load_backbone
from lsb.models.protocol import Backbone
from lsb.records import record_id, sha256
from lsb.translate import Translator

HERE = Path(__file__).parent
STYLES = ("flat", "3d", "noto", "twemoji")
SOURCE, TARGET = "flat", "3d"
BATCH = 16
SHEET, SHEET_WIDTH, GAP = 24, 12, 12  # pictures on a sheet, pictures in a row, pixels between bands


SHEET_WORDS = (
    "![source, translation and truth](results-{0}.png)\n\n"
    "Above each other: source, translation, truth. The first 24 symbols of the split by SHA-256 of their file names."
)


@dataclass(frozen=True)
class Pictures:
    """One style of one split, in the order of the record ids that the files have once they are unpacked."""

    ids: list[str]
    symbols: list[str]
    digests: list[str]
    images: list[Image.Image]


@dataclass(frozen=True)
class Measured:
    """One split's numbers. `vae` is PSNR in dB by style, and over all pictures under `all`."""

    split: str
    result: EvaluationResult
    vae: dict[str, float]
    translate_seconds: float
    evaluate_seconds: float


@dataclass(frozen=True)
class Work:
    """What is the same for every split."""

    config: JobConfig
    backbone: Backbone
    prompts: dict[str, LearnedPrompt]
    learn_seconds: float
    translator: Translator


def read(parquet: Path, style: str, split: str) -> Pictures:
    table = pq.read_table(
        parquet, columns=["symbol", "image"], filters=[("style", "=", style), ("split", "=", split)]
    ).to_pylist()
    rows = sorted((record_id(f"{row['symbol']}.webp"), row["symbol"], row["image"]) for row in table)
    return Pictures(
        ids=[row[0] for row in rows],
        symbols=[row[1] for row in rows],
        digests=[sha256(row[2]) for row in rows],
        images=[decode(row[2])[0] for row in rows],
    )


def learn(config: JobConfig, backbone: Backbone, parquet: Path, style: str, wanted: DomainPrompt) -> LearnedPrompt:
    images = read(parquet, style, "train").images[: config.learning.max_images]
    started = time.monotonic()
    learned = learn_prompt(backbone, images, wanted.token, wanted.initial, wanted.vectors, config.learning, config.seed)
    print(f"learned {wanted.token} from {len(images)} pictures in {time.monotonic() - started:.0f} s", flush=True)
    return learned


def prepare(config: JobConfig, parquet: Path, settings: BridgeSettings) -> Work:
    backbone = load_backbone(
        config.model, device=config.execution.device, dtype=config.execution.dtype, **config.model_options
    )
    started = time.monotonic()
    prompts = {
        SOURCE: learn(config, backbone, parquet, SOURCE, config.prompts.source),
        TARGET: learn(config, backbone, parquet, TARGET, config.prompts.target),
    }
    translator = Translator(
        backbone,
        prompts[SOURCE].prompt,
        prompts[TARGET].prompt,
        settings=settings,
        seed=config.seed,
        batch=config.execution.batch,
    )
    return Work(config, backbone, prompts, time.monotonic() - started, translator)


def vae_psnr(backbone: Backbone, parquet: Path, split: str) -> dict[str, float]:
    by_style: dict[str, list[float]] = {}
    for style in STYLES:
        images = read(parquet, style, split).images
        scores: list[float] = []
        for start in range(0, len(images), BATCH):
            chunk = images[start : start + BATCH]
            scores += psnr(unit_pixels(through_vae(chunk, backbone)), unit_pixels(chunk)).tolist()
        by_style[style] = scores
    every = [score for scores in by_style.values() for score in scores]
    return {name: sum(scores) / len(scores) for name, scores in [*by_style.items(), ("all", every)]}


def sheet(rows: Sequence[Sequence[Image.Image]], count: int) -> Image.Image:
    """The first `count` pictures, SHEET_WIDTH side by side: source, translation and truth below each other."""
    side, bands = rows[0][0].width, range(0, count, SHEET_WIDTH)
    page = Image.new("RGB", (SHEET_WIDTH * side, len(bands) * (len(rows) * side + GAP) - GAP), "white")
    for band, start in enumerate(bands):
        for line, row in enumerate(rows):
            for column, image in enumerate(row[start : min(start + SHEET_WIDTH, count)]):
                page.paste(image, (column * side, band * (len(rows) * side + GAP) + line * side))
    return page


def measure(work: Work, parquet: Path, split: str, folder: Path) -> Measured:
    sources, targets = read(parquet, SOURCE, split), read(parquet, TARGET, split)
    truth = dict(zip(targets.symbols, targets.images, strict=True))
    started = time.monotonic()
    outputs = work.translator.translate(sources.images, sources.digests)
    translated = time.monotonic()
    print(f"{split}: translated {len(outputs)} pictures in {translated - started:.0f} s", flush=True)
    truths = [truth[symbol] for symbol in sources.symbols]
    sheet([sources.images, outputs, truths], SHEET).save(folder / f"results-{split}.png")
    comparison = Comparison(
        ids=sources.ids,
        sources=sources.images,
        outputs=outputs,
        truths=truths,
        targets=targets.images,
        target_ids=targets.ids,
    )
    result = evaluate_images(comparison, work.backbone, EfficientNetLite0())
    vae = vae_psnr(work.backbone, parquet, split)
    print(f"{split}: measured in {time.monotonic() - translated:.0f} s", flush=True)
    return Measured(split, result, vae, translated - started, time.monotonic() - translated)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    align = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (head, align, *rows)]


def measures_table(measured: Measured) -> list[str]:
    rows = {row["key"]: row for row in measured.result.to_json()["rows"]}
    lines = []
    for row in ROWS:
        cells = []
        for column in COLUMNS:
            value, interval = shown(rows[row.key][column.key], column)
            cells.append(f"{value}<br><sub>{interval}</sub>" if interval else value)
        lines.append([row.title, str(rows[row.key]["images"]), *cells])
    head = ["", "Images", *(f"{column.title} {'↓' if column.better == 'lower' else '↑'}" for column in COLUMNS)]
    reasons = [
        f"{column.title}: {rows['translation'][column.key]['reason']}."
        for column in COLUMNS
        if rows["translation"][column.key]["value"] is None
    ]
    return [*table(head, lines), "", *reasons]


def facts(work: Work, splits: Sequence[Measured], command: str) -> list[str]:
    execution = describe(str(torch.device("cpu")), work.config.execution.dtype, work.config.execution.batch)
    settings, learning = work.translator.settings, work.config.learning
    bridge = ", ".join(f"{name} {value}" for name, value in settings.model_dump().items() if name != "nfe")
    rows = [
        ("Command", f"`{command}`"),
        ("Date", f"{datetime.now(UTC):%Y-%m-%d}"),
        ("Model digest", f"`{work.backbone.identity.digest}`"),
        ("NFE; network forwards per image", f"{settings.nfe}; {work.translator.forwards_per_image}"),
        ("Bridge", bridge),
        ("Precision, batch, seed", f"{work.config.execution.dtype}, {work.config.execution.batch}, {work.config.seed}"),
        ("Feature extractor", f"{splits[0].result.extractor} `{splits[0].result.extractor_digest}`"),
        *(
            (
                f"Prompt {style}",
                f"`{learned.prompt.id}`: best of step {learned.best_step}, {learned.stopped_because}; "
                f"at most {learning.steps} steps of {learning.batch}, at most {learning.max_images} pictures",
            )
            for style, learned in work.prompts.items()
        ),
        ("Machine", f"{execution['device']}, {os.cpu_count()} cores, {execution['instruction_set']}"),
        (
            "Software",
            f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads",
        ),
        ("Learning both prompts", f"{work.learn_seconds:.0f} s"),
        *((f"Translating {part.split}", f"{part.translate_seconds:.0f} s") for part in splits),
        *((f"Measuring {part.split}", f"{part.evaluate_seconds:.0f} s") for part in splits),
    ]
    return table(["", "Value"], rows)


def document(work: Work, splits: Sequence[Measured], command: str, notes: str) -> str:
    lines = [
        "# Results of the embedded example",
        "",
        f"Emoji translated from {SOURCE} to {TARGET}. Written by `{command}`; the last section comes from "
        "results_notes.md. Symbols of the validation split were used to choose settings, symbols of the test split for "
        "nothing but this page; neither trained the model or a prompt.",
        "",
        "A translation is worth something where it beats the source through the VAE and the source with matched "
        "colours; the target through the VAE is the best that this model could do. Small figures are 95 % bootstrap "
        "intervals over the pictures.",
    ]
    for part in splits:
        lines += [
            "",
            f"## {part.split.capitalize()}: {part.result.images} images",
            "",
            SHEET_WORDS.format(part.split),
            "",
            *measures_table(part),
        ]
    lines += ["", "How to read the columns:", ""]
    lines += [f"- **{column.title}** ({column.better} is better): {column.meaning}" for column in COLUMNS]
    lines += ["", "## The VAE alone", "", "Mean PSNR in dB of pictures encoded and decoded, at 64 × 64 on white.", ""]
    names = [*STYLES, "all"]
    rows = [[part.split, *(f"{part.vae[name]:.2f}" for name in names)] for part in splits]
    lines += table(["Split", *names], rows)
    lines += ["", "## How this was made", "", *facts(work, splits, command)]
    if notes:
        lines += ["", "## What one sees and what limits it", "", notes.strip()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", type=Path, default=HERE / "job.yaml")
    parser.add_argument("--parquet", type=Path, default=HERE / "emoji.parquet")
    parser.add_argument("--nfe", type=int, default=8)
    parser.add_argument("--splits", nargs="+", default=["validation", "test"], choices=["validation", "test"])
    parser.add_argument("--notes", type=Path, default=HERE / "results_notes.md")
    parser.add_argument("--out", type=Path, default=HERE / "RESULTS.md")
    args = parser.parse_args()
    try:
        config = load_config(args.config)
        settings = BridgeSettings.model_validate(config.bridge.model_dump() | {"nfe": args.nfe})
        work = prepare(config, args.parquet, settings)
        splits = [measure(work, args.parquet, split, args.out.parent) for split in args.splits]
    except LsbError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    command = " ".join(["python examples/emoji/quality.py", *sys.argv[1:]])
    notes = args.notes.read_text() if args.notes.exists() else ""
    args.out.write_text(document(work, splits, command, notes))
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
