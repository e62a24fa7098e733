"""Workers as real processes: sixteen on one shard, and some that are killed at any moment."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from lsb.audit import verify
from lsb.ledger.layout import hints_folder
from lsb.ledger.publish import manifest_table, publish
from lsb.ledger.run import Run, open_log, pending
from lsb.pictures.encoding import encode
from lsb.pictures.images import pixels_sha256
from lsb.store.local import LocalStore
from lsb.store.store import Data, Store
from lsb.translation.shard import run_shard
from lsb.views.status import status
from tests.ledger import Inverter, equipment, make_images, picture, start

# A server without threads does the forking: this process may have some from other tests.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])
LINE = 65  # bytes of the side log for a picture: 64 hex digits and a new line


@dataclass
class Mortal(Inverter):
    """Waits to be killed once it has made `most` images, so that nobody who is slow to kill it comes too late."""

    most: int = 1_000_000
    made: int = 0

    def translate(self, images: Sequence[Any], *rest: Any, **options: Any) -> list[Any]:
        if self.made >= self.most:
            signal.pause()
        self.made += len(images)
        return super().translate(images, *rest, **options)


def work(root: Path, run: Run, sources: Store, translator: Inverter, commit_seconds: float) -> None:
    """A worker: every shard from the first on, until nothing is left."""
    store = LocalStore(root)
    for shard in run.shards():
        run_shard(store, run, shard, equipment(sources, translator), commit_seconds=commit_seconds)


def committed(store: Store, run: Run) -> set[str]:
    """Source digests of all committed rows."""
    return set(manifest_table(store, run, partial=True)["source_sha256"].to_pylist())


def test_sixteen_workers_on_one_shard(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    run, sources = start(store, make_images(tmp_path / "images", 8), shard_size=8)
    translator = Inverter(batch=2, side_log=tmp_path / "side.log", seconds=0.05)
    racers = [FORKS.Process(target=work, args=(store.root, run, sources, translator, 1e-9)) for _ in range(16)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0] * 16

    log = open_log(store, run, "00000")
    committed_at_once = [log.rows([entry])["record_id"].to_pylist() for entry in log.entries()]
    # Batches of two; but one that starts late takes what the others are at for suspect, and runs it one by one.
    assert {len(records) for records in committed_at_once} <= {1, 2}
    records = [record for commit in committed_at_once for record in commit]
    assert len(records) == len(set(records)) == 8
    assert pending(store, run) == {}
    publish(store, run, {}, b"page")
    verdict = verify(store, run.id)
    assert verdict.exit_code == 0
    assert verdict.checked["outputs"] == 8


def test_a_worker_that_loses_adopts_the_winners_rows_and_keeps_its_own_others(tmp_path: Path) -> None:
    """The winner commits one batch of two while the loser has made four images; the loser commits the other two."""
    store = LocalStore(tmp_path / "store")
    run, sources = start(store, make_images(tmp_path / "images", 8), shard_size=8)

    class Late(LocalStore):
        late = True

        def create(self, key: str, data: Data) -> None:
            if self.late and "/log/" in key:
                self.late = False
                for hint in self.list(hints_folder(run.id, "00000")):
                    self.delete(hint.key)  # or the winner would leave these images for later
                first = equipment(sources, Inverter(batch=2))
                assert run_shard(store, run, "00000", first, stop=lambda: True).translated == 2
            super().create(key, data)

    log = tmp_path / "side.log"
    loser = equipment(sources, Inverter(batch=4, side_log=log))
    outcome = run_shard(Late(store.root), run, "00000", loser, commit_seconds=1e-9)
    assert (outcome.finished, outcome.translated, outcome.commits) == (True, 8, 2)
    counts = [sum(entry.counts.values()) for entry in open_log(store, run, "00000").entries()]
    assert counts == [2, 2, 4]
    assert max(Counter(log.read_text().split()).values()) == 1
    publish(store, run, {}, b"page")
    verdict = verify(store, run.id)
    assert verdict.exit_code == 0
    assert len(verdict.orphans) == 3  # two images somebody else had committed, and the refused row file


@pytest.mark.long  # each stage of a kill: test_pipeline_kills.py
def test_killed_workers_lose_nothing_that_is_committed(tmp_path: Path) -> None:
    """Workers are killed at random; what the side log gains after a commit is never what was committed before."""
    store = LocalStore(tmp_path / "store")
    folder = make_images(tmp_path / "images", 28)
    (folder / "bad.png").write_bytes(b"not a picture")
    (folder / "copy.png").write_bytes(encode(picture(3), "png"))
    run, sources = start(store, folder, shard_size=10)
    log = tmp_path / "side.log"
    log.touch()
    chance = random.Random(7)
    kills = 0
    while pending(store, run):
        done, mark = committed(store, run), log.stat().st_size
        most = chance.randint(1, 6)
        translator = Mortal(batch=2, side_log=log, seconds=0.01, most=most)
        process: BaseProcess = FORKS.Process(target=work, args=(store.root, run, sources, translator, 1e-9))
        process.start()
        while process.is_alive() and log.stat().st_size < mark + LINE * most:
            time.sleep(0.002)
        process.join(timeout=chance.uniform(0, 0.05))
        if process.is_alive():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
        gained = log.read_text()[mark:].split()
        assert not done & set(gained), "a committed record was translated again"
    assert kills >= 3

    publish(store, run, {}, b"page")
    rows = manifest_table(store, run).to_pylist()
    assert len(rows) == 30
    assert Counter(row["status"] for row in rows) == {"ok": 29, "quarantined": 1}
    verdict = verify(store, run.id)
    assert (verdict.exit_code, verdict.checked["outputs"]) == (0, 28)
    assert status(store, run).finished


def test_a_worker_that_is_asked_to_stop_commits_first(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    run, sources = start(store, make_images(tmp_path / "images", 8), shard_size=8)
    process = FORKS.Process(target=work_until_asked, args=(store.root, run, sources, tmp_path / "started"))
    process.start()
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 5
    left = sum(pending(store, run).values())
    assert left in (6, 7)  # 7 if the signal came before the first was quite done


def work_until_asked(root: Path, run: Run, sources: Store, started: Path) -> None:
    """The first image is made; the second takes until the signal has come."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))

    class Slow(Inverter):
        def translate(self, *arguments: Any, **options: Any) -> list[Any]:
            while started.exists() and not asked:
                time.sleep(0.01)
            return super().translate(*arguments, **options)

    here = equipment(sources, Slow(batch=1, side_log=started))
    outcome = run_shard(LocalStore(root), run, "00000", here, commit_seconds=1000, stop=lambda: bool(asked))
    os._exit(0 if outcome.finished else 5)


