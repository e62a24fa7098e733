"""Clean-up takes everything that nobody names, and nothing else, whatever others do meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lsb.audit import verify
from lsb.errors import StoreError, UsageError
from lsb.jobs.gc import HINTS, CleanUp, clean_up
from lsb.ledger import layout
from lsb.ledger.log.snapshots import SnapshotLog
from lsb.ledger.publish import publish
from lsb.ledger.run import Run, create_run, open_log
from lsb.pictures.sources import open_sources
from lsb.store.local import LocalStore
from lsb.store.store import Data, Entries, Entry, Store
from lsb.translation.shard import run_shard
from tests.ledger import Inverter, equipment, make_images, run_spec, start, translate_all

IMAGES = 4


class Interrupting(LocalStore):
    """Does something just before the first write of a key that contains `part`."""

    def __init__(self, root: Path, part: str, act: Callable[[], object]) -> None:
        super().__init__(root)
        self.part, self.act = part, act

    def write(self, key: str, data: bytes) -> None:
        self._before(key)
        super().write(key, data)

    def create(self, key: str, data: Data) -> None:
        self._before(key)
        super().create(key, data)

    def _before(self, key: str) -> None:
        if self.part in key:
            self.part = "\0"
            self.act()


def clean_now(store: Store) -> CleanUp:
    """Clean up as if a day had passed. The hints, which always go, are left out of the answer."""
    return _without_hints(clean_up(store, older_than=-1, least=-1))


def _without_hints(done: CleanUp) -> CleanUp:
    return replace(done, deleted=tuple(leftover for leftover in done.deleted if leftover.kind != HINTS))


def killed() -> None:
    raise KeyboardInterrupt


def keys(store: Store) -> set[str]:
    return {entry.key for entry in store.list()}


def die(store: LocalStore, run: Run, sources: Store, part: str = "/log/") -> None:
    """A worker that is killed when it is about to write `part`."""
    with pytest.raises(KeyboardInterrupt):
        run_shard(Interrupting(store.root, part, killed), run, "00000", equipment(sources, Inverter(batch=2)))


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def begun(store: LocalStore, tmp_path: Path) -> tuple[Run, Store]:
    return start(store, make_images(tmp_path / "images", IMAGES), shard_size=IMAGES)


def finish(store: Store, run: Run, sources: Store) -> None:
    translate_all(store, run, sources)
    publish(store, run, {}, b"page")


def test_what_a_killed_worker_left_behind_goes(store: LocalStore, begun: tuple[Run, Store]) -> None:
    run, sources = begun
    die(store, run, sources)
    finish(store, run, sources)
    orphans = set(verify(store, run.id).orphans)
    assert len(orphans) == IMAGES + 1
    done = clean_now(store)
    assert {leftover.key for leftover in done.deleted} == orphans
    assert (done.counts(), done.exit_code) == ({"attempts": IMAGES + 1}, 0)
    assert done.size == sum(leftover.size for leftover in done.deleted) > 0
    verdict = verify(store, run.id)
    assert (verdict.exit_code, verdict.orphans) == (0, ())
    assert verdict.checked["log entries"] == 2  # one commit, one condemnation
    assert not list((store.root / f"runs/{run.id}/shards/00000").glob(f"{next(iter(orphans)).split('/')[4]}*"))

    before = keys(store)
    assert clean_now(store).deleted == ()
    assert keys(store) == before


def test_a_dry_run_lists_what_then_goes_and_deletes_nothing(store: LocalStore, begun: tuple[Run, Store]) -> None:
    run, sources = begun
    die(store, run, sources)
    store.write(f".tmp/{'a' * 32}", b"x")
    before = keys(store)
    planned = _without_hints(clean_up(store, older_than=-1, least=-1, dry_run=True))
    assert keys(store) == before
    assert open_log(store, run, "00000").history().head is None
    assert planned == clean_now(store)
    assert planned.counts() == {"attempts": IMAGES + 1, "temporary": 1}


def test_orphan_parts_of_an_attempt_that_has_committed(store: LocalStore, begun: tuple[Run, Store]) -> None:
    """Killed in its second part: the first stays, and its attempt may commit no more."""
    run, sources = begun
    broken = Interrupting(store.root, "/log/00000001", killed)
    with pytest.raises(KeyboardInterrupt):
        run_shard(broken, run, "00000", equipment(sources, Inverter(batch=2)), commit_seconds=1e-9)
    assert clean_now(store).counts() == {"attempts": 3}
    history = open_log(store, run, "00000").history()
    assert history.condemned == {history.commits[0].attempt}
    finish(store, run, sources)
    assert (verify(store, run.id).exit_code, verify(store, run.id).orphans) == (0, ())


def test_the_young_are_spared_by_the_stores_own_clock(store: LocalStore, begun: tuple[Run, Store]) -> None:
    class Behind(LocalStore):
        """Its clock is ten days late: by ours everything is old."""

        def list(self, prefix: str = "") -> Entries:
            return [Entry(e.key, e.size, e.etag, e.modified - 864_000) for e in super().list(prefix)]

    run, sources = begun
    die(store, run, sources)
    assert clean_up(store).deleted == ()
    assert clean_up(Behind(store.root)).deleted == ()
    old = sorted((store.root / f"runs/{run.id}/shards").rglob("*.png"))[0]
    os.utime(old, (time.time() - 90_000,) * 2)
    assert [leftover.key for leftover in clean_up(store).deleted] == [old.relative_to(store.root).as_posix()]


def test_a_live_attempt_that_is_condemned_makes_its_images_again(
    store: LocalStore, begun: tuple[Run, Store], tmp_path: Path
) -> None:
    run, sources = begun
    seen: list[CleanUp] = []
    slow = Interrupting(store.root, "/log/00000000", lambda: seen.append(clean_now(store)))
    outcome = run_shard(slow, run, "00000", equipment(sources, Inverter(batch=2)))
    assert seen[0].counts() == {"attempts": IMAGES + 1}
    assert (outcome.finished, outcome.translated, outcome.commits) == (True, 2 * IMAGES, 1)
    history = open_log(store, run, "00000").history()
    assert history.commits[0].attempt not in history.condemned
    publish(store, run, {}, b"page")
    assert (verify(store, run.id).exit_code, verify(store, run.id).orphans) == (0, ())


def test_a_commit_that_comes_before_the_condemnation_keeps_its_files(
    store: LocalStore, begun: tuple[Run, Store]
) -> None:
    """Its files were listed as nobody's; its entry appears when clean-up is about to condemn it."""
    run, sources = begun
    done: list[CleanUp] = []

    class Slow(LocalStore):
        def create(self, key: str, data: Data) -> None:
            commit = lambda: store.create(key, data)  # noqa: E731
            done.append(clean_now(Interrupting(store.root, "/log/", commit)))
            super().create(key, data)  # refused, as after a lost answer: the entry there is its own

    outcome = run_shard(Slow(store.root), run, "00000", equipment(sources))
    assert (outcome.commits, done[0].deleted) == (1, ())
    publish(store, run, {}, b"page")
    assert (verify(store, run.id).exit_code, verify(store, run.id).orphans) == (0, ())


