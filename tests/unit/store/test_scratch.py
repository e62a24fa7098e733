from __future__ import annotations

from pathlib import Path

import pytest

from lsb.errors import AlreadyExistsError, NotFoundError
from lsb.store.local import LocalStore
from lsb.store.scratch import ScratchStore


@pytest.fixture
def under(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path)
    store.write("a/old", b"old")
    return store


def test_what_is_written_is_read_and_never_reaches_the_store(under: LocalStore) -> None:
    scratch = ScratchStore(under)
    scratch.create("a/new", b"new")
    scratch.write("a/old", b"changed")
    assert (scratch.read("a/new"), scratch.read("a/old")) == (b"new", b"changed")
    assert [entry.key for entry in scratch.list("a")] == ["a/new", "a/old"]
    assert [entry.key for entry in under.list()] == ["a/old"]
    assert under.read("a/old") == b"old"


def test_create_sees_both_layers(under: LocalStore) -> None:
    scratch = ScratchStore(under)
    for key in ("a/old", "b"):
        scratch.write("b", b"")
        with pytest.raises(AlreadyExistsError):
            scratch.create(key, b"")


def test_deletion_is_forgotten_too(under: LocalStore) -> None:
    scratch = ScratchStore(under)
    scratch.delete("a/old")
    assert not scratch.exists("a/old")
    assert scratch.list("a") == []
    with pytest.raises(NotFoundError):
        scratch.read("a/old")
    assert under.exists("a/old")


def test_without_a_store_there_is_nothing_yet() -> None:
    scratch = ScratchStore(None)
    assert scratch.list() == []
    with pytest.raises(NotFoundError):
        scratch.read("a")


def test_a_prefix_is_a_folder() -> None:
    scratch = ScratchStore(None)
    scratch.write("a/b", b"")
    scratch.write("ab/c", b"")
    assert [entry.key for entry in scratch.list("a")] == ["a/b"]


def test_folders_are_those_of_both_layers(under: LocalStore) -> None:
    under.write("runs/a-1/x", b"")
    scratch = ScratchStore(under)
    scratch.write("runs/a-2/x", b"")
    assert scratch.folders("runs/a") == ["runs/a-1", "runs/a-2"]
    assert ScratchStore(None).folders("runs/") == []
