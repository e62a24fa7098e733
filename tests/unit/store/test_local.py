from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import stat
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import pytest

from lsb.errors import AlreadyExistsError, NotFoundError, StoreError
from lsb.store import folders
from lsb.store.local import LocalStore
from lsb.store.store import Store, open_store
from tests.unit.store.contract import StoreContract

PROCESSES = 8
ROUNDS = 20


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "root")


class TestContract(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return open_store(str(tmp_path / "root"), create=True)


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


def failing(number: int) -> Callable[..., None]:
    """A system call that the file system refuses."""

    def call(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def _compete(root: Path, name: int, won: SimpleQueue) -> None:
    store = LocalStore(root)
    for turn in range(ROUNDS):
        try:
            store.create(f"log/{turn:08d}.json", f"{name}".encode() * 1000)
        except AlreadyExistsError:
            continue
        won.put((turn, name))


@pytest.mark.parametrize("links", [True, False])
def test_of_many_processes_one_creates(store: LocalStore, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:
        monkeypatch.setattr(os, "link", failing(errno.EPERM))
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


CHANGES: list[Callable[[LocalStore, str], None]] = [
    lambda store, key: store.write(key, b"mine"),
    lambda store, key: store.create(key, b"mine"),
    lambda store, key: store.delete(key),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("key", ["a/b", "a/c/b", "d/a/b", ".tmp/b"])
def test_nothing_is_changed_through_a_link(
    store: LocalStore, tmp_path: Path, change: Callable[[LocalStore, str], None], key: str
) -> None:
    victim = tmp_path / "victim"
    (victim / "c").mkdir(parents=True)
    for place in (victim / "b", victim / "c" / "b"):
        place.write_bytes(b"precious")
    (store.root / "d").mkdir()
    for link in ("a", "d/a", ".tmp"):
        (store.root / link).symlink_to(victim)
    if change is not CHANGES[2]:
        (store.root / ".tmp").unlink()
        (victim / "b").unlink()
    before = sorted(victim.rglob("*"))
    if key == ".tmp/b" and change is not CHANGES[2]:
        (store.root / ".tmp").symlink_to(victim)
    with pytest.raises(StoreError, match=r"the folder (a|\.tmp) there is a link, and lsb goes through none") as caught:
        change(store, key)
    assert "\n" not in str(caught.value)
    assert sorted(victim.rglob("*")) == before
    assert (victim / "c" / "b").read_bytes() == b"precious"


def test_a_link_in_place_of_an_object_is_changed_itself(store: LocalStore, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    for name in "abc":
        (store.root / name).symlink_to(victim)
    store.write("a", b"mine")
    with pytest.raises(AlreadyExistsError):
        store.create("b", b"mine")
    store.delete("c")
    assert (victim.read_bytes(), store.read("a"), (store.root / "c").is_symlink()) == (b"precious", b"mine", False)


@pytest.mark.parametrize(("change", "call"), [*zip(CHANGES, ["replace", "link", "unlink"], strict=True)])
def test_a_folder_that_becomes_a_link_at_the_last_moment(
    store: LocalStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[LocalStore, str], None],
    call: str,
) -> None:
    """Somebody swaps the folder after the store has looked at it and before the system call that changes something."""
    victim = tmp_path / "victim"
    victim.mkdir()
    if call != "link":
        store.write("a/b", b"old")
        (victim / "b").write_bytes(b"precious")
    else:
        (store.root / "a").mkdir()
    real = getattr(os, call)

    def swap_first(*arguments: object, **options: object) -> None:
        if not (store.root / "a").is_symlink():
            (store.root / "a").rename(store.root / "moved")
            (store.root / "a").symlink_to(victim)
        real(*arguments, **options)

    monkeypatch.setattr(os, call, swap_first)
    change(store, "a/b")
    assert [path.read_bytes() for path in victim.iterdir()] == ([] if call == "link" else [b"precious"])
    assert (store.root / "moved" / "b").exists() == (call != "unlink")


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_hard_links(store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "link", failing(number))
    store.create("a", b"1")
    with pytest.raises(AlreadyExistsError):
        store.create("a", b"2")
    assert (store.read("a"), os.listdir(store.root / ".tmp")) == (b"1", [])
    store.check()


def test_a_file_system_on_which_nothing_can_be_created_exclusively_is_refused(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoSuchFunction:
        def __init__(self, *arguments: object, **options: object) -> None:
            """A C library that has none of them."""

    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    monkeypatch.setattr(folders.ctypes, "CDLL", NoSuchFunction)
    with pytest.raises(StoreError, match=r"has neither hard links .* nor a rename that spares") as caught:
        store.check()
    assert ("\n" in str(caught.value), caught.value.of_object) == (False, False)
    assert os.listdir(store.root / ".tmp") == []


def refusing_folders(number: int) -> Callable[[int], None]:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    return fsync


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EACCES, errno.ENOTSUP, errno.EBADF])
def test_a_file_system_that_cannot_sync_folders_is_used_and_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    monkeypatch.setattr(os, "fsync", refusing_folders(number))
    store = LocalStore(tmp_path / "new" / "root")
    store.write("a/b", b"1")
    store.create("a/c", b"2")
    assert [entry.key for entry in store.list()] == ["a/b", "a/c"]
    assert caplog.records == []
    store.check()
    (record,) = caplog.records
    assert (record.levelno, "cannot sync folders" in record.message) == (logging.WARNING, True)


def test_a_disk_that_fails_to_sync_is_an_error(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refusing_folders(errno.EIO))
    with pytest.raises(StoreError, match=r"cannot write a in .*: Input/output error"):
        store.write("a", b"1")


READS: list[Callable[[LocalStore, str], object]] = [
    lambda store, key: store.read(key),
    lambda store, key: store.exists(key),
    lambda store, key: store.list(key),
]


@pytest.mark.parametrize("act", [*CHANGES, *READS])
@pytest.mark.parametrize("key", ["x" * 300, "loop/a", "closed/a/b"])
def test_a_path_that_cannot_be_used_is_one_line(
    store: LocalStore, act: Callable[[LocalStore, str], object], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store.root / "loop").symlink_to("loop")
    if key.startswith("closed"):  # permissions do not stop every user that tests run as
        real = os.stat
        monkeypatch.setattr(
            os, "stat", lambda path, **how: failing(errno.EACCES)() if "closed" in str(path) else real(path, **how)
        )
        monkeypatch.setattr(os, "scandir", failing(errno.EACCES))
        monkeypatch.setattr(folders, "_enter", failing(errno.EACCES))
    with pytest.raises(StoreError, match=r"cannot [a-z ]+ .*; check path, permissions and space") as caught:
        act(store, key)
    assert ("\n" in str(caught.value), isinstance(caught.value, NotFoundError)) == (False, False)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE])
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_system_that_takes_nothing_is_one_line(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, change: Callable[[LocalStore, str], None], number: int
) -> None:
    store.write("b/c", b"old")
    real = os.open
    refused = os.O_CREAT if change is not CHANGES[2] else os.O_DIRECTORY
    monkeypatch.setattr(
        os,
        "open",
        lambda path, flags, *more, **how: failing(number)() if flags & refused else real(path, flags, *more, **how),
    )
    with pytest.raises(StoreError, match=os.strerror(number)) as caught:
        change(store, "b/c")
    assert ("\n" in str(caught.value), caught.value.exit_code) == (False, 3)
    monkeypatch.undo()
    assert (store.read("b/c"), os.listdir(store.root / ".tmp")) == (b"old", [])


@pytest.mark.parametrize("path", ["x" * 300, "loop/a", "a\0b"])
def test_a_root_that_cannot_be_used_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for create in (True, False):
        with pytest.raises(StoreError, match=r"cannot use .* as a folder") as caught:
            open_store(f"{tmp_path}/{path}", create=create)
        assert "\n" not in str(caught.value)


def test_what_is_no_file_is_refused_at_once(store: LocalStore, tmp_path: Path) -> None:
    os.mkfifo(store.root / "pipe")
    (store.root / "device").symlink_to("/dev/zero")
    for key in ("pipe", "device"):
        assert not store.exists(key)
        with pytest.raises(StoreError, match="no file but a pipe, a socket or a device"):
            store.read(key)


def test_links_that_lead_to_nothing_end_no_listing(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("a", b"1")
    (store.root / "itself").symlink_to("itself")
    (store.root / "long").symlink_to("x" * 300)
    assert [entry.key for entry in store.list()] == ["a"]


def test_reading_follows_links_to_files_and_listing_none_to_folders(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1.png").write_bytes(b"1")
    (store.root / "linked.png").symlink_to(tmp_path / "pictures" / "1.png")
    (store.root / "more").symlink_to(tmp_path / "pictures")
    assert [(entry.key, entry.size) for entry in store.list()] == [("linked.png", 1)]
    assert (store.read("linked.png"), store.read("more/1.png"), store.exists("linked.png")) == (b"1", b"1", True)
