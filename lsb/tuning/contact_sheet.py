"""What stands on the sheet of a search."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

from PIL import Image

from lsb.bridge.methods import name_of
from lsb.config.job import JobConfig
from lsb.progress import Progress
from lsb.tuning.bench import Bench, Figures
from lsb.tuning.book import Tried
from lsb.tuning.choice import Choice
from lsb.tuning.space import Space
from lsb.views.page_html import Command, ReportImage, report_image
from lsb.views.sheet import Column, Sheet

ROWS = 8
NAME = "sheet"


def sheet_of(
    config: JobConfig,
    bench: Bench,
    space: Space,
    columns: Sequence[Tried],
    choice: Choice,
    summary: str,
    commands: Sequence[Command],
    progress: Progress,
) -> Sheet:
    """The sheet of settings, translated once more for it: the first pictures of the sample, by record id."""
    progress.start(NAME, len(columns))
    sources, softened = bench.sample.sources[:ROWS], bench.looks.softened[:ROWS]
    shown = [
        Column("Source", _pictures(sources)),
        Column("Doing nothing", _pictures(softened), [("", "through the autoencoder")], _figures(bench.nothing)),
    ]
    for tried in columns:
        outputs = bench.outputs(space.method(tried.settings), range(len(sources)))
        is_best = tried is choice.best
        title = f"Setting {len(shown) - 1}"
        if is_best or tried is choice.beyond:
            title = "Recommended" if is_best else "Farther, worse by KID"
        shown.append(Column(title, _pictures(outputs), [*_words(tried.settings)], _figures(tried.figures), is_best))
        progress.advance(NAME)
    progress.finish(NAME)
    return Sheet(
        job=config.name,
        source_domain=config.source.domain,
        target_domain=config.prompt_request("target").domain,
        columns=shown,
        targets=_pictures(bench.sample.targets[: 2 * ROWS]),
        summary=f"Method {name_of(space.base)}. {summary}",
        remarks=choice.remarks,
        commands=commands,
        version=metadata.version("lsb"),
    )


def _pictures(pictures: Sequence[Image.Image]) -> list[ReportImage]:
    return [report_image(picture) for picture in pictures]


def _words(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        yield name, f"{value:g}" if isinstance(value, float) else str(value)


def _figures(figures: Figures) -> list[tuple[str, str]]:
    return [
        ("likeness", f"{round(figures.likeness, 2) + 0.0:.2f}"),  # not -0.00
        ("change", f"{round(figures.change, 2) + 0.0:.2f}"),
        ("KID", f"{round(figures.kid, 1) + 0.0:.1f}"),
    ]
