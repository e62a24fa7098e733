"""Measure the embedded example and write RESULTS.md: emoji translated to another style, on symbols held out.

    python examples/emoji/quality.py

Learns the prompts from the training pictures with the settings of job.yaml, translates flat pictures of the
validation and the test split to 3D, and compares them with the 3D pictures of the same symbols. The test split is
measured again without the symbols that have a namesake of another gender among the train symbols, and from Noto to
Twemoji and from Twemoji to 3D. results_notes.md, written by hand, is appended as it is.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

import page
import pictures
from directions import Shown, Workshop, read, strangers
from judges import FOLDER, Judge
from lsb.bridge.settings import BridgeSettings
from lsb.config.job import load_config
from lsb.errors import LsbError
from lsb.metrics.colour import colour_moments, match_colours
from lsb.metrics.comparison import Comparison, evaluate_images, through_vae
from lsb.metrics.distances import MeanScore
from lsb.metrics.features import EfficientNetLite0
from lsb.metrics.picture.psnr import psnr
from lsb.metrics.pixels import unit_pixels
from lsb.models.protocol import Backbone
from page import Measured

HERE = Path(__file__).parent
NAMES = {"flat": "Flat", "3d": "3D", "noto": "Noto", "twemoji": "Twemoji"}
MAIN, OTHERS = ("flat", "3d"), (("noto", "twemoji"), ("twemoji", "3d"))
CHUNK = 16
SHEET, SHEET_WIDTH, GAP = 24, 12, 12  # pictures on a sheet, pictures in a row, pixels between bands


@dataclass(frozen=True)
class Bench:
    """What measures: the model's VAE for the reference rows, a network for features, a judge of style."""

    backbone: Backbone
    extractor: EfficientNetLite0
    judge: Judge


@dataclass(frozen=True)
class Translated:
    """Pictures of one split in both styles, and what a translator made of them."""

    source: str
    target: str
    sources: Shown
    targets: Shown
    outputs: list[Image.Image]

    @property
    def truths(self) -> list[Image.Image]:
        truth = dict(zip(self.targets.symbols, self.targets.images, strict=True))
        return [truth[symbol] for symbol in self.sources.symbols]

    def only(self, wanted: list[int]) -> Translated:
        """The same for some rows; the symbols of both styles stand in the same order."""
        return replace(
            self,
            sources=self.sources.only(wanted),
            targets=self.targets.only(wanted),
            outputs=[self.outputs[row] for row in wanted],
        )


def translate(
    workshop: Workshop, direction: tuple[str, str], split: str, settings: BridgeSettings, *, words: bool = False
) -> Translated:
    source, target = direction
    translator = workshop.translator(source, target, settings, words=words)
    sources, targets = read(source, split), read(target, split)
    started = time.monotonic()
    outputs = translator.translate(sources.images, sources.digests)
    prompts = "words" if words else "learned prompts"
    spent = time.monotonic() - started
    print(f"{split}, {source} to {target}, {prompts}: {len(outputs)} pictures in {spent:.0f} s", flush=True)
    return Translated(source, target, sources, targets, outputs)


def softened(images: Sequence[Image.Image], backbone: Backbone) -> list[Image.Image]:
    return [
        picture
        for start in range(0, len(images), CHUNK)
        for picture in through_vae(images[start : start + CHUNK], backbone)
    ]


def style_accuracy(translated: Translated, bench: Bench) -> dict[str, dict[str, Any]]:
    """By row of the table, the share that the judge calls the target style."""
    sources, targets = translated.sources.images, translated.targets.images
    moments = colour_moments(sources), colour_moments(targets)
    rows = {
        "translation": translated.outputs,
        "source": sources,
        "source_vae": softened(sources, bench.backbone),
        "target_vae": softened(targets, bench.backbone),
        "source_colour": [match_colours(image, *moments) for image in sources],
    }
    wanted, result = pictures.STYLES.index(translated.target), {}
    for key, images in rows.items():
        mean = MeanScore()
        mean.update((bench.judge(images) == wanted).double().numpy(), translated.sources.ids)
        result[key] = mean.compute()._asdict()
    return result


def measure(translated: Translated, bench: Bench) -> dict[str, dict[str, Any]]:
    """The table of the library with the judge's column, by row."""
    comparison = Comparison(
        ids=translated.sources.ids,
        sources=translated.sources.images,
        outputs=translated.outputs,
        truths=translated.truths,
        targets=translated.targets.images,
        target_ids=translated.targets.ids,
    )
    result = evaluate_images(comparison, bench.backbone, bench.extractor).to_json()
    judged = style_accuracy(translated, bench)
    return {row["key"]: row | {"style_accuracy": judged[row["key"]]} for row in result["rows"]}


