from __future__ import annotations

from pathlib import Path
from threading import Thread

import pytest

from lsb.errors import NotFoundError
from lsb.store.local import LocalStore
from lsb.store.read_ahead import read_ahead
from lsb.store.store import Store
from lsb.store.usage import Usage, counted, of_this_process, total


def test_a_store_counts_what_it_is_asked_for(store: Store) -> None:
    """A folder and a bucket."""
    with counted() as usage:
        store.write("a/b", b"12345")
        store.create("a/c", b"123")
    assert usage == Usage(requests=2, bytes_written=8)
    with counted() as usage:
        store.read("a/b")
        store.read_range("a/b", 1, 3)  # type: ignore[attr-defined]
        store.list("a")
        store.exists("a/b")
        store.delete("a/c")
    assert usage == Usage(requests=5, bytes_read=8)


def test_what_fails_is_a_request_that_brought_nothing(store: Store) -> None:
    with counted() as usage, pytest.raises(NotFoundError):
        store.read("a/none")
    assert usage == Usage(requests=1)


def test_every_open_block_counts_and_no_other_thread_does(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    before = of_this_process()
    with counted() as outer:
        store.write("one", b"1")
        with counted() as inner:
            store.read("one")
            stranger = Thread(target=store.read, args=("one",))
            stranger.start()
            stranger.join()
    store.read("one")
    assert (outer, inner) == (Usage(2, 1, 1), Usage(1, 1, 0))
    assert of_this_process() - before == Usage(4, 3, 1)


def test_what_is_read_ahead_is_counted_by_whoever_asked(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write("one", b"123")
    with counted() as usage, read_ahead(["one"] * 5, store.read) as answers:
        assert [answer() for _, answer in answers] == [b"123"] * 5
    assert usage == Usage(5, 15, 0)


def test_of_parts_one_of_which_is_not_known_there_is_no_total() -> None:
    assert total([Usage(1, 2, 3), Usage(4, 5, 6)]) == Usage(5, 7, 9)
    assert total([Usage(1, 2, 3), None]) is None
