from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from lsb.metrics.table import COLUMNS, ROWS
from lsb.views.page_html import Command, Example, ReportInput, render_report, report_image
from lsb.views.problems import Problem, ProblemGroup

EVIL = "<script>alert('x')</script>\"&"


class Page(HTMLParser):
    """Collects elements and refuses tags that are not closed."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def picture(colour: str, size: tuple[int, int] = (64, 64)) -> Example:
    image = report_image(Image.new("RGB", size, colour))
    return Example("0" * 32, f"{colour}.png", image, image, image, {"structure_distance": 0.125})


def metrics() -> dict:
    known = {"value": 0.5, "low": 0.4, "high": 0.6, "reason": None}
    unknown = {"value": None, "low": None, "high": None, "reason": "needs 2000 pictures on both sides, got 3 and 3"}
    cells = {column.key: unknown if column.key == "fid" else known for column in COLUMNS}
    return {
        "sample": {"rule": "smallest record ids"},
        "extractor": {"id": "efficientnet-lite0"},
        "rows": [{"key": row.key, "images": 1234, **cells} for row in ROWS],
    }


def report(**changes: object) -> ReportInput:
    content: dict = {
        "job": "flat-to-3d",
        "run_id": "flat-to-3d-0123456789ab",
        "source_domain": "flat",
        "target_domain": "3d",
        "created": "2025-01-02 03:04 UTC",
        "counts": {"ok": 1200, "quarantined": 34, "failed": 0},
        "examples": (picture("red"), picture("blue")),
        "metrics": metrics(),
        "settings": (("NFE", "8"),),
        "digests": (("run.json", "ab" * 32),),
        "commands": (Command("lsb verify out/store/runs/x", "Check everything."),),
        "version": "0.1.0",
    }
    return ReportInput(**(content | changes))


def group(count: int) -> ProblemGroup:
    named = tuple(Problem(f"{n}.png", "corrupt: no end") for n in range(min(count, 3)))
    return ProblemGroup("quarantined", "corrupt", count, "Replace them, then:", "lsb run JOB.yaml", named)


def test_the_page_says_what_was_done_before_anything_else() -> None:
    text = " ".join(Page(render_report(report())).text.split())
    start = text[text.index("flat to 3d Job") :]
    assert start.index("1,234 images planned") < start.index("1,200 translated") < start.index("34 quarantined")
    assert start.index("0 failed") < start.index("What it looks like") < start.index("Measures")
    assert "nobody chose them for their looks" in text
    assert "None: every planned image was translated." in text


def test_nothing_is_fetched_and_nothing_runs() -> None:
    html = render_report(report())
    page = Page(html)
    assert not page.all("script")
    assert not page.all("link")
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in page.all("img"))
    assert not re.search(r"https?:|url\(|@import|\bon\w+=", html)


def test_everything_given_is_escaped() -> None:
    evil = picture("red")
    evil = Example(evil.record_id, EVIL, evil.source, evil.output)
    html = render_report(
        report(
            job=EVIL,
            run_id=EVIL,
            source_domain=EVIL,
            target_domain=EVIL,
            created=EVIL,
            examples=(evil,),
            worst=(evil,),
            problems=(ProblemGroup(EVIL, EVIL, 1, EVIL, EVIL, (Problem(EVIL, EVIL),)),),
            counts={EVIL: 1},
            settings=((EVIL, EVIL),),
            digests=((EVIL, EVIL),),
            commands=(Command(EVIL, EVIL),),
            version=EVIL,
        )
    )
    page = Page(html)
    assert not page.all("script")
    assert "<script" not in html
    assert page.all("img")[0]["alt"] == f"Source {EVIL}"
    assert EVIL in page.text


def test_it_can_be_read_by_people_and_by_screen_readers() -> None:
    page = Page(render_report(report(problems=(group(1),))))
    assert page.all("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in page.all("img"))
    assert all(header["scope"] in ("col", "row") for header in page.all("th"))
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))
    assert len(page.all("h1")) == 1


def test_every_column_has_its_explanation_and_a_missing_number_its_reason() -> None:
    html = render_report(report())
    text = Page(html).text
    for column in COLUMNS:
        assert column.meaning in text
    assert "FID (needs 2000 pictures on both sides, got 3 and 3)." in " ".join(text.split())
    assert "40 % to 60 %" in text
    assert "0.400 to 0.600" in text


def test_measures_of_a_version_that_knew_fewer_of_them_are_shown() -> None:
    older = metrics()
    for row in older["rows"]:
        del row["psnr"]
    text = " ".join(Page(render_report(report(metrics=older))).text.split())
    assert "PSNR, dB (an older version of lsb measured, which did not know this);" in text


def test_a_run_without_measures_truth_or_outputs_still_has_a_page() -> None:
    text = Page(
        render_report(report(examples=(), metrics=None, counts={"quarantined": 10}, problems=(group(10),), digests=()))
    ).text
    assert "This run was not measured." in text
    unmeasured = {"schema": "lsb.metrics/1", "rows": [], "unmeasured": f"out of {EVIL}"}
    assert f"This run was not measured: out of {EVIL}." in Page(render_report(report(metrics=unmeasured))).text
    assert "10 of 10 images. The manifest has a row for every one. 10 quarantined: corrupt" in " ".join(text.split())
    assert "And 7 more." in text


@pytest.mark.parametrize(
    ("size", "stored", "shown"),
    [((64, 32), (64, 32), (128, 64)), ((200, 100), (200, 100), (200, 100)), ((1024, 512), (256, 128), (256, 128))],
)
def test_small_pictures_are_enlarged_and_large_ones_reduced(
    size: tuple[int, int], stored: tuple[int, int], shown: tuple[int, int]
) -> None:
    image = report_image(Image.new("RGB", size, "green"))
    assert (image.width, image.height) == stored
    assert (image.shown_width, image.shown_height) == shown


def test_names_that_would_not_show_are_written_out() -> None:
    names = ("a\u202egnp.exe", "b\n\x1b[31m.png", "c" * 4000 + ".png", "\u05d0.png")
    examples = tuple(replace(picture("red"), key=name) for name in names)
    problems = ProblemGroup("failed", "x", 4, "Wait.", "", tuple(Problem(name, name) for name in names))
    html = render_report(report(examples=examples, problems=(problems,)))
    assert not set("\u202e\x1b") & set(html)
    assert "a\\u202egnp.exe" in html
    assert "b\\n\\x1b[31m.png" in html
    assert "c" * 700 not in html
    assert html.count("<bdi>\u05d0.png</bdi>") == 2  # the name, and the reason


def test_settings_that_nobody_has_chosen_are_named() -> None:
    said = "tau & t0 stand at their default"
    assert f"Untuned: {said}." in " ".join(Page(render_report(report(untuned=said))).text.split())
    assert "Untuned" not in render_report(report())


def test_what_is_left_out_is_said() -> None:
    sample = {
        "rule": "smallest record ids",
        "truths": 1230,
        "left_out": {"sources": 2, "outputs": 1, "targets": 0, "truths": 3},
        "ambiguous_truths": 4,
    }
    measured = {**metrics(), "sample": sample, "compared_with": {"truth": "0" * 64, "target": None}}
    text = " ".join(Page(render_report(report(metrics=measured, not_shown=(22, 1)))).text.split())
    assert "The 24 smallest record ids" in text
    assert "22 of them are not shown" in text
    assert "Sample: smallest record ids; 1,230 have a truth." in text
    for words in ("2 whose source is missing", "1 whose translation", "3 whose truth cannot", "4 with several truths"):
        assert words in text
    assert "target look that cannot be read" not in text