def test_what_is_uploaded_after_the_condemnation_goes_with_the_next_one(
    store: LocalStore, begun: tuple[Run, Store]
) -> None:
    run, sources = begun
    die(store, run, sources)
    clean_now(store)
    (attempt,) = open_log(store, run, "00000").history().condemned
    late = layout.output_file(run.id, "00000", attempt, "0" * 32, "png")
    store.write(late, b"late")
    assert [leftover.key for leftover in clean_now(store).deleted] == [late]
    assert len(open_log(store, run, "00000").history().condemnations) == 1


def test_two_at_once(store: LocalStore, begun: tuple[Run, Store]) -> None:
    run, sources = begun
    die(store, run, sources)
    other: list[CleanUp] = []
    first = clean_now(Interrupting(store.root, "/log/", lambda: other.append(clean_now(store))))
    assert first.deleted == other[0].deleted
    assert len(open_log(store, run, "00000").history().condemnations) == 1


def test_an_unfinished_snapshot_goes_and_its_folder_is_never_used_again(
    store: LocalStore, begun: tuple[Run, Store]
) -> None:
    run, sources = begun
    translate_all(store, run, sources)
    done: list[CleanUp] = []
    slow = Interrupting(store.root, "/report/", lambda: done.append(clean_now(store)))
    snapshot = publish(slow, run, {}, b"page")
    assert done[0].counts() == {"snapshots": 3}
    assert snapshot.folder.endswith("/00000001")
    history = SnapshotLog(store, run.id, run.sha256).history()
    assert (history.condemned, history.snapshots) == ({0}, [snapshot])
    verdict = verify(store, run.id)
    assert (verdict.exit_code, len(verdict.orphans)) == (0, 1)  # the page that was uploaded too late
    assert clean_now(store).counts() == {"snapshots": 1}
    assert publish(store, run, {}, b"page") == snapshot


