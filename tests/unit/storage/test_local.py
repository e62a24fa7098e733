from __future__ import annotations

import multiprocessing
import os
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import pytest

from lsb.errors import AlreadyExistsError, StoreError
from lsb.storage.local import LocalStore

PROCESSES = 8
ROUNDS = 20


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "root")


def test_a_listing_is_without_temporary_files(store: LocalStore) -> None:
    store.write("a/1", b"12")
    (store.root / ".tmp" / "leftover").write_bytes(b"x")
    assert [entry.key for entry in store.list()] == ["a/1"]


def test_writing_leaves_no_temporary_file(store: LocalStore) -> None:
    store.create("a", b"1")
    with pytest.raises(AlreadyExistsError):
        store.create("a", b"1")
    store.write("a", b"2")
    assert os.listdir(store.root / ".tmp") == []


def test_the_etag_changes_with_the_bytes(store: LocalStore) -> None:
    store.write("a", b"1")
    before = store.list()[0]
    os.utime(store.root / "a", ns=(0, 12345))
    after = store.list()[0]
    assert before.etag != after.etag
    assert after.modified == pytest.approx(12345e-9)


def test_links_to_nowhere_are_not_listed(store: LocalStore) -> None:
    (store.root / "dangling.png").symlink_to(store.root / "gone")
    assert store.list() == []


def test_a_folder_is_no_object(store: LocalStore) -> None:
    store.write("a/b", b"")
    with pytest.raises(StoreError, match="cannot read a"):
        store.read("a")
    with pytest.raises(StoreError, match="cannot write a in"):
        store.write("a", b"")


def test_the_probe_leaves_no_file(store: LocalStore) -> None:
    store.check()
    assert os.listdir(store.root / ".tmp") == []


def _compete(root: Path, name: int, won: SimpleQueue) -> None:
    store = LocalStore(root)
    for turn in range(ROUNDS):
        try:
            store.create(f"log/{turn:08d}.json", f"{name}".encode() * 1000)
        except AlreadyExistsError:
            continue
        won.put((turn, name))


def test_of_many_processes_one_creates(store: LocalStore) -> None:
    context = multiprocessing.get_context("fork")
    won = context.SimpleQueue()
    racers = [context.Process(target=_compete, args=(store.root, name, won)) for name in range(PROCESSES)]
    for racer in racers:
        racer.start()
    winners = [won.get() for _ in range(ROUNDS)]
    for racer in racers:
        racer.join()
    assert won.empty()
    assert sorted(turn for turn, _ in winners) == list(range(ROUNDS))
    for turn, name in winners:
        assert store.read(f"log/{turn:08d}.json") == f"{name}".encode() * 1000


def test_folders_that_are_empty_after_a_deletion_go_and_come_back(store: LocalStore) -> None:
    store.write("a/b/c", b"1")
    store.write("a/d", b"1")
    store.delete("a/b/c")
    assert not (store.root / "a/b").exists()
    store.delete("a/d")
    assert store.root.exists()
    assert not (store.root / "a").exists()
    store.write("a/b/c", b"2")
    assert store.read("a/b/c") == b"2"
