"""A store in which somebody else may write anywhere: no command changes anything outside it.

Each planting is made in a copy of a store, everything that could be hit lies ready outside, and then `lsb export`,
`gc`, `rerun` and `erase` are tried. They may refuse, or do their work; not hang, crash, or touch what is outside.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lsb.erasure import erase
from lsb.errors import LsbError
from lsb.publish import publish
from lsb.records import sha256
from lsb.rerun import choose, what_is_left
from lsb.selection import Selection
from lsb.shard_job import run_shard
from lsb.sharding import Run, open_run
from lsb.storage import layout
from lsb.storage.local import LocalStore
from lsb.storage.schemas import PLAN, read_table, write_table
from tests.e2e.jobs import Job, lsb
from tests.forger import change_rows, edit, fields, fit_job, fit_shards, fit_snapshots, logs
from tests.ledger import make_images, start, translate_all, worker

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


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A published run with a failed record, one erased, and leftovers of all kinds; another run that carries."""
    place = tmp_path_factory.mktemp("template")
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


@pytest.fixture
def scene(template: Scene, tmp_path: Path) -> Scene:
    shutil.copytree(template.place, tmp_path / "scene", symlinks=True)
    age(tmp_path / "scene")
    return Scene(tmp_path / "scene", tmp_path / "scene" / "store", template.run)


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
    for shard, records in what_is_left(store, run, chosen).items():
        run_shard(store, run, shard, worker(sources), chosen=records)
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