def test_a_condemned_folder_with_a_higher_number_than_the_next_snapshot(
    store: LocalStore, begun: tuple[Run, Store]
) -> None:
    run, sources = begun
    translate_all(store, run, sources)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            publish(Interrupting(store.root, "/metrics.json", killed), run, {}, b"page")
    assert clean_now(store).counts() == {"snapshots": 2}
    assert publish(store, run, {}, b"page").folder.endswith("/00000002")


def test_plans_that_nobody_ran_go_and_come_back_if_somebody_does(store: LocalStore, tmp_path: Path) -> None:
    sources = open_sources(str(make_images(tmp_path / "images", IMAGES)))
    spec = run_spec(store, sources)
    done: list[CleanUp] = []
    run = create_run(Interrupting(store.root, "/run.json", lambda: done.append(clean_now(store))), spec)
    assert done[0].counts() == {"plans": 1}
    finish(store, run, sources)
    assert verify(store, run.id).exit_code == 0

    class Late(LocalStore):
        """The run is created between the look at the folder and the deletion of its plan."""

        def delete(self, key: str) -> None:
            if "/plan-" in key:
                made.append(create_run(LocalStore(self.root), other))
            super().delete(key)

    made: list[Run] = []
    other = run_spec(store, sources, shard_size=2)
    name = create_run(
        LocalStore(tmp_path / "elsewhere"), run_spec(LocalStore(tmp_path / "elsewhere"), sources, shard_size=2)
    )
    plan = LocalStore(tmp_path / "elsewhere").read(name.plan["key"])
    store.write(name.plan["key"], plan)
    assert clean_now(Late(store.root)).deleted == ()
    assert store.read(made[0].plan["key"]) == plan


def test_a_plan_beside_the_runs_own_goes(store: LocalStore, begun: tuple[Run, Store]) -> None:
    run, _ = begun
    stray = layout.plan_file(run.id, "f" * 64)
    store.write(stray, b"x")
    assert [leftover.key for leftover in clean_now(store).deleted] == [stray]


