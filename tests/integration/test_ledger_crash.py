"""A crash after each numbered step of a commit and of a publication: what a reader sees, and what the next run does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lsb.audit import verify
from lsb.ingest import open_sources
from lsb.publish import latest_snapshot, publish
from lsb.shard_job import run_shard
from lsb.sharding import Run, create_run, pending
from lsb.storage.local import LocalStore
from lsb.storage.store import Store
from tests.ledger import Inverter, make_images, run_spec, start, translate_all, worker

IMAGES = 4
BATCH = 2


class Crash(BaseException):
    """Not an Exception: nothing may catch it, as nothing catches a power cut."""


class CrashingStore(LocalStore):
    """Dies at its `steps`-th write, either before the object appears or right after."""

    def __init__(self, root: Path, steps: int, *, after: bool) -> None:
        super().__init__(root)
        self.steps = steps
        self.after = after

    def write(self, key: str, data: bytes) -> None:
        self._step(lambda: super(CrashingStore, self).write(key, data))

    def create(self, key: str, data: bytes) -> None:
        self._step(lambda: super(CrashingStore, self).create(key, data))

    def _step(self, act: Callable[[], None]) -> None:
        self.steps -= 1
        if self.steps == 0 and not self.after:
            raise Crash
        act()
        if self.steps == 0:
            raise Crash


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def begun(store: LocalStore, tmp_path: Path) -> tuple[Run, Store]:
    return start(store, make_images(tmp_path / "images", IMAGES), shard_size=IMAGES)


# Two commits, each of the hint, two images, one row file and the log entry.
STEPS_OF_A_COMMIT = 1 + BATCH + 2


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("steps", range(1, 2 * STEPS_OF_A_COMMIT + 1))
def test_a_crash_in_a_commit(
    store: LocalStore, begun: tuple[Run, Store], tmp_path: Path, steps: int, after: bool
) -> None:
    run, sources = begun
    log = tmp_path / "side.log"
    log.touch()
    translator = Inverter(batch=BATCH, side_log=log)
    broken = CrashingStore(store.root, steps, after=after)
    with pytest.raises(Crash):
        run_shard(broken, run, "00000", worker(sources, translator), commit_seconds=1e-9)

    # What a reader sees: only whole commits, each the moment its log entry appears.
    finished = steps if after else steps - 1
    commits = finished // STEPS_OF_A_COMMIT
    left = pending(store, run).get("00000", [])
    assert len(left) == IMAGES - commits * BATCH
    assert not [finding for finding in verify(store, run.id).findings if finding.kind != "incomplete"]

    # What the next run does: exactly what has no row.
    before = log.read_text().split()
    outcome = run_shard(store, run, "00000", worker(sources, translator))
    assert outcome.finished
    assert outcome.translated == len(left)
    assert len(log.read_text().split()) - len(before) == len(left)
    publish(store, run, {}, b"page")
    verdict = verify(store, run.id)
    assert verdict.exit_code == 0
    # A hint is nobody's orphan.
    assert len(verdict.orphans) == max(0, finished % STEPS_OF_A_COMMIT - 1)


# Manifest, metrics, attestation, report, the snapshot's entry, the job's entry.
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("steps", range(1, 7))
def test_a_crash_while_publishing(store: LocalStore, begun: tuple[Run, Store], steps: int, after: bool) -> None:
    run, sources = begun
    translate_all(store, run, sources)
    with pytest.raises(Crash):
        publish(CrashingStore(store.root, steps, after=after), run, {"kid": 1.0}, b"page")

    finished = steps if after else steps - 1
    seen = latest_snapshot(store, run)
    assert (seen is not None) == (finished >= 5)
    assert verify(store, run.id).exit_code == (0 if finished >= 5 else 11)

    snapshot = publish(store, run, {"kid": 1.0}, b"page")
    assert seen in (None, snapshot)
    verdict = verify(store, run.id)
    assert (verdict.exit_code, verdict.checked["snapshots"], verdict.checked["job entries"]) == (0, 1, 1)
    assert len(verdict.orphans) == (finished if finished < 5 else 0)


# The plan, then run.json.
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_crash_while_planning(store: LocalStore, tmp_path: Path, steps: int, after: bool) -> None:
    sources = open_sources(str(make_images(tmp_path / "images", IMAGES)))
    spec = run_spec(store, sources)
    with pytest.raises(Crash):
        create_run(CrashingStore(store.root, steps, after=after), spec)
    run = create_run(store, spec)
    translate_all(store, run, sources)
    publish(store, run, {}, b"page")
    verdict = verify(store, run.id)
    assert (verdict.exit_code, verdict.orphans) == (0, ())
