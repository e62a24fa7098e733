"""docs/extending.md, done to the letter in a copy of the project."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    section: str
    kind: str
    path: str
    text: str


def blocks() -> Iterator[Block]:
    _, *parts = _SECTION.split((ROOT / "docs/extending.md").read_text())
    for section, text in zip(parts[::2], parts[1::2], strict=True):
        for kind, path, content in _BLOCK.findall(text):
            yield Block(section, kind, path, content)


def apply(project: Path, block: Block) -> None:
    """Make the changes of a block, each of which must fit in exactly one place."""
    file = project / block.path
    text = file.read_text()
    for hunk in block.text.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] in " -")
        after = "".join(line[1:] for line in lines if line[0] in " +")
        assert text.count(before) == 1, f"{block.path} holds this {text.count(before)} times:\n{before}"
        text = text.replace(before, after)
    file.write_text(text)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with all that the page adds."""
    project = tmp_path_factory.mktemp("extended")
    for part in ("lsb", "tests"):
        shutil.copytree(ROOT / part, project / part)  # what is compiled of it included
    shutil.copy(ROOT / "pyproject.toml", project)
    (project / "examples").symlink_to(ROOT / "examples")
    for block in blocks():
        if block.kind == "python":
            assert not (project / block.path).exists()
            (project / block.path).write_text(block.text)
        elif block.kind == "diff":
            apply(project, block)
    return project


def test_one_more_of_a_kind_is_a_file_and_a_table(project: Path) -> None:
    """Each change that the page shows fits where it says."""
    assert project.exists()
    sections: dict[str, list[Block]] = {}
    for block in blocks():
        sections.setdefault(block.section, []).append(block)
    for section, found in sections.items():
        touched = [(block.kind, block.path) for block in found if block.path.startswith("lsb/")]
        assert [kind for kind, _ in touched] == ["python", "diff"], section
        assert any(block.kind == "sh" for block in found), section


@pytest.mark.long
def test_what_the_page_adds_works(project: Path) -> None:
    lines = [line for block in blocks() if block.kind == "sh" for line in block.text.splitlines()]
    assert all(line.startswith("pytest ") for line in lines)
    alone = [line for line in lines if " -" in line]
    together = " ".join(line.removeprefix("pytest ") for line in lines if line not in alone)
    for arguments in (together, *(line.removeprefix("pytest ") for line in alone)):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *shlex.split(arguments)],
            cwd=project,
            env=os.environ | {"PYTHONPATH": str(project)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