def test_what_lies_outside_the_layout_is_not_touched(store: LocalStore, begun: tuple[Run, Store]) -> None:
    run, sources = begun
    finish(store, run, sources)
    shard = f"runs/{run.id}/shards/00000"
    for key in [
        "notes.txt",
        "runs/notes.txt",
        f"runs/{run.id}/notes.json",
        f"{shard}/notes.json",
        f"{shard}/notes/0.json",
        f"{shard}/0123456789abcdef/notes.txt",
        f"{shard}/0123456789abcdef/deeper/0.png",
        f"runs/{run.id}/snapshots/00000009/notes.json",
        f"runs/{run.id}/snapshots/log/notes.json",
        "runs/no-run/shards/00000/0123456789abcdef/0.png",
        f"runs/{run.id}/shards/00777/0123456789abcdef/0.png",
        "datasets/noise/other/records.parquet",
        "prompts/source/other.json",
        "jobs/other/log/x.json",
    ]:
        store.write(key, b"mine")
    before = {key for key in keys(store) if not layout.is_hint(key)}
    assert clean_now(store).deleted == ()
    assert keys(store) == before


def test_old_hints_go_without_a_word_in_the_log(store: LocalStore, begun: tuple[Run, Store]) -> None:
    run, sources = begun
    translate_all(store, run, sources)
    (hint,) = [key for key in keys(store) if layout.is_hint(key)]
    history = open_log(store, run, "00000").history()
    assert clean_up(store).deleted == ()
    assert [leftover.key for leftover in clean_up(store, older_than=-1, least=-1).deleted] == [hint]
    assert open_log(store, run, "00000").history() == history


def test_old_leases_go_without_a_word_in_the_log_and_verify_looks_at_none(
    store: LocalStore, begun: tuple[Run, Store]
) -> None:
    run, sources = begun
    finish(store, run, sources)
    clean_up(store, older_than=-1, least=-1)
    leases = {layout.lease_file(run.id, "00000", 0, back=back) for back in (False, True)}
    for key in leases:
        store.write(key, b"\0 of no schema")
    assert verify(store, run.id).findings == verify(store, run.id).orphans == ()
    assert clean_up(store).deleted == ()
    before = keys(store)
    done = clean_up(store, older_than=-1, least=-1)
    assert {leftover.key for leftover in done.deleted} == leases
    assert done.counts() == {"leases": 2}
    assert {*before} - {*keys(store)} == leases


def test_a_run_with_a_broken_log_is_left_alone_and_the_others_are_not(
    store: LocalStore, begun: tuple[Run, Store], tmp_path: Path
) -> None:
    run, sources = begun
    die(store, run, sources)
    finish(store, run, sources)
    other, _ = start(store, tmp_path / "images", shard_size=IMAGES, tau=1.0)
    die(store, other, sources)
    head = layout.numbered(layout.shard_log(run.id, "00000"), 0)
    entry = store.read(head)
    for damage in (lambda: store.write(head, b"{}"), lambda: store.delete(head)):
        damage()
        dry = _without_hints(clean_up(store, older_than=-1, least=-1, dry_run=True))
        assert dry.exit_code == 10
        assert dry.left_alone.keys() == {run.id}
        assert all(other.id in leftover.key for leftover in dry.deleted)
        assert len(dry.deleted) == IMAGES + 1
    store.write(head, entry)
    store.delete(layout.run_file(run.id))
    assert "run.json is missing" in str(clean_now(store).left_alone[run.id])


def test_a_log_of_a_newer_version_is_left_alone(store: LocalStore, begun: tuple[Run, Store]) -> None:
    run, sources = begun
    die(store, run, sources)
    open_log(store, run, "00000")._chain().append(None, {"kind": "praise"})
    assert (clean_now(store).exit_code, clean_now(store).deleted) == (12, ())


def test_requests_that_make_no_sense(store: LocalStore, begun: tuple[Run, Store]) -> None:
    with pytest.raises(UsageError, match="23 hours are too few"):
        clean_up(store, older_than=23)
    with pytest.raises(UsageError, match="is a run; give the root"):
        clean_up(LocalStore(store.root / "runs" / begun[0].id))


