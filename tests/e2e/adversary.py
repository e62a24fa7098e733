"""A store with something of every kind in it, and all commands that write or delete let loose on it."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lsb.errors import LsbError
from lsb.jobs.erase import erase
from lsb.jobs.rerun import choose, what_is_left
from lsb.ledger import layout
from lsb.ledger.publish import publish
from lsb.ledger.run import open_run
from lsb.ledger.selection import Selection
from lsb.store.local import LocalStore
from lsb.translation.shard import run_shard
from tests.e2e.jobs import lsb
from tests.ledger import equipment, make_images, start, translate_all

LONG_AGO = time.time() - 5 * 86_400


ERASED, KEPT = "even/0000.png", "odd/0001.png"


@dataclass(frozen=True)
class Scene:
    """A store, what lies outside it, and the run in it."""

    place: Path
    store: Path
    run: str

    @property
    def outside(self) -> Path:
        return self.place / "outside"

    @property
    def victim(self) -> Path:
        return self.outside / "victim"

    def mirror(self, name: str) -> Path:
        """A place outside for what lies in the store under `name`."""
        path = self.victim / "mirror" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def age(folder: Path) -> None:
    """Everything below was written days ago."""
    for path in folder.rglob("*"):
        os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)


def make_template(place: Path) -> Scene:
    """A published run with a failed record, one erased, and leftovers of all kinds; another run that carries."""
    images = make_images(place / "outside" / "images", 6)
    store = LocalStore(place / "store")
    run, sources = start(store, images, shard_size=3)
    hidden = images / "odd" / "0005.png"
    data = hidden.read_bytes()
    hidden.unlink()
    translate_all(store, run, sources)
    hidden.write_bytes(data)
    publish(store, run, {"rows": []}, b"page", partial=True)
    erase(store, run.id, Selection(names=("even/0002.png",)), "request 1")
    start(store, images, shard_size=6, tau=1.0)
    for key in (
        f".tmp/{'a' * 32}",
        layout.output_file(run.id, "00000", "b" * 16, "c" * 32, "png"),
        layout.plan_file(run.id, "d" * 64),
        f"{layout.snapshot_folder(run.id, 7)}/manifest.parquet",
        layout.hint_file(run.id, "00000", "e" * 16),
    ):
        store.write(key, b"left behind")
    victim = place / "outside" / "victim"
    victim.mkdir()
    for name in ("precious.txt", "a" * 32, "run.json", "00000000.json", f"{'c' * 32}.png"):
        (victim / name).write_bytes(b"precious")
    age(place)
    return Scene(place, store.root, run.id)


def look(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Everything below a folder: kind, permissions, time, and what is in it."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        state = path.lstat()
        content = os.readlink(path) if path.is_symlink() else ""
        if path.is_file() and not path.is_symlink():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(folder))] = (state.st_mode, state.st_mtime_ns, state.st_ino, content)
    return found


def rerun(scene: Scene) -> None:
    """What `lsb rerun` does to a store, without Prefect."""
    store = LocalStore(scene.store)
    run = open_run(store, scene.run)
    chosen = choose(store, run, Selection())
    sources = LocalStore(scene.outside / "images")
    for shard, share in what_is_left(store, run, chosen).items():
        run_shard(store, run, shard, equipment(sources), chosen=share.chosen)
    publish(store, run, {"rows": []}, b"page of the rerun", partial=True)


def attack(scene: Scene, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Try every command; how each ended."""
    run = scene.store / "runs" / scene.run
    ends: dict[str, Any] = {}
    for name, arguments in {
        "export": ("export", run, scene.place / "exported"),
        "gc --dry-run": ("gc", scene.store, "--dry-run"),
        "gc": ("gc", scene.store),
        "erase": ("erase", run, "--records", ERASED, "--reason", "request 2"),
    }.items():
        answer = lsb(capsys, *arguments)
        assert "Traceback" not in answer.err, f"{name}: {answer.err}"
        assert answer.code in (0, 2, 3, 10, 11, 12), f"{name}: {answer.code} {answer.err}"
        ends[name] = answer.code
        if name == "gc":
            try:
                rerun(scene)
                ends["rerun"] = 0
            except LsbError as error:
                ends["rerun"] = error.exit_code
    return ends


Plant = Callable[[Scene], None]


def folders_of(scene: Scene) -> list[str]:
    return sorted(str(path.relative_to(scene.store)) for path in scene.store.rglob("*") if path.is_dir())


def files_of(scene: Scene) -> list[str]:
    return sorted(str(path.relative_to(scene.store)) for path in scene.store.rglob("*") if path.is_file())


def planted_scene(template: Scene, place: Path) -> Scene:
    shutil.copytree(template.place, place, symlinks=True)
    age(place)
    return Scene(place, place / "store", template.run)


def holds(scene: Scene, capsys: pytest.CaptureFixture[str], story: str) -> None:
    age(scene.outside)
    before = look(scene.outside)
    beside = set(scene.place.iterdir())
    ends = attack(scene, capsys)
    assert look(scene.outside) == before, f"{story}: {ends}"
    assert set(scene.place.iterdir()) <= beside | {scene.place / "exported"}, story
    shutil.rmtree(scene.place)