def test_the_commands_do_their_work_where_nothing_is_planted(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    before = look(scene.outside)
    assert set(attack(scene, capsys).values()) == {0}
    assert look(scene.outside) == before
    assert not (scene.store / ".tmp" / ("a" * 32)).exists()
    assert lsb(capsys, "verify", scene.store / "runs" / scene.run).code == 0


@pytest.mark.timeout(600)
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


@pytest.mark.timeout(600)
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


@pytest.mark.timeout(600)
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


ODD_NAMES = ["my notes.txt", "new\nline", "\x1b[31mred", "..a", "a\\b", "-rf", "ä", "x" * 255, "0" * 31, "0" * 33]


def odd_names(scene: Scene) -> None:
    run = scene.store / "runs" / scene.run
    for place in (
        scene.store,
        scene.store / ".tmp",
        run,
        run / "shards",
        run / "shards" / "00000",
        run / "snapshots",
        run / "shards" / "00000" / "log",
        scene.store / "jobs",
        scene.store / "runs",
    ):
        for name in (*map(os.fsencode, ODD_NAMES), b"\xff\xfe", b"not \xff utf-8.png"):
            path = os.path.join(os.fsencode(place), name)
            with open(path, "wb") as file:
                file.write(b"odd")
            os.utime(path, (LONG_AGO, LONG_AGO))


def names_of_temporary_files_that_are_none(scene: Scene) -> None:
    temporary = scene.store / ".tmp"
    (temporary / ("1" * 32)).symlink_to(scene.victim / "precious.txt")
    (temporary / ("2" * 32)).symlink_to(scene.victim)
    (temporary / ("3" * 32)).mkdir()
    (temporary / ("3" * 32) / ("a" * 32)).symlink_to(scene.victim / "precious.txt")
    os.mkfifo(temporary / ("4" * 32))
    os.link(scene.victim / "precious.txt", temporary / ("5" * 32))
    (temporary / "probe-0123456789abcdef").symlink_to(scene.victim / "precious.txt")


def links_among_the_files_of_an_attempt(scene: Scene) -> None:
    folder = scene.store / layout.attempt_folder(scene.run, "00000", "b" * 16)
    (folder / f"{'1' * 32}.png").symlink_to(scene.victim / "precious.txt")
    (folder / f"{'2' * 32}.png").symlink_to(scene.victim)
    os.link(scene.victim / "precious.txt", folder / f"{'3' * 32}.png")
    os.mkfifo(folder / f"{'4' * 32}.png")
    hints = scene.store / layout.hints_folder(scene.run, "00000")
    (hints / f"{'1' * 16}.json").symlink_to(scene.victim / "run.json")
    plan = scene.store / layout.plan_file(scene.run, "1" * 64)
    plan.symlink_to(scene.victim / "precious.txt")


def a_plan_of_a_run_that_appears(scene: Scene) -> None:
    """A link in place of a plan without a run, whose run.json is a link, too."""
    run = scene.store / "runs" / "other-0123456789ab"
    run.mkdir()
    (run / f"plan-{'1' * 64}.parquet").symlink_to(scene.victim / "precious.txt")
    os.utime(run / f"plan-{'1' * 64}.parquet", (LONG_AGO, LONG_AGO), follow_symlinks=False)


def a_log_with_millions_of_gaps(scene: Scene) -> None:
    store = LocalStore(scene.store)
    log = layout.shard_log(scene.run, "00000")
    store.write(f"{log}/99999999.json", store.read(f"{log}/00000000.json"))


LEAVING = [
    "../../../../../outside/victim/precious.txt",
    "/etc/hostname",
    "a/../../b",
    "",
    ".",
    "..",
    "a\nb",
    "\x1b[2J",
    "a\0b",
]


def forged_rows(name: str) -> Plant:
    def plant(scene: Scene) -> None:
        store = LocalStore(scene.store)
        run = open_run(store, scene.run)
        for key in files_of(scene):
            if "/rows-" in key:
                change_rows(store, key, lambda row: {"output_key": name} if row["output_key"] else {})
        fit_shards_anew(store, run)

    return plant


def fit_shards_anew(store: LocalStore, run: Run) -> None:
    """Make the shards' logs and the snapshots fit as far as it goes: a forger whose tools refuse has done enough."""
    for step in (fit_shards, fit_snapshots, fit_job):
        try:
            step(store, run)
        except (LsbError, OSError, ValueError, KeyError, TypeError, IndexError):
            return


def forged_entry(**changes: Any) -> Plant:
    def plant(scene: Scene) -> None:
        store = LocalStore(scene.store)
        for shard in ("00000", "00001"):
            for key in logs(store, layout.shard_log(scene.run, shard)):
                document = fields(store, key)
                if document["kind"] == "commit":
                    edit(
                        store,
                        key,
                        **{name: change(document) if callable(change) else change for name, change in changes.items()},
                    )

    return plant


def forged_erasure(name: str) -> Plant:
    def plant(scene: Scene) -> None:
        store = LocalStore(scene.store)
        for shard in ("00000", "00001"):
            for key in logs(store, layout.shard_log(scene.run, shard)):
                erasure = fields(store, key).get("erasure")
                if erasure:
                    edit(store, key, erasure={**erasure, "erased": [*erasure["erased"], name]})
        for key in logs(store, layout.snapshot_log(scene.run)):
            if fields(store, key)["kind"] == "condemn":
                edit(store, key, erased=[name])
        fit_shards_anew(store, open_run(store, scene.run))

    return plant


def forged_snapshot(**changes: Any) -> Plant:
    def plant(scene: Scene) -> None:
        store = LocalStore(scene.store)
        for key in logs(store, layout.snapshot_log(scene.run)):
            document = fields(store, key)
            if document["kind"] == "snapshot":
                edit(
                    store,
                    key,
                    **{name: change(document) if callable(change) else change for name, change in changes.items()},
                )

    return plant


def forged_run(**changes: Any) -> Plant:
    def plant(scene: Scene) -> None:
        store = LocalStore(scene.store)
        key = layout.run_file(scene.run)
        document = fields(store, key)
        edit(store, key, **{name: change(document) if callable(change) else change for name, change in changes.items()})
        fit_shards_anew(store, open_run(store, scene.run))

    return plant


def forged_plan(name: str) -> Plant:
    """The sources of a plan have other names, and so have those of all rows."""

    def plant(scene: Scene) -> None:
        store = LocalStore(scene.store)
        run = open_run(store, scene.run)
        rows = read_table(store.read(run.plan["key"]), PLAN).to_pylist()
        data = write_table(
            PLAN.table([row | {"key": f"{name}{number}" if number else name} for number, row in enumerate(rows)]), PLAN
        )
        digest = sha256(data)
        store.write(layout.plan_file(run.id, digest), data)
        edit(
            store, layout.run_file(run.id), plan={**run.plan, "key": layout.plan_file(run.id, digest), "sha256": digest}
        )
        names = {row["record_id"]: f"{name}{number}" if number else name for number, row in enumerate(rows)}
        for key in files_of(scene):
            if "/rows-" in key:
                change_rows(store, key, lambda row: {"source_key": names[row["record_id"]]})
        fit_shards_anew(store, open_run(store, run.id))

    return plant


PLANTS: dict[str, Plant] = {
    "odd names": odd_names,
    "temporary files that are none": names_of_temporary_files_that_are_none,
    "links in an attempt": links_among_the_files_of_an_attempt,
    "a plan of a run that appears": a_plan_of_a_run_that_appears,
    "a log with millions of gaps": a_log_with_millions_of_gaps,
    **{f"an output's key is {name!r}": forged_rows(name) for name in LEAVING if "\0" not in name},
    **{f"an entry erases {name!r}": forged_erasure(name) for name in [*LEAVING, "log/00000000.json", "../run.json"]},
    **{
        f"an entry names {name!r}": forged_entry(
            files=lambda document, name=name: {**document["files"], name: "0" * 64}
        )
        for name in LEAVING
    },
    **{
        f"the attempt is {name!r}": forged_entry(
            attempt=name,
            rows=f"{name}/rows-00000.parquet",
            features=None,
            files={f"{name}/rows-00000.parquet": "0" * 64},
        )
        for name in LEAVING
    },
    **{
        f"a snapshot names {name!r}": forged_snapshot(
            files=lambda document, name=name: {**document["files"], name: "0" * 64}
        )
        for name in LEAVING
    },
    **{f"a snapshot's folder is {name!r}": forged_snapshot(folder=name) for name in [*LEAVING, -1, 10**12, None]},
    **{f"a source is called {name!r}": forged_plan(name) for name in LEAVING if "\0" not in name},
    **{
        f"the plan lies at {name!r}": forged_run(plan=lambda document, name=name: {**document["plan"], "key": name})
        for name in LEAVING
    },
    **{
        f"the data set lies at {name!r}": forged_run(
            dataset=lambda document, name=name: {**document["dataset"], "key": name}
        )
        for name in LEAVING
    },
    **{f"the prompts lie at {name!r}": forged_run(prompts={"source": name, "target": name}) for name in LEAVING},
    **{f"the pictures lie at {name!r}": forged_run(source=name, truth=name) for name in [*LEAVING, "s3://x", "s3://"]},
    "the job is elsewhere": forged_run(job="../../outside/victim"),
    "the job is a number": forged_run(job=7),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(4))
def test_forged_documents_and_odd_names(
    template: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str], part: int
) -> None:
    for number, (story, plant) in enumerate(sorted(PLANTS.items())[part::4]):
        scene = planted_scene(template, tmp_path / str(number))
        try:
            plant(scene)
        except LsbError:
            continue
        holds(scene, capsys, story)