def vae_psnr(backbone: Backbone, split: str) -> dict[str, float]:
    """Mean PSNR in dB of the VAE alone by style, and over all pictures under `all`."""
    by_style = {}
    for style in pictures.STYLES:
        images = read(style, split).images
        by_style[style] = psnr(unit_pixels(softened(images, backbone)), unit_pixels(images)).tolist()
    every = [score for scores in by_style.values() for score in scores]
    return {name: sum(scores) / len(scores) for name, scores in [*by_style.items(), ("all", every)]}


def sheet(translated: Translated, count: int = SHEET) -> Image.Image:
    """The first `count` pictures, SHEET_WIDTH side by side: source, translation and truth below each other."""
    rows = (translated.sources.images, translated.outputs, translated.truths)
    side, bands = rows[0][0].width, range(0, count, SHEET_WIDTH)
    paper = Image.new("RGB", (SHEET_WIDTH * side, len(bands) * (len(rows) * side + GAP) - GAP), "white")
    for band, start in enumerate(bands):
        for line, row in enumerate(rows):
            for column, image in enumerate(row[start : min(start + SHEET_WIDTH, count)]):
                paper.paste(image, (column * side, band * (len(rows) * side + GAP) + line * side))
    return paper


def named(direction: tuple[str, str], split: str, count: int) -> str:
    return f"{split.capitalize()}, {NAMES[direction[0]]} to {NAMES[direction[1]]}: {count} images"


def main_tables(workshop: Workshop, bench: Bench, split: str, settings: BridgeSettings, folder: Path) -> list[Measured]:
    """Flat to 3D: all symbols of the split with a row for plain words, and on test the strangers alone."""
    translated = translate(workshop, MAIN, split, settings)
    sheet(translated).save(folder / f"results-{split}.png")
    rows: dict[str, Mapping[str, Any]] = dict(measure(translated, bench))
    rows["words"] = measure(translate(workshop, MAIN, split, settings, words=True), bench)["translation"]
    tables = [Measured(named(MAIN, split, len(translated.outputs)), rows, f"results-{split}.png")]
    if split == "test":
        few = translated.only(strangers(translated.sources))
        text = "Without the symbols whose name, gender aside (man, woman, person …), occurs among the train symbols."
        title = named(MAIN, split, len(few.outputs)) + " that have no namesake in train"
        tables.append(Measured(title, measure(few, bench), text=text))
    return tables


def other_tables(workshop: Workshop, bench: Bench, split: str, settings: BridgeSettings) -> list[Measured]:
    """Two more directions with the same settings, which were not chosen for them."""
    tables = []
    for direction in OTHERS:
        translated = translate(workshop, direction, split, settings)
        text = "With the settings of flat to 3D, which were not chosen for this direction."
        tables.append(Measured(named(direction, split, len(translated.outputs)), measure(translated, bench), text=text))
    return tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", type=Path, default=HERE / "job.yaml")
    parser.add_argument("--nfe", type=int, default=8)
    parser.add_argument("--splits", nargs="+", default=["validation", "test"], choices=["validation", "test"])
    parser.add_argument("--notes", type=Path, default=HERE / "results_notes.md")
    parser.add_argument("--out", type=Path, default=HERE / "RESULTS.md")
    args = parser.parse_args()
    started = time.monotonic()
    try:
        config = load_config(args.config)
        settings = BridgeSettings.model_validate(config.bridge.model_dump() | {"nfe": args.nfe})
        workshop = Workshop.open(config)
        bench = Bench(workshop.backbone, EfficientNetLite0(), Judge("judge"))
        sections = [
            part for split in args.splits for part in main_tables(workshop, bench, split, settings, args.out.parent)
        ]
        if "test" in args.splits:
            sections += other_tables(workshop, bench, "test", settings)
        vae = {split: vae_psnr(workshop.backbone, split) for split in args.splits}
    except LsbError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    made = page.Made(
        command=" ".join(["python examples/emoji/quality.py", *sys.argv[1:]]),
        extractor=f"{bench.extractor.id} `{bench.extractor.digest}`",
        judge=f"`{bench.judge.digest}`",
        seconds={"Learning the prompts": workshop.prompts.seconds, "All of it": time.monotonic() - started},
    )
    forwards = workshop.translator(*MAIN, settings).forwards_per_image
    how = page.facts(workshop, settings, forwards, made)
    book = json.loads((FOLDER / "judges.json").read_text())
    notes = args.notes.read_text() if args.notes.exists() else ""
    args.out.write_text(page.document(sections, vae, book, how, made.command, notes))
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
