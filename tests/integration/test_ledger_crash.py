"""A process that is killed after each step of everything that writes: what a reader sees, what the next run does.

A step is one change of the store. Each is tried: a child process does the work and is killed right after its first,
second, … change, until it gets to the end. docs/ledger.md has the steps by name.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from lsb.audit import Verdict, verify
from lsb.jobs.erase import erase
from lsb.jobs.gc import HINTS, clean_up
from lsb.jobs.lineage import planned_as
from lsb.ledger import layout
from lsb.ledger.log.snapshots import current_run
from lsb.ledger.publish import latest_snapshot, manifest_table, publish
from lsb.ledger.run import Run, RunSpec, create_run, open_log, pending, run_id
from lsb.ledger.selection import Selection
from lsb.pictures.encoding import encode
from lsb.pictures.ingest import ingest
from lsb.pictures.knowledge import doubt
from lsb.pictures.sources import open_sources
from lsb.records import record_id
from lsb.store.store import Data, Store, open_store
from lsb.store.temporary import TEMPORARY
from lsb.translation.shard import run_shard
from tests.ledger import Inverter, equipment, make_images, picture, run_spec, start, translate_all

# A server without threads does the forking: this process may have some from other tests.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])
IMAGES = 4
BATCH = 2
METRICS: dict[str, Any] = {"rows": []}

pytestmark = pytest.mark.long


class Mortal:
    """A store whose process is killed right after so many changes."""

    def __init__(self, under: Store, steps: int) -> None:
        self.under = under
        self.left = steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self.under, name)

    def write(self, key: str, data: bytes) -> None:
        self.under.write(key, data)
        self._step()

    def create(self, key: str, data: Data) -> None:
        self.under.create(key, data)
        self._step()

    def delete(self, key: str) -> None:
        self.under.delete(key)
        self._step()

    def _step(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def live(uri: str, steps: int, act: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    act(Mortal(open_store(uri), steps), *arguments)


@pytest.fixture
def crashes(store: Store, store_uri: str) -> Callable[..., Iterator[tuple[Store, int]]]:
    """The stores that are left after each step of an act, and last the one where it came to its end.

    Each begins as a copy of what the store of the test holds when the first is asked for.
    """

    def crashed(act: Callable[..., object], *arguments: Any) -> Iterator[tuple[Store, int]]:
        begun = {entry.key: store.read(entry.key) for entry in store.list()}
        for steps in count(1):
            uri = f"{store_uri}/after-{steps}"
            copy = open_store(uri, create=True)
            for key, data in begun.items():
                copy.write(key, data)
            process = FORKS.Process(target=live, args=(uri, steps, act, arguments))
            process.start()
            process.join()
            assert process.exitcode in (0, -signal.SIGKILL)
            yield copy, steps
            if process.exitcode == 0:
                return

    return crashed


def damage(verdict: Verdict) -> list[str]:
    """What a reader must never see. That something is not finished is none."""
    return [finding.message for finding in verdict.findings if finding.kind != "incomplete"]


def finish(store: Store, run: Run, sources: Store) -> Verdict:
    """What the next run does, and a check of all of it."""
    translate_all(store, run, sources)
    publish(store, run, METRICS, b"page")
    verdict = verify(store, run.id)
    assert verdict.exit_code == 0
    return verdict


def clean_now(store: Store) -> set[str]:
    """What was cleaned up apart from hints, which nobody counts."""
    return {leftover.key for leftover in clean_up(store, older_than=-1, least=-1).deleted if leftover.kind != HINTS}


def translate(store: Store, run: Run, sources: Store, side_log: Path) -> None:
    run_shard(store, run, "00000", equipment(sources, Inverter(BATCH, side_log)), commit_seconds=1e-9)


def test_committing(store: Store, tmp_path: Path, crashes: Callable[..., Any]) -> None:
    """Two commits of two images each."""
    run, sources = start(store, make_images(tmp_path / "images", IMAGES), shard_size=IMAGES)
    log = tmp_path / "side.log"
    log.touch()
    seen = []
    for left_behind, _ in crashes(translate, run, sources, log):
        # A reader sees whole commits, each from the moment its entry is there.
        entries = len(open_log(left_behind, run, "00000").entries())
        seen.append(entries)
        left = pending(left_behind, run).get("00000", 0)
        assert left == IMAGES - entries * BATCH
        assert not damage(verify(left_behind, run.id))
        # The next run does exactly what has no row.
        done, mark = manifest_table(left_behind, run, partial=True)["source_sha256"].to_pylist(), log.stat().st_size
        orphans = set(verify(left_behind, run.id).orphans)
        assert run_shard(left_behind, run, "00000", equipment(sources, Inverter(side_log=log))).translated == left
        gained = log.read_text()[mark:].split()
        assert len(gained) == left
        assert not set(gained) & set(done)
        assert set(finish(left_behind, run, sources).orphans) == orphans
        assert orphans <= clean_now(left_behind)
        assert verify(left_behind, run.id).orphans == ()
    # Two images, rows and the entry, twice, and whatever else is written on the way.
    assert len(seen) > 2 * (BATCH + 2)
    assert (seen[0], seen[-1], sorted(seen)) == (0, 2, seen)


def release(store: Store, run: Run) -> None:
    publish(store, run, METRICS, b"page")


def test_publishing(store: Store, tmp_path: Path, crashes: Callable[..., Any]) -> None:
    """Manifest, metrics, attestation, report, the snapshot's entry, the job's entry."""
    run, sources = start(store, make_images(tmp_path / "images", IMAGES))
    translate_all(store, run, sources)
    for left_behind, steps in crashes(release, run):
        seen = latest_snapshot(left_behind, run)
        assert (seen is not None) == (steps >= 5)
        assert verify(left_behind, run.id).exit_code == (0 if seen else 11)
        verdict = finish(left_behind, run, sources)
        assert seen in (None, latest_snapshot(left_behind, run))
        assert (verdict.checked["snapshots"], verdict.checked["job entries"]) == (1, 1)
        assert len(verdict.orphans) == (0 if seen else steps)
        assert clean_now(left_behind) == set(verdict.orphans)
    assert steps == 7


def take_in(store: Store, sources: Store) -> None:
    ingest(sources, "noise", store)


def test_ingesting(store: Store, tmp_path: Path, crashes: Callable[..., Any]) -> None:
    """What is known of the files, the end of a doubt, the account of what is left out, the table of records."""
    sources = open_sources(str(make_images(tmp_path / "images", IMAGES)))
    doubt(store, "noise", sources.uri, record_id("even/0000.png"))
    for left_behind, steps in crashes(take_in, sources):
        written = [entry.key for entry in left_behind.list("datasets")]
        assert len([key for key in written if key.endswith("/records.parquet")]) == (steps >= 4)
        run = create_run(left_behind, run_spec(left_behind, sources))
        assert finish(left_behind, run, sources).checked["rows"] == IMAGES
        assert not left_behind.list(layout.doubts_folder("noise", sources.uri))
    assert steps == 5


def plan(store: Store, spec: RunSpec) -> None:
    create_run(store, spec)


def test_planning(store: Store, tmp_path: Path, crashes: Callable[..., Any]) -> None:
    """The plan, run.json."""
    sources = open_sources(str(make_images(tmp_path / "images", IMAGES)))
    spec = run_spec(store, sources)
    for left_behind, steps in crashes(plan, spec):
        planned = [entry.key for entry in left_behind.list("runs")]
        assert len(planned) == min(steps, 2)
        run = create_run(left_behind, spec)
        assert finish(left_behind, run, sources).orphans == ()
    assert steps == 3


def go_on(store: Store, spec: RunSpec) -> None:
    planned_as(store, spec)


def test_planning_after_a_run_that_was_cut_off(store: Store, tmp_path: Path, crashes: Callable[..., Any]) -> None:
    """A snapshot of what the run before has committed, like any other; then the plan, run.json."""
    folder = make_images(tmp_path / "images", IMAGES)
    before, sources = start(store, folder, shard_size=IMAGES)
    stopping = equipment(sources, Inverter(BATCH))
    run_shard(store, before, "00000", stopping, stop=lambda: True)
    (folder / "new.png").write_bytes(encode(picture(IMAGES), "png"))
    spec = run_spec(store, sources)
    for left_behind, steps in crashes(go_on, spec):
        seen = latest_snapshot(left_behind, before)
        assert (seen is not None) == (steps >= 5)
        verdict = verify(left_behind, before.id)
        assert (damage(verdict), verdict.exit_code) == ([], 11)
        assert left_behind.exists(layout.run_file(run_id(spec))) == (steps >= 7)
        # The next command comes to the same run, which goes on from the same snapshot.
        run = planned_as(left_behind, spec)
        assert run.parent is not None
        assert (run.parent["run"], run.parent["snapshot"], run.plan["carried"]) == (before.id, 0, BATCH)
        assert seen in (None, latest_snapshot(left_behind, before))
        assert finish(left_behind, run, sources).checked["carried rows"] == BATCH
        assert current_run(left_behind, run.job) == run.id
        orphans = set(verify(left_behind, before.id).orphans)
        assert len(orphans) == (0 if seen else steps)
        assert clean_now(left_behind) == orphans
        assert verify(left_behind, run.id).exit_code == 0
        # So does whoever finishes the one that was cut off.
        assert finish(left_behind, before, sources).checked["snapshots"] == 2
    assert steps == 5 + 2 + 1


def test_cleaning_up(store: Store, tmp_path: Path, crashes: Callable[..., Any]) -> None:
    """The probe and its end, the plan, the hint; then each condemnation before what it condemns is deleted."""
    run, sources = start(store, make_images(tmp_path / "images", IMAGES), shard_size=IMAGES)
    dead = [layout.output_file(run.id, "00000", layout.new_attempt(), "0" * 32, "png") for _ in range(2)]
    begun = [f"{layout.snapshot_folder(run.id, 7)}/manifest.parquet", layout.plan_file(run.id, "f" * 64)]
    for key in [*dead, *begun]:
        store.write(key, b"left behind")
    translate_all(store, run, sources)
    publish(store, run, METRICS, b"page")
    gone = []
    for left_behind, _ in crashes(clean_now):
        verdict = verify(left_behind, run.id)
        assert verdict.exit_code == 0
        gone.append(4 - len(verdict.orphans))
        clean_now(left_behind)
        assert verify(left_behind, run.id).orphans == ()
        assert left_behind.list(TEMPORARY) == []
        assert clean_now(left_behind) == set()
        assert len(open_log(left_behind, run, "00000").history().condemned) == 2
    assert gone == [0, 0, 1, 1, 1, 2, 3, 3, 4, 4]


def remove(store: Store, run: Run) -> None:
    erase(store, run.id, Selection(names=("even/0000.png",)), "request 17")


def test_erasing(store: Store, tmp_path: Path, crashes: Callable[..., Any]) -> None:
    """The shard's entry, the snapshots' entry, the image and the page; then a new snapshot, like any other."""
    run, sources = start(store, make_images(tmp_path / "images", IMAGES), shard_size=IMAGES)
    translate_all(store, run, sources)
    publish(store, run, METRICS, b"page")
    for left_behind, steps in crashes(remove, run):
        said = [row["status"] for row in manifest_table(left_behind, run).to_pylist()]
        assert said.count("erased") == 1
        verdict = verify(left_behind, run.id)
        assert not damage(verdict)
        assert verdict.exit_code == (11 if steps < 4 else 0)
        remove(left_behind, run)
        verdict = verify(left_behind, run.id)
        assert (verdict.exit_code, len(verdict.erased), verdict.checked["snapshots"]) == (0, 2, 2)
        assert [entry.key for entry in left_behind.list() if entry.key in verdict.erased] == []
        latest = latest_snapshot(left_behind, run)
        assert latest is not None
        assert latest.counts == {"ok": IMAGES - 1, "erased": 1}
    assert steps == 4 + 6 + 1
