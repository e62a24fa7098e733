from __future__ import annotations

from collections import Counter

import pytest

from lsb.errors import NotFoundError
from lsb.store import kept
from lsb.store.kept import KeptReads
from tests.interleaving import MemoryStore


class Counted(MemoryStore):
    def __init__(self, uri: str = "memory://counted") -> None:
        super().__init__(uri=uri)
        self.reads: Counter[str] = Counter()

    def read(self, key: str) -> bytes:
        self.reads[key] += 1
        return super().read(key)


def filled(uri: str = "memory://counted") -> Counted:
    store = Counted(uri)
    for key, data in (("a", b"one"), ("b", b"three"), ("empty", b"")):
        store.write(key, data)
    return store


def test_a_store_is_asked_once_and_its_bytes_come_again() -> None:
    store, reads = filled(), KeptReads()
    assert [reads.read(store, key) for key in ("a", "b", "empty") * 2] == [b"one", b"three", b""] * 2
    assert set(store.reads.values()) == {1}


def test_a_key_of_another_store_is_another_object() -> None:
    one, other, reads = filled(), filled("memory://other"), KeptReads()
    other.write("a", b"another")
    assert [reads.read(store, "a") for store in (one, other, one, other)] == [b"one", b"another"] * 2


def test_what_does_not_fit_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "KEPT_BYTES", 4)
    store, reads = filled(), KeptReads()
    assert [reads.read(store, key) for key in ("a", "b") * 2] == [b"one", b"three"] * 2
    assert (store.reads["a"], store.reads["b"]) == (1, 2)


def test_a_full_disk_is_no_hindrance(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept.os, "pwrite", full)
    store, reads = filled(), KeptReads()
    assert [reads.read(store, "a") for _ in range(2)] == [b"one"] * 2
    assert store.reads["a"] == 2


def test_errors_are_not_kept() -> None:
    store, reads = filled(), KeptReads()
    for _ in range(2):
        with pytest.raises(NotFoundError):
            reads.read(store, "none")
    store.write("none", b"there now")
    assert reads.read(store, "none") == b"there now"


def test_a_folder_of_this_machine_is_read_each_time() -> None:
    store, reads = filled("/pictures"), KeptReads()
    assert [reads.read(store, "a") for _ in range(2)] == [b"one"] * 2
    assert store.reads["a"] == 2
