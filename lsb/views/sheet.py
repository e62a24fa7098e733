"""A contact sheet: the same pictures under several settings side by side, one HTML file with everything in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lsb.views.page_html import Command, ReportImage, template


@dataclass(frozen=True)
class Column:
    """One setting, or what it has to be compared with.

    Attributes:
        title: what it is, in a few words.
        settings: pairs of name and value.
        figures: likewise.
        pictures: one a row.
        is_best: whether it is the one that is recommended.
    """

    title: str
    pictures: Sequence[ReportImage]
    settings: Sequence[tuple[str, str]] = ()
    figures: Sequence[tuple[str, str]] = ()
    is_best: bool = False


@dataclass(frozen=True)
class Sheet:
    """Everything on the sheet, as plain data. Nothing in it is trusted: all text is escaped.

    Attributes:
        targets: pictures of the target look, of other subjects.
        summary: what was tried, in a sentence.
        remarks: what somebody should know, a sentence each.
    """

    job: str
    source_domain: str
    target_domain: str
    columns: Sequence[Column]
    targets: Sequence[ReportImage]
    summary: str
    remarks: Sequence[str] = ()
    commands: Sequence[Command] = ()
    version: str = ""


def render_sheet(sheet: Sheet) -> str:
    """The sheet as one HTML document: no reference to anything outside it, no script."""
    rows = len(sheet.columns[0].pictures) if sheet.columns else 0
    return template("sheet.html.j2").render(sheet=sheet, rows=rows)
