"""The page people look at: one HTML file with everything in it, and nothing that it fetches."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from PIL import Image

from lsb.metrics.table import COLUMNS, ROWS, shown
from lsb.redaction import shortened
from lsb.views.problems import ProblemGroup

LONGEST_SIDE = 256  # of a picture on the page, in pixels
SMALL = 128  # pictures up to here are shown at twice their size
GRID = 24
WORST = 6


@dataclass(frozen=True)
class ReportImage:
    """A picture as a file's bytes and its size in pixels."""

    data: bytes
    media_type: str
    width: int
    height: int

    @property
    def uri(self) -> str:
        return f"data:{self.media_type};base64,{b64encode(self.data).decode()}"

    @property
    def shown_width(self) -> int:
        """CSS pixels: twice the size for small pictures, at most 256."""
        return self.width * 2 if max(self.width, self.height) <= SMALL else self.width

    @property
    def shown_height(self) -> int:
        return self.height * 2 if max(self.width, self.height) <= SMALL else self.height


@dataclass(frozen=True)
class Example:
    """One record's pictures, with the scores that are known."""

    record_id: str
    key: str
    source: ReportImage
    output: ReportImage
    truth: ReportImage | None = None
    scores: dict[str, float] = field(default_factory=dict)
    sizes: str = ""  # in words: of the source, where the network worked, and what came out


@dataclass(frozen=True)
class FlagGroup:
    """What one gate has flagged: how many of how many, what that means, and the farthest beyond its threshold.

    `warning` says what it means for the run if they are many; `not_shown` counts those whose pictures cannot be read.
    """

    name: str
    title: str
    meaning: str
    remedy: str
    count: int
    judged: int
    warning: str
    command: str
    examples: tuple[Example, ...]
    not_shown: int = 0


@dataclass(frozen=True)
class PromptShown:
    """One side's prompt.

    Attributes:
        text: what the network is asked with.
        learned: how it was learned, in words; empty if it was given.
        pictures: what the model makes of noise under it alone.
        heard: whether the model listens to it, in words; empty where that was not measured.
    """

    look: str
    text: str
    learned: str = ""
    pictures: tuple[ReportImage, ...] = ()
    heard: str = ""


@dataclass(frozen=True)
class Command:
    """Something to type, and what it does."""

    line: str
    purpose: str


@dataclass(frozen=True)
class ReportInput:
    """Everything on the page, as plain data. Nothing in it is trusted: all text is escaped.

    `counts` are records by status, `stopped` says why some are pending; `examples` are the smallest record ids in
    order, `worst` the largest structure distances, both without those that cannot be read; `flagged` has a group for
    each gate that judged; `metrics` is the content of metrics.json; `costs`, `settings` and `digests` are pairs of
    name and value.
    """

    job: str
    run_id: str
    source_domain: str
    target_domain: str
    created: str
    counts: dict[str, int]
    examples: tuple[Example, ...]
    worst: tuple[Example, ...] = ()
    flagged: tuple[FlagGroup, ...] = ()
    metrics: Mapping[str, Any] | None = None
    problems: tuple[ProblemGroup, ...] = ()
    not_shown: tuple[int, int] = (0, 0)  # of the examples, and of the worst: their pictures cannot be read
    stopped: str = ""
    left_out: str = ""
    untuned: str = ""
    costs: tuple[tuple[str, str], ...] = ()
    prompts: tuple[PromptShown, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    digests: tuple[tuple[str, str], ...] = ()
    commands: tuple[Command, ...] = ()
    version: str = ""

    @property
    def unmeasured(self) -> str:
        """Why nothing was measured, if that is known."""
        return str((self.metrics or {}).get("unmeasured", ""))

    @property
    def shown(self) -> tuple[Example, ...]:
        """Everything whose pictures are on the page."""
        return (*self.examples, *self.worst, *(example for group in self.flagged for example in group.examples))

    @property
    def planned(self) -> int:
        return sum(self.counts.values())

    @property
    def without_output(self) -> int:
        return sum(group.count for group in self.problems)


@dataclass(frozen=True)
class _Cell:
    text: str
    interval: str
    reason: str


@dataclass(frozen=True)
class _TableRow:
    title: str
    meaning: str
    images: int
    cells: tuple[_Cell, ...]


_UNKNOWN = {"value": None, "reason": "an older version of lsb measured, which did not know this"}


def report_image(image: Image.Image) -> ReportImage:
    """A picture made ready for the page: at most 256 pixels on its longer side, PNG."""
    if max(image.size) > LONGEST_SIDE:
        image = image.copy()
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG", optimize=True)
    return ReportImage(buffer.getvalue(), "image/png", image.width, image.height)


def render_report(report: ReportInput) -> str:
    """The page as one HTML document: no reference to anything outside it, no script."""
    return template("report.html.j2").render(
        report=report,
        columns=COLUMNS,
        rows=_rows(report.metrics),
        reasons=_reasons(report.metrics),
        left_out=_left_out(report.metrics),
        has_truths=_truths(report.metrics),
        has_truth=any(example.truth for example in report.shown),
        unjudged=_unjudged(report.metrics),
    )


@cache
def template(name: str) -> Template:
    """One of this room's, compiled once in a process, which takes longer than to write a page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = lambda number: f"{number:,}"
    environment.filters["shortened"] = shortened
    return environment.get_template(name)


def _rows(metrics: Mapping[str, Any] | None) -> list[_TableRow]:
    """The measured rows in the table's order."""
    measured = {row["key"]: row for row in metrics["rows"]} if metrics else {}
    table = []
    for row in ROWS:
        if row.key in measured:
            values = measured[row.key]
            estimates = [(column, values.get(column.key, _UNKNOWN)) for column in COLUMNS]
            cells = [_Cell(*shown(estimate, column), estimate["reason"] or "") for column, estimate in estimates]
            table.append(_TableRow(row.title, row.meaning, values["images"], tuple(cells)))
    return table


def _reasons(metrics: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Why the translation lacks a number: (column, reason)."""
    for row in metrics["rows"] if metrics else ():
        if row["key"] == "translation":
            estimates = [(column, row.get(column.key, _UNKNOWN)) for column in COLUMNS]
            return [(column.title, estimate["reason"]) for column, estimate in estimates if estimate["value"] is None]
    return []


def _left_out(metrics: Mapping[str, Any] | None) -> list[str]:
    """What the measures had to do without, and what is doubtful about the truths."""
    sample = (metrics or {}).get("sample", {})
    counts = {**sample.get("left_out", {}), "ambiguous": sample.get("ambiguous_truths", 0)}
    meanings = {
        "sources": "whose source is missing or no longer the one that was translated",
        "outputs": "whose translation is missing or damaged: `lsb verify` names them",
        "targets": "of the target look that cannot be read",
        "truths": "whose truth cannot be read",
        "ambiguous": "with several truths of their name and other suffixes, of which the last one counts",
    }
    return [f"{counts[name]:,} {meaning}" for name, meaning in meanings.items() if counts.get(name)]


def _unjudged(metrics: Mapping[str, Any] | None) -> int | None:
    """How many sources were too few to judge by; None if they sufficed, or nobody tried."""
    gates = (metrics or {}).get("gates")
    return gates["sources"] if gates and "numbers" not in gates else None


def _truths(metrics: Mapping[str, Any] | None) -> int | None:
    """How many pictures of the sample were compared with a truth; None where no truth was given, or nobody knows."""
    sample, compared = ((metrics or {}).get(name, {}) for name in ("sample", "compared_with"))
    return sample.get("truths") if compared.get("truth") else None
