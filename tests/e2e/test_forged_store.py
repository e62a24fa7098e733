"""What was forged or is oddly named in a store leads no command out of it; see `tests.e2e.adversary`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lsb.errors import LsbError
from lsb.jobs.rerun import choose
from lsb.ledger import layout
from lsb.ledger.run import Run, open_run
from lsb.ledger.schemas import PLAN, read_table, write_table
from lsb.ledger.selection import Selection
from lsb.records import sha256
from lsb.store.local import LocalStore
from tests.e2e.adversary import (
    LONG_AGO,
    Plant,
    Scene,
    files_of,
    holds,
    look,
    planted_scene,
)
from tests.e2e.jobs import Job, lsb
from tests.forger import change_rows, edit, fields, fit_job, fit_shards, fit_snapshots, logs

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


@pytest.mark.long
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


@pytest.mark.long
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