def test_a_folder_that_is_no_store_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    folder = LocalStore(tmp_path / "mine")
    for key in [
        f".tmp/{'a' * 32}",
        ".tmp/probe-0123456789abcdef",
        "runs/today/run.json",
        "runs/run-0123456789ab/notes.txt",
        "datasets/noise/records.parquet",
        "prompts/me/hello.json",
        "jobs/x/log/job.txt",
    ]:
        folder.write(key, b"mine")
    before = sorted((folder.root / ".tmp").iterdir())
    with pytest.raises(UsageError, match="is no store of lsb") as caught:
        clean_now(folder)
    assert caught.value.exit_code == 2
    assert sorted((folder.root / ".tmp").iterdir()) == before


@pytest.mark.parametrize(
    "key",
    [
        "runs/a-0123456789ab/run.json",
        f"runs/a-0123456789ab/plan-{'a' * 64}.parquet",
        f"datasets/noise/{'a' * 64}/records.parquet",
        f"datasets/noise/{'a' * 64}/records-{'b' * 64}.parquet",
        f"prompts/source/{'a' * 64}.prompt.json",
        f"prompts/source/recipe-{'a' * 64}.checkpoint",
        "jobs/a/log/00000000.json",
    ],
)
def test_what_makes_a_folder_a_store(tmp_path: Path, key: str) -> None:
    folder = LocalStore(tmp_path / "store")
    folder.write(key, b"x")
    clean_now(folder)
    assert list((folder.root / ".tmp").iterdir()) == []


def test_what_nobody_knows_in_the_folder_of_temporary_files_stays(
    store: LocalStore, begun: tuple[Run, Store], tmp_path: Path
) -> None:
    temporary = store.root / ".tmp"
    gone = [temporary / ("0" * 32), temporary / "probe-0123456789abcdef"]
    victim = tmp_path / "victim"
    for path in gone:
        path.write_bytes(b"x")
    for name in ["my notes.txt", "ä", "a\nb", "notes", "0" * 31, "0" * 33]:
        (temporary / name).write_bytes(b"x")
    for place in [temporary / "folder" / ("0" * 32), temporary / ("1" * 32) / "probe-0123456789abcdef", victim]:
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(b"x")
    (temporary / "itself").symlink_to("itself")
    (temporary / "elsewhere").symlink_to(tmp_path)
    os.mkfifo(temporary / "pipe")
    (temporary / "closed").mkdir(mode=0)
    before = {path for path in temporary.iterdir() if path not in gone}
    assert clean_now(store).counts() == {"temporary": 2}
    assert set(temporary.iterdir()) == before
    assert (victim.read_bytes(), (temporary / "folder" / ("0" * 32)).read_bytes()) == (b"x", b"x")


def test_one_run_that_cannot_be_read_does_not_keep_the_others_from_being_cleaned(
    store: LocalStore, begun: tuple[Run, Store], tmp_path: Path
) -> None:
    run, sources = begun
    die(store, run, sources)
    other, _ = start(store, tmp_path / "images", shard_size=IMAGES, tau=1.0)
    die(store, other, sources)
    (store.root / layout.run_file(run.id)).unlink()
    os.mkfifo(store.root / layout.run_file(run.id))
    done = clean_now(store)
    assert (done.exit_code, done.left_alone.keys()) == (12, {run.id})
    assert done.counts() == {"attempts": IMAGES + 1}


def test_a_link_in_place_of_the_stores_own_folder_ends_it_before_anything_is_deleted(
    store: LocalStore, begun: tuple[Run, Store], tmp_path: Path
) -> None:
    victim = tmp_path / "victim" / ("0" * 32)
    victim.parent.mkdir()
    victim.write_bytes(b"precious")
    (store.root / ".tmp").rmdir()
    (store.root / ".tmp").symlink_to(victim.parent)
    for dry_run in (True, False):
        with pytest.raises(StoreError, match=r"the folder \.tmp there is a link") as caught:
            clean_up(store, older_than=-1, least=-1, dry_run=dry_run)
        assert caught.value.exit_code == 3
    assert [*victim.parent.iterdir()] == [victim]
