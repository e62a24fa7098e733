from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks import commands


@pytest.mark.parametrize(("only", "pictures"), [(["status"], 3), (["status", commands.ONE_MORE], 4)])
def test_a_picture_comes_for_the_command_that_needs_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only: list[str], pictures: int
) -> None:
    """And commands look at the run that was there before it."""
    for number, run in enumerate(("second", "first")):
        file = tmp_path / "store" / "runs" / run / "run.json"
        file.parent.mkdir(parents=True)
        file.touch()
        os.utime(file, (1000 - number,) * 2)
    asked: list[str] = []
    monkeypatch.setattr(commands, "ran", lambda arguments, folder: asked.append(arguments[-1]))
    commands.measured(tmp_path, 3, Namespace(only=only, model=tmp_path, shard_size=2))
    assert asked[0] == str(tmp_path / "store" / "runs" / "first")
    assert len([*(tmp_path / "pictures").rglob("*.png")]) == pictures