def a_link(form: str) -> Plant:
    """A folder is a link to a copy; `{shard}` is the one with something left to do."""

    def plant(scene: Scene) -> None:
        store = LocalStore(scene.store)
        (shard,) = choose(store, open_run(store, scene.run), Selection()).shards
        name = form.format(run=scene.run, shard=shard)
        (scene.store / name).rename(scene.mirror(name))
        (scene.store / name).symlink_to(scene.mirror(name))

    return plant


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("plant", "code"),
    [
        (a_link(".tmp"), 3),
        (a_link("runs/{run}/shards/{shard}"), 3),
        (a_link("runs/{run}/shards/{shard}/log"), 3),
        (a_link("runs/{run}/snapshots"), 3),
        (a_link("jobs"), 3),
        (odd_names, 0),
        (names_of_temporary_files_that_are_none, 0),
        (forged_run(config=lambda document: {**document["config"], "store": "/etc", "name": "../../outside"}), 2),
    ],
)
def test_the_command_that_runs_again(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str], plant: Plant, code: int
) -> None:
    few = job.changed("few", evaluate={"sample": 2}, budget={"max_failed_fraction": 0.2})
    assert lsb(capsys, "plan", few.config).code == 0
    (run,) = (job.store / "runs").iterdir()
    data = (job.source / "group-0" / "02.png").read_bytes()
    (job.source / "group-0" / "02.png").unlink()
    for stage in ("translate", "publish"):
        answer = lsb(capsys, stage, few.config, "--resume", run)
        assert answer.code == 0, answer.err
    (job.source / "group-0" / "02.png").write_bytes(data)
    scene = Scene(tmp_path, job.store, run.name)
    scene.victim.mkdir(parents=True)
    (scene.victim / "precious.txt").write_bytes(b"precious")
    plant(scene)
    before = look(scene.outside), look(job.source), {path.name for path in tmp_path.iterdir()}
    answer = lsb(capsys, "rerun", run)
    assert (answer.code, "Traceback" in answer.err) == (code, False), answer.err
    assert (look(scene.outside), look(job.source), {path.name for path in tmp_path.iterdir()}) == before
