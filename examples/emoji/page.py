"""RESULTS.md: the tables of what was measured, how it was made, and the notes written by hand."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch

import pictures
from directions import Workshop
from lsb.bridge.settings import BridgeSettings
from lsb.metrics.table import COLUMNS, ROWS, Column, Row, shown
from lsb.translation.execution import describe

STYLE_ACCURACY = Column(
    "style_accuracy",
    "Style accuracy",
    "higher",
    "Share that a classifier, which was in no loss and chose nothing, calls the target style (`judges.py`).",
    digits=0,
    percent=True,
)
WORDS = Row("words", "Translation, words for prompts", "the styles' own words in place of learned prompts")
ALL_ROWS = (ROWS[0], WORDS, *ROWS[1:])
ALL_COLUMNS = (STYLE_ACCURACY, *COLUMNS)
SHEET_WORDS = (
    "![source, translation and truth]({0})\n\n"
    "Above each other: source, translation, truth. The first 24 symbols of the split by SHA-256 of their file names."
)


@dataclass(frozen=True)
class Measured:
    """One table: by row key and column key an estimate as JSON. `sheet` is the file of its picture, if it has one."""

    title: str
    rows: Mapping[str, Mapping[str, Any]]
    sheet: str | None = None
    text: str = ""


@dataclass(frozen=True)
class Made:
    """How the figures came about."""

    command: str
    extractor: str
    judge: str
    seconds: Mapping[str, float]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    align = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (head, align, *rows)]


def measures(measured: Measured) -> list[str]:
    """One table of measures, with the reason for every column that is empty."""
    lines = []
    for row in ALL_ROWS:
        if row.key not in measured.rows:
            continue
        estimates, cells = measured.rows[row.key], []
        for column in ALL_COLUMNS:
            value, interval = shown(estimates[column.key], column)
            cells.append(f"{value}<br><sub>{interval}</sub>" if interval else value)
        lines.append([row.title, str(estimates["images"]), *cells])
    head = ["", "Images", *(f"{column.title} {'↓' if column.better == 'lower' else '↑'}" for column in ALL_COLUMNS)]
    reasons = [
        f"{column.title}: {measured.rows['translation'][column.key]['reason']}."
        for column in ALL_COLUMNS
        if measured.rows["translation"][column.key]["value"] is None
    ]
    return [*table(head, lines), "", *reasons]


def judges(book: Mapping[str, Any]) -> list[str]:
    """What both judges say about held-out pictures, from judges.json."""
    lines = []
    for name, judge in book.items():
        for kind, said in judge["validation"].items():
            called = {style: said[f"{style} called 3d"] for style in pictures.STYLES}
            apart = sum(share if style == "3d" else 1 - share for style, share in called.items()) / len(called)
            shares = [said["right"], apart, called["flat"], called["3d"]]
            lines.append([f"{name}, {kind}", *(f"{100 * share:.1f} %" for share in shares)])
    head = ["Judge, validation pictures", "Right of four styles", "Right about 3D or not", "Flat called 3D"]
    return table([*head, "3D called 3D"], lines)


def facts(workshop: Workshop, settings: BridgeSettings, forwards: int, made: Made) -> list[str]:
    config, learning = workshop.config, workshop.config.learning
    execution = describe(
        str(torch.device("cpu")), config.execution.dtype, config.execution.batch, torch.get_num_threads()
    )
    bridge = ", ".join(f"{name} {value}" for name, value in settings.model_dump().items() if name != "nfe")
    rows = [
        ("Command", f"`{made.command}`"),
        ("Date", f"{datetime.now(UTC):%Y-%m-%d}"),
        ("Model digest", f"`{workshop.backbone.identity.digest}`"),
        ("NFE; network forwards per image", f"{settings.nfe}; {forwards}"),
        ("Bridge", bridge),
        ("Precision, batch, seed", f"{config.execution.dtype}, {config.execution.batch}, {config.seed}"),
        ("Feature extractor", made.extractor),
        ("Judge of style", made.judge),
        *(
            (
                f"Prompt {style}",
                f"`{learned.prompt.id}`: best of step {learned.best_step}, {learned.stopped_because}; "
                f"at most {learning.steps} steps of {learning.batch}, sigma {learning.sigma_min:g} to "
                f"{learning.sigma_max:g}, at most {learning.max_images} pictures",
            )
            for style, learned in workshop.prompts.learned.items()
        ),
        ("Machine", f"{execution['device']}, {os.cpu_count()} cores, {execution['instruction_set']}"),
        (
            "Software",
            f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads",
        ),
        *((what, f"{spent:.0f} s") for what, spent in made.seconds.items()),
    ]
    return table(["", "Value"], rows)


def document(
    sections: Sequence[Measured],
    vae: Mapping[str, Mapping[str, float]],
    book: Mapping[str, Any],
    how: Sequence[str],
    command: str,
    notes: str,
) -> str:
    """The whole page. `vae` is PSNR in dB by split and style, `how` the table of `facts`."""
    lines = [
        "# Results of the embedded example",
        "",
        f"Emoji translated from one style to another. Written by `{command}`; the last section comes from "
        "results_notes.md. Symbols of the validation split were used to choose settings (`choose.py`), those of the "
        "test split for this page; neither trained the model or a prompt.",
        "",
        "A translation is worth something where it beats the source through the VAE and the source with matched "
        "colours; the target through the VAE is the best that this model could do. Small figures are 95 % bootstrap "
        "intervals over the pictures.",
    ]
    for part in sections:
        lines += ["", f"## {part.title}", ""]
        lines += [SHEET_WORDS.format(part.sheet), ""] if part.sheet else []
        lines += [part.text, ""] if part.text else []
        lines += measures(part)
    lines += ["", "How to read the columns:", ""]
    lines += [f"- **{column.title}** ({column.better} is better): {column.meaning}" for column in ALL_COLUMNS]
    lines += ["", "## The judges of style", "", *judges(book)]
    lines += ["", "## The VAE alone", "", "Mean PSNR in dB of pictures encoded and decoded, at 64 × 64 on white.", ""]
    names = [*pictures.STYLES, "all"]
    lines += table(["Split", *names], [[split, *(f"{by[name]:.2f}" for name in names)] for split, by in vae.items()])
    lines += ["", "## How this was made", "", *how]
    if notes:
        lines += ["", "## What one sees and what limits it", "", notes.strip()]
    return "\n".join(lines) + "\n"
