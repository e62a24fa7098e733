"""Small jobs for the end-to-end tests: a dozen generated pictures and a model of random weights."""

from __future__ import annotations

import colorsys
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, ImageDraw

from lsb.cli.main import run_command
from tests.gate import LSB, Gate
from tests.prefect_parts import REPOSITORY, wait_until

PICTURES = 12  # of which one is no picture at all and one a copy
SIZE = 32


@dataclass(frozen=True)
class Answer:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def complaint(self) -> str:
        """The error, which must be one line without a traceback."""
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if line.startswith("lsb: error:")]
        assert len(lines) == 1, self.err
        return lines[0]


@dataclass(frozen=True)
class Job:
    """A configuration file and the folders it names."""

    config: Path
    store: Path
    source: Path

    def changed(self, name: str, **changes: Any) -> Job:
        """A copy beside it with other settings; `a__b` names a nested one, None removes it."""
        settings = yaml.safe_load(self.config.read_text())
        for path, value in changes.items():
            *folders, last = path.split("__")
            place = settings
            for folder in folders:
                place = place.setdefault(folder, {})
            place.pop(last, None)
            if value is not None:
                place[last] = value
        file = self.config.with_name(f"{name}.yaml")
        file.write_text(yaml.safe_dump(settings))
        return Job(file, Path(settings.get("store", self.store)), self.source)

    def one_by_one(self, name: str, **changes: Any) -> Job:
        """A copy that translates and commits its pictures one by one and measures few, to be hit in the middle."""
        return self.changed(
            name, execution__batch=1, execution__commit_seconds=0.001, evaluate={"sample": 1}, **changes
        )

    def files(self) -> dict[str, tuple[int, int]]:
        """Every file of the store with size and time of change, but for what a listing writes over."""
        found = (path for path in sorted(self.store.rglob("*")) if path.is_file() and "listings" not in path.parts)
        return {str(path.relative_to(self.store)): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def make_pictures(folder: Path, hue: float) -> Path:
    """Discs and squares of different colours; the last one garbage, the one before a copy of the first."""
    folder.mkdir(parents=True)
    for number in range(PICTURES - 2):
        picture = Image.new("RGB", (SIZE, SIZE), "white")
        colour = tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue + number / 40, 0.8, 0.9))
        pen = ImageDraw.Draw(picture)
        shape = pen.ellipse if number % 2 else pen.rectangle
        shape((4 + number // 2, 6, 24, 26 - number // 2), fill=colour)
        (folder / f"group-{number % 2}").mkdir(exist_ok=True)
        picture.save(folder / f"group-{number % 2}" / f"{number:02d}.png")
    (folder / "copy.png").write_bytes((folder / "group-0" / "00.png").read_bytes())
    (folder / "garbage.png").write_bytes(b"this is no picture")
    return folder


def make_job(folder: Path, model: Path, **changes: Any) -> Job:
    """A job with prompts of plain text in 3 shards."""
    source = make_pictures(folder / "images" / "flat", 0.0)
    truth = make_pictures(folder / "images" / "3d", 0.5)
    settings = {
        "name": "tiny",
        "store": str(folder / "store"),
        "model": str(model),
        "source": {"domain": "flat", "path": str(source)},
        "prompts": {"source": {"text": "a flat icon"}, "target": {"domain": "3d", "text": "a 3d icon"}},
        "bridge": {"tau": 0.6, "nfe": 2},
        "execution": {"batch": 4, "shard_size": 4, "device": "cpu"},
        "evaluate": {"target": str(truth), "truth": str(truth)},
    }
    config = folder / "base.yaml"
    config.write_text(yaml.safe_dump(settings))
    return Job(config, folder / "store", source).changed("job", **changes)


def lsb(capsys: Any, *arguments: str | Path) -> Answer:
    """The command, in this process."""
    capsys.readouterr()
    code = run_command([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return Answer(code, out, err)


def start_lsb(gate: Gate, *arguments: str | Path, **variables: str) -> subprocess.Popen[str]:
    """The command in a process of its own, its batches held at a gate, with a Prefect server of its own."""
    places = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH", ""), str(REPOSITORY))))
    return subprocess.Popen(
        [*LSB, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": places, **gate.environment, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_commits(process: subprocess.Popen[Any], store: Path, number: int = 1) -> None:
    """Until so many are there; the process must not end before."""

    def committed() -> bool:
        ended = process.poll() is not None  # before the look: what it commits at its end counts
        there = len(log_entries(store)) >= number
        assert there or not ended, process.communicate()
        return there

    wait_until(f"{number} commits", committed)


def log_entries(store: Path) -> dict[Path, bytes]:
    """Every committed log entry."""
    return {path: path.read_bytes() for path in sorted(store.glob("runs/*/shards/*/log/*.json"))}
