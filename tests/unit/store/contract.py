"""What every store promises. A new kind's test derives from `StoreContract` and gives the `store` fixture.

class TestSomething(StoreContract):
    @pytest.fixture
    def store(self) -> Store: ...  # empty
"""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from tempfile import TemporaryFile

import pytest

from lsb.errors import AlreadyExistsError, NotFoundError, StoreError
from lsb.store import local, s3
from lsb.store.store import ReadsPieces, Store, read_pieces, read_range
from lsb.store.usage import counted


def copy_of(store: Store) -> Store:
    """The same store as another process has it."""
    copy: Store = pickle.loads(pickle.dumps(store))  # noqa: S301 our own
    return copy


class StoreContract:
    """Tests of the protocol's promises; they look at nothing but the protocol."""

    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError("give an empty store")

    def test_what_is_written_is_read_and_replaced(self, store: Store) -> None:
        store.write("a/b/c.json", b"1")
        store.write("a/b/c.json", b"22")
        assert store.read("a/b/c.json") == b"22"
        assert store.exists("a/b/c.json")
        assert not store.exists("a/b")

    def test_an_empty_object_and_a_large_one(self, store: Store) -> None:
        large = bytes(range(256)) * 40_000
        store.write("empty", b"")
        store.create("large", large)
        assert (store.read("empty"), store.read("large")) == (b"", large)

    def test_a_range_is_a_part_of_the_whole(self, store: Store) -> None:
        data = bytes(range(256))
        store.write("a/b", data)
        for start, length in ((0, 256), (0, 1), (100, 56), (255, 1), (7, 0)):
            assert read_range(store, "a/b", start, length) == data[start : start + length]
        with pytest.raises(NotFoundError):
            read_range(store, "a/c", 0, 1)

    def test_a_large_object_comes_in_pieces(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (local, s3):
            monkeypatch.setattr(module, "PIECE", 1000)
        data = bytes(range(256)) * 10
        for name, content in (("empty", b""), ("small", data[:999]), ("one", data[:1000]), ("large", data)):
            store.write(name, content)
            assert b"".join(read_pieces(store, name)) == content
        if isinstance(store, ReadsPieces):
            with counted() as usage:
                assert max(map(len, read_pieces(store, "large"))) == 1000
            assert usage.bytes_read == len(data)
        with pytest.raises(NotFoundError):
            list(read_pieces(store, "none"))

    def test_a_second_create_is_refused_and_changes_nothing(self, store: Store) -> None:
        store.create("a/0.json", b"first")
        with pytest.raises(AlreadyExistsError) as caught:
            store.create("a/0.json", b"second")
        assert caught.value.key == "a/0.json"
        assert store.read("a/0.json") == b"first"

    def test_an_object_is_created_from_a_file_as_from_its_bytes(self, store: Store) -> None:
        large = bytes(range(256)) * 40_000
        with TemporaryFile() as file:
            file.write(large)
            file.flush()
            with counted() as usage:
                store.create("a/large", file)
            with pytest.raises(AlreadyExistsError):
                store.create("a/large", file)
            store.create("a/again", file)
        assert (store.read("a/large"), store.read("a/again")) == (large, large)
        with counted() as written:
            store.write("a/bytes", large)
        assert usage.bytes_written == written.bytes_written

    def test_a_missing_object_is_named(self, store: Store) -> None:
        with pytest.raises(NotFoundError, match=r"a/missing\.json"):
            store.read("a/missing.json")
        store.delete("a/missing.json")
        store.write("a/there.json", b"1")
        store.delete("a/there.json")
        assert not store.exists("a/there.json")

    def test_a_listing_is_recursive_sorted_and_of_folders(self, store: Store) -> None:
        for key in ["b/2", "a/x/1", "a/1", "ab/1"]:
            store.write(key, b"12")
        assert [entry.key for entry in store.list()] == ["a/1", "a/x/1", "ab/1", "b/2"]
        assert [entry.key for entry in store.list("a")] == ["a/1", "a/x/1"] == [entry.key for entry in store.list("a/")]
        assert store.list("nothing") == []
        assert store.list("a")[0].size == 2

    def test_folders_are_named_without_what_is_below_them(self, store: Store) -> None:
        for key in [
            "runs/a-1/run.json",
            "runs/a-1/x/y",
            "runs/a-2/x/y/z",
            "runs/a-3",
            "runs/b-1/run.json",
            "other/a-1/x",
        ]:
            store.write(key, b"1")
        assert store.folders("runs/a-") == ["runs/a-1", "runs/a-2"]
        assert store.folders("runs/") == ["runs/a-1", "runs/a-2", "runs/b-1"]
        assert store.folders("run") == ["runs"]
        assert (store.folders("runs/c"), store.folders("nothing/")) == ([], [])

    def test_a_listing_shows_what_others_wrote_since(self, store: Store) -> None:
        assert store.list("a") == []
        copy_of(store).write("a/1", b"1")
        before = store.list("a")
        copy_of(store).write("a/1", b"2 and more")
        after = store.list("a")
        assert [len(before), len(after)] == [1, 1]
        assert before[0].etag != after[0].etag

    @pytest.mark.parametrize("key", ["", "/a", "a//b", "../a", "a b", "ä"])
    def test_a_key_that_may_not_be_written_is_refused(self, store: Store, key: str) -> None:
        for act in (store.write, store.create):
            with pytest.raises(StoreError, match="not allowed"):
                act(key, b"1")
        assert store.list() == []

    def test_of_many_threads_one_creates(self, store: Store) -> None:
        def create(number: int) -> bool:
            try:
                store.create("log/00000000.json", b"%d" % number)
            except AlreadyExistsError:
                return False
            return True

        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(create, range(16)))
        assert store.read("log/00000000.json") == b"%d" % won.index(True)
        assert won.count(True) == 1

    def test_a_store_can_be_pickled(self, store: Store) -> None:
        store.write("a", b"1")
        copy = copy_of(store)
        assert (copy.read("a"), copy.uri) == (b"1", store.uri)

    def test_the_probe_passes_and_leaves_nothing(self, store: Store) -> None:
        store.check()
        assert store.list() == []

    def test_what_is_temporary_is_listed_only_by_its_name(self, store: Store) -> None:
        store.write(".tmp/probe-1", b"x")
        store.write("a", b"x")
        assert [entry.key for entry in store.list()] == ["a"]
        assert [entry.key for entry in store.list(".tmp")] == [".tmp/probe-1"]
