"""A store in which somebody else may write anywhere: no command changes anything outside it.

Each planting is made in a copy of a store, everything that could be hit lies ready outside, and then `lsb export`,
`gc`, `rerun` and `erase` are tried. They may refuse, or do their work; not hang, crash, or touch what is outside.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lsb.ledger import layout
from lsb.ledger.run import open_run
from lsb.store.local import LocalStore
from tests.e2e.adversary import (
    LONG_AGO,
    Scene,
    attack,
    files_of,
    folders_of,
    holds,
    look,
    planted_scene,
)
from tests.e2e.jobs import lsb
from tests.forger import logs


def test_the_commands_do_their_work_where_nothing_is_planted(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    before = look(scene.outside)
    assert set(attack(scene, capsys).values()) == {0}
    assert look(scene.outside) == before
    assert not (scene.store / ".tmp" / ("a" * 32)).exists()
    assert lsb(capsys, "verify", scene.store / "runs" / scene.run).code == 0


@pytest.mark.long
@pytest.mark.parametrize("kind", ["a copy of it", "an empty folder", "the folder above", "itself", "nowhere"])
def test_links_in_place_of_each_folder(
    template: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    for number, name in enumerate(folders_of(template)):
        scene = planted_scene(template, tmp_path / str(number))
        folder = scene.store / name
        target = scene.mirror(name)
        if kind == "a copy of it":
            folder.rename(target)
        else:
            shutil.rmtree(folder)
        if kind == "an empty folder":
            target.mkdir()
        leads = {"the folder above": scene.outside, "itself": Path(folder.name), "nowhere": scene.victim / "new"}
        folder.symlink_to(leads.get(kind, target))
        holds(scene, capsys, f"{name} is a link to {kind}")


def one_of_each(template: Scene) -> Iterator[str]:
    """A file of each kind that a store has."""
    seen: set[str] = set()
    for name in files_of(template):
        kind = layout_of(name)
        if kind not in seen:
            seen.add(kind)
            yield name


def layout_of(name: str) -> str:
    """A file's place without the ids in it."""
    parts = [
        part if not any(letter.isdigit() for letter in part) else f"*{Path(part).suffix}" for part in name.split("/")
    ]
    return "/".join(parts)


@pytest.mark.long
@pytest.mark.parametrize(
    "kind", ["a link to a copy", "a link to nowhere", "itself", "zero", "pipe", "socket", "folder"]
)
def test_odd_things_in_place_of_each_kind_of_file(
    template: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    for number, name in enumerate(one_of_each(template)):
        scene = planted_scene(template, tmp_path / str(number))
        path = scene.store / name
        if kind == "a link to a copy":
            path.rename(scene.mirror(name))
            path.symlink_to(scene.mirror(name))
        else:
            path.unlink()
            put(kind, path, scene)
        os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)
        holds(scene, capsys, f"{name} is {kind}")


def put(kind: str, path: Path, scene: Scene) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        here = os.getcwd()
        with socket.socket(socket.AF_UNIX) as server:
            os.chdir(path.parent)
            try:
                server.bind(path.name[:100])
            finally:
                os.chdir(here)
    elif kind == "folder":
        path.mkdir()
        (path / "00000000.json").write_bytes(b"{}")
        (path / "link").symlink_to(scene.victim)
    else:
        path.symlink_to(
            {"a link to nowhere": scene.victim / "new", "itself": Path(path.name), "zero": Path("/dev/zero")}[kind]
        )


def next_names(scene: Scene) -> list[str]:
    """What the commands are about to create."""
    store = LocalStore(scene.store)
    run = open_run(store, scene.run)
    logs_of = [layout.shard_log(run.id, shard) for shard in run.shards()]
    logs_of += [layout.snapshot_log(run.id), layout.job_log(run.job)]
    entries = [layout.numbered(log, len(logs(store, log))) for log in logs_of]
    manifests = [f"{layout.snapshot_folder(run.id, number)}/manifest.parquet" for number in range(1, 4)]
    return [*entries, *manifests]


@pytest.mark.long
@pytest.mark.parametrize("kind", ["a link to nowhere", "a link to a file", "itself", "pipe", "folder"])
def test_odd_things_where_something_is_about_to_be_made(
    template: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    for number, name in enumerate(next_names(template)):
        scene = planted_scene(template, tmp_path / str(number))
        path = scene.store / name
        path.parent.mkdir(exist_ok=True)
        if path.exists():
            path.unlink()
        if kind == "a link to a file":
            path.symlink_to(scene.victim / "precious.txt")
        else:
            put(kind, path, scene)
        holds(scene, capsys, f"{name} is {kind}")