IMAGES = 200


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("pictures"), IMAGES)


@pytest.mark.parametrize(
    "shards", [3, pytest.param(1, marks=pytest.mark.long), pytest.param(7, marks=pytest.mark.long)]
)
def test_shards_order_kills_workers_and_machine_change_no_pixel(tmp_path: Path, pictures: Path, shards: int) -> None:
    """Killed in the middle, moved elsewhere, finished by two workers in another order: every pixel as if by itself."""
    store = LocalStore(tmp_path / "here")
    run, sources = start(store, pictures, shard_size=-(-IMAGES // shards))
    assert len(run.shards()) == shards
    log = tmp_path / "side.log"
    log.touch()
    translator = Mortal(batch=2, side_log=log, most=IMAGES // 2)
    process = FORKS.Process(target=work, args=(store.root, run, sources, translator, 0.01))
    process.start()
    while log.stat().st_size < LINE * IMAGES / 3:
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    left = sum(pending(store, run).values())
    assert 0 < left < IMAGES

    moved = store.root.rename(tmp_path / "there")
    elsewhere = LocalStore(copytree(pictures, tmp_path / "copied"))
    workers = [
        FORKS.Process(target=work_shuffled, args=(moved, run, elsewhere, tmp_path / "second.log", seed))
        for seed in (shards, shards + 1)
    ]
    for process in workers:
        process.start()
    for process in workers:
        process.join()
    assert [process.exitcode for process in workers] == [0, 0]
    rows = manifest_table(LocalStore(moved), run).to_pylist()
    assert {row["source_key"][-8:-4]: row["pixels_sha256"] for row in rows} == {
        f"{index:04d}": pixels_sha256(Inverter().translate([picture(index)])[0]) for index in range(IMAGES)
    }
    assert {finding.kind for finding in verify(LocalStore(moved), run.id).findings} == {"incomplete"}


def work_shuffled(root: Path, run: Run, sources: Store, side_log: Path, seed: int) -> None:
    """A worker that takes the shards in an order of its own and larger batches."""
    shards = run.shards()
    random.Random(seed).shuffle(shards)
    for shard in shards:
        run_shard(LocalStore(root), run, shard, equipment(sources, Inverter(batch=7, side_log=side_log)))
