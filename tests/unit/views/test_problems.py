from __future__ import annotations

from typing import Any

import pytest

from flows.watching.artifacts import show_report
from lsb.ledger.schemas import MANIFEST
from lsb.views.problems import COLUMNS, problem_groups

URI = "/data/my store/runs/job-0123456789ab"


def rows(*problems: tuple[str, str, bool, str | None, str | None]) -> Any:
    table = MANIFEST.empty().select(COLUMNS)
    return table.from_pylist([dict(zip(COLUMNS, problem, strict=True)) for problem in problems], schema=table.schema)


@pytest.mark.parametrize(
    ("status", "code", "retryable", "command"),
    [
        ("failed", "translate_error", True, "lsb rerun '/data/my store/runs/job-0123456789ab' --code translate_error"),
        ("failed", "source_missing", True, "lsb rerun '/data/my store/runs/job-0123456789ab' --code source_missing"),
        (
            "failed",
            "out_of_memory",
            True,
            "lsb rerun '/data/my store/runs/job-0123456789ab' --code out_of_memory --batch 1",
        ),
        (
            "failed",
            "worker_died",
            False,
            "lsb rerun '/data/my store/runs/job-0123456789ab' --code worker_died --include-terminal",
        ),
        ("failed", "source_changed", True, "lsb run JOB.yaml"),
        ("quarantined", "corrupt", False, "lsb run JOB.yaml"),
        ("erased", "erased", False, ""),
    ],
)
def test_what_mends_it(status: str, code: str, retryable: bool, command: str) -> None:
    (group,) = problem_groups(rows(("a.png", status, retryable, code, "why")), URI, 10)
    assert group.command == command
    assert group.remedy


@pytest.mark.parametrize(
    ("detail", "shown"),
    [("corrupt: it contradicts itself", "it contradicts itself"), ("it is corrupt: x", "it is corrupt: x"), (None, "")],
)
def test_a_detail_that_begins_with_its_code_is_shown_without_it(detail: str | None, shown: str) -> None:
    (group,) = problem_groups(rows(("a.png", "quarantined", False, "corrupt", detail)), URI, 10)
    assert [problem.detail for problem in group.pictures] == [shown]


def test_failures_come_first_and_what_is_not_named_is_counted() -> None:
    table = rows(
        ("q.png", "quarantined", False, "corrupt", "why"),
        ("ok.png", "ok", False, None, None),
        *((f"f{number}.png", "failed", True, "translate_error", None) for number in range(5)),
        ("g.png", "failed", True, "source_missing", "why"),
    )
    groups = problem_groups(table, URI, 2)
    assert [(group.status, group.code, group.count) for group in groups] == [
        ("failed", "translate_error", 5),
        ("failed", "source_missing", 1),
        ("quarantined", "corrupt", 1),
    ]
    assert [problem.key for problem in groups[0].pictures] == ["f0.png", "f1.png"]
    assert groups[0].line().startswith("5 failed (translate_error): f0.png, f1.png, 3 more. ")
    assert groups[0].line(named=1).startswith("5 failed (translate_error): f0.png, 4 more. ")
    assert groups[1].line().endswith(f"{groups[1].remedy} {groups[1].command}")


def test_prefect_is_told_each_picture_in_lines_that_no_name_breaks_out_of(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("flows.watching.artifacts.create_markdown_artifact", lambda text, key: said.append(text))
    names = ("<script>alert(1)</script>.png", "a\n\n# Heading\n```.png", "b\u202e.png")
    table = rows(*((name, "failed", True, "translate_error", f"cannot bear {name}") for name in names))
    show_report("job-0123456789ab", "/data/page.html", {"failed": 3}, {}, problem_groups(table, URI, 2))
    (text,) = said
    lines = text.splitlines()
    assert [line for line in lines if "script" in line or "Heading" in line or "cannot bear" in line] == [
        line for line in lines if line.startswith("    ") and "cannot bear" in line
    ]
    assert "    lsb rerun '/data/my store/runs/job-0123456789ab' --code translate_error" in lines
    assert "    and 1 more" in lines
    assert not [line for line in lines if line.startswith(("# H", "```"))]
