from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from shutil import copy2, copytree

import pytest

from lsb.errors import DecodingError, ImageError, SourceError, StoreBusyError, StoreError, TamperedError
from lsb.ledger import dataset as dataset_module
from lsb.ledger.dataset import read_records
from lsb.ledger.layout import known_file
from lsb.ledger.schemas import KNOWN, read_table
from lsb.pictures import ingest as ingest_module
from lsb.pictures import knowledge as knowledge_module
from lsb.pictures import sources as sources_module
from lsb.pictures.choice import Choice
from lsb.pictures.encoding import encode
from lsb.pictures.images import RULES, ImageInfo, decode
from lsb.pictures.ingest import ingest
from lsb.pictures.knowledge import GRAIN_SECONDS, doubt
from lsb.pictures.listed import Files
from lsb.pictures.sources import Listing, open_sources
from lsb.records import record_id, sha256
from lsb.store.local import LocalStore
from lsb.store.store import Entry, Store
from tests.ledger import make_images, picture


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_images(tmp_path / "images", 4)


def rows(store: LocalStore, folder: Path, **options: object) -> dict[str, dict]:
    dataset = ingest(open_sources(str(folder)), "cats", store, **options)
    return {row["key"]: row for row in read_records(store, dataset).to_pylist()}


def test_every_image_is_a_record_with_what_is_known_of_it(store: LocalStore, folder: Path) -> None:
    found = rows(store, folder)
    assert sorted(found) == ["even/0000.png", "even/0002.png", "odd/0001.png", "odd/0003.png"]
    row = found["odd/0001.png"]
    data = (folder / "odd" / "0001.png").read_bytes()
    assert row["record_id"] == record_id("odd/0001.png")
    assert (row["sha256"], row["bytes"]) == (sha256(data), len(data))
    assert (row["format"], row["width"], row["height"], row["orientation"]) == ("PNG", 12, 8, 1)
    assert row["status"] == "ok"


def test_records_are_in_order_of_their_ids(store: LocalStore, folder: Path) -> None:
    ids = [row["record_id"] for row in rows(store, folder).values()]
    assert ids == sorted(ids)


def test_the_same_files_give_the_same_version_and_others_another(store: LocalStore, folder: Path) -> None:
    sources = open_sources(str(folder))
    first = ingest(sources, "cats", store)
    assert ingest(sources, "cats", store) == first
    (folder / "even" / "0000.png").write_bytes(encode(picture(99), "png"))
    assert ingest(sources, "cats", store).version != first.version


def test_many_files_at_a_time_or_few_give_the_same(
    store: LocalStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exact_clock: None
) -> None:
    other, sources = LocalStore(tmp_path / "other"), Counting(folder)
    (folder / "copy.png").write_bytes((folder / "even" / "0000.png").read_bytes())
    (folder / "bad.png").write_bytes(b"no picture")
    whole = ingest(sources, "cats", store)
    for module in (ingest_module, knowledge_module, dataset_module):
        monkeypatch.setattr(module, "_AT_ONCE" if module is dataset_module else "AT_ONCE", 2)
    assert ingest(sources, "cats", other) == whole
    assert read_records(other, whole).equals(read_records(store, whole))
    file = known_file("cats", sources.uri)
    one, same = (read_table(place.read(file), KNOWN).drop_columns(["listed"]) for place in (store, other))
    assert one.equals(same)
    assert one.num_rows == 6
    for place in (store, other):
        assert reads(place, sources) == []
    (folder / "new.png").write_bytes(b"none either")
    assert reads(other, sources) == ["new.png"]
    assert read_table(other.read(file), KNOWN)["key"].to_pylist() == sorted([*one["key"].to_pylist(), "new.png"])


def test_what_cannot_be_decoded_is_quarantined_with_a_code(store: LocalStore, folder: Path) -> None:
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_bytes(b"not a picture")
    whole = (folder / "even" / "0000.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    found = rows(store, folder)
    assert {key: found[key]["error_code"] for key in ("empty.jpg", "text.png")} == {
        "empty.jpg": "empty_file",
        "text.png": "not_an_image",
    }
    assert found["cut.png"]["error_code"] in ("truncated", "corrupt")
    for key in ("empty.jpg", "text.png", "cut.png"):
        assert found[key]["status"] == "quarantined"
        assert str(folder) not in found[key]["error_detail"]
        assert found[key]["sha256"] == sha256((folder / key).read_bytes())
    assert ingest(open_sources(str(folder)), "cats", store).quarantined == 3


def test_what_is_listed_but_not_readable_is_left_to_its_shard(store: LocalStore, folder: Path) -> None:
    class Locked(LocalStore):
        def read(self, key: str) -> bytes:
            if key == "even/0000.png":
                reason = PermissionError(13, "Permission denied", str(self.root / key))
                raise StoreError("cannot read", key=key) from reason
            return super().read(key)

    dataset = ingest(Locked(folder), "cats", store)
    (row,) = [row for row in read_records(store, dataset).to_pylist() if row["sha256"] is None]
    assert (row["key"], row["status"], row["error_code"], row["width"]) == ("even/0000.png", "ok", None, None)
    assert rows(store, folder)["even/0000.png"]["width"] == 12


@pytest.mark.parametrize("code", ["decode_timed_out", "decode_out_of_memory", "decoder_died"])
def test_what_takes_too_much_is_left_to_its_shard_and_not_tried_again(
    store: LocalStore, folder: Path, monkeypatch: pytest.MonkeyPatch, code: str, exact_clock: None
) -> None:
    class Limited:
        tried = 0

        def inspect(self, data: bytes, rules: int = RULES) -> ImageInfo:
            if data == bomb:
                self.tried += 1
                raise DecodingError("too much", code=code)
            return decode(data)[1]

    bomb = (folder / "odd" / "0001.png").read_bytes()
    limited = Limited()
    monkeypatch.setattr(ingest_module, "shared_decoder", lambda: limited)
    for _ in range(2):
        row = rows(store, folder)["odd/0001.png"]
        assert (row["status"], row["error_code"], row["width"], row["sha256"]) == ("ok", None, None, sha256(bomb))
    assert limited.tried == 1


def test_a_transient_fault_of_the_sources_is_raised(store: LocalStore, folder: Path) -> None:
    class Busy(LocalStore):
        def read(self, key: str) -> bytes:
            raise StoreBusyError("try again")

    with pytest.raises(StoreBusyError):
        ingest(Busy(folder), "cats", store)


def test_copies_name_the_first_record_with_their_bytes(store: LocalStore, folder: Path) -> None:
    data = (folder / "even" / "0000.png").read_bytes()
    for name in ("copy.png", "again.png"):
        (folder / name).write_bytes(data)
    found = rows(store, folder)
    group = [found[key] for key in ("even/0000.png", "copy.png", "again.png")]
    leader = min(row["record_id"] for row in group)
    assert [row["duplicate_of"] for row in group] == [None if row["record_id"] == leader else leader for row in group]
    assert ingest(open_sources(str(folder)), "cats", store).duplicates == 2


def test_what_is_left_out_is_counted_by_kind_in_result_log_and_store(
    store: LocalStore, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("notes.txt", "a.SVG", "b.svg", "README", "._0001.png"):
        (folder / name).write_bytes(b"x")
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "a.png").write_bytes(b"x")
    dataset = ingest(open_sources(str(folder)), "cats", store)
    counts = {".svg": 2, "hidden": 2, ".txt": 1, "without a suffix": 1}
    assert (dataset.records, dataset.left_out) == (4, counts)
    assert "2 .svg, 2 hidden, 1 .txt, 1 without a suffix" in caplog.text
    (kept,) = [entry for entry in store.list() if entry.key.endswith("/left-out.json")]
    assert json.loads(store.read(kept.key))["left_out"] == counts
    for name in ("a.SVG", "b.svg"):
        (folder / name).unlink()
    again = ingest(open_sources(str(folder)), "cats", store)
    assert again.version == dataset.version
    assert (
        json.loads(store.read(kept.key))["left_out"]
        == again.left_out
        == {"hidden": 2, ".txt": 1, "without a suffix": 1}
    )


def test_what_ails_the_whole_store_blames_no_picture(store: LocalStore, folder: Path) -> None:
    class Expired(LocalStore):
        def read(self, key: str) -> bytes:
            raise StoreError("access denied (ExpiredToken)")

    with pytest.raises(StoreError, match="ExpiredToken"):
        ingest(Expired(folder), "cats", store)
    assert store.list() == []


def test_a_name_that_is_not_utf8_is_quarantined_under_a_key_that_no_other_name_has(
    store: LocalStore, folder: Path
) -> None:
    for name in (b"bad\xff.png", rb"bad\xff.png"):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(encode(picture(9), "png"))
    found = rows(store, folder)
    assert len({row["record_id"] for row in found.values()}) == len(found) == 6
    assert (found["bad//xff.png"]["status"], found["bad//xff.png"]["error_code"]) == ("quarantined", "name_not_utf8")
    assert (found[r"bad\xff.png"]["status"], found[r"bad\xff.png"]["record_id"]) == ("ok", record_id(r"bad\xff.png"))


def test_a_file_with_too_many_bytes_is_not_read(
    store: LocalStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "MAX_BYTES", 10)
    for read in ("full", "listing"):
        assert {row["error_code"] for row in rows(store, folder, read=read).values()} == {"too_many_bytes"}


def test_no_folder_and_no_images_are_refused(store: LocalStore, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no folder at"):
        open_sources(str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(SourceError, match="is not a folder"):
        open_sources(str(tmp_path / "file"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text("x")
    with pytest.raises(SourceError, match=r"no images at .* \(left out: 1 \.txt\); allowed are .*\.png"):
        ingest(open_sources(str(tmp_path / "empty")), "cats", store)


class Counting(LocalStore):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: list[str] = []

    def read(self, key: str) -> bytes:
        self.reads.append(key)
        return super().read(key)


def reads(store: LocalStore, sources: Counting, **options: object) -> list[str]:
    """The keys that an ingest reads."""
    sources.reads.clear()
    ingest(sources, "cats", store, **options)
    return sorted(sources.reads)


def keep_times(path: Path, data: bytes) -> None:
    """Put other bytes into a file, which has the same size and time of change afterwards."""
    before = path.stat()
    path.write_bytes(data[: before.st_size].ljust(before.st_size, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.usefixtures("exact_clock")
class TestWhatIsKnown:
    def test_only_what_changed_is_read_again(self, store: LocalStore, folder: Path) -> None:
        sources = Counting(folder)
        first = ingest(sources, "cats", store)
        assert reads(store, sources) == []
        assert ingest(sources, "cats", store) == first
        (folder / "new.png").write_bytes((folder / "even" / "0000.png").read_bytes())
        os.utime(folder / "odd" / "0001.png", (1, 1))
        assert reads(store, sources) == ["new.png", "odd/0001.png"]
        assert ingest(sources, "cats", store).duplicates == 1

    def test_it_may_be_deleted_at_any_time_or_be_damaged(self, store: LocalStore, folder: Path) -> None:
        sources = Counting(folder)
        first = ingest(sources, "cats", store)
        key = known_file("cats", sources.uri)
        for spoil in (lambda: store.delete(key), lambda: store.write(key, b"x"), lambda: store.delete(key)):
            spoil()
            assert len(reads(store, sources)) == 4
            assert ingest(sources, "cats", store) == first

    def test_other_bytes_of_the_same_size_and_time_are_seen(self, store: LocalStore, folder: Path) -> None:
        sources = Counting(folder)
        first = ingest(sources, "cats", store)
        keep_times(folder / "odd" / "0001.png", b"other")
        assert reads(store, sources) == ["odd/0001.png"]
        assert ingest(sources, "cats", store).version != first.version

    def test_it_is_tied_to_the_source(self, store: LocalStore, folder: Path, tmp_path: Path) -> None:
        ingest(Counting(folder), "cats", store)
        other = tmp_path / "other"
        copytree(folder, other, copy_function=copy2)
        keep_times(other / "odd" / "0001.png", b"other")
        assert len(reads(store, Counting(other))) == 4
        assert rows(store, other)["odd/0001.png"]["status"] == "quarantined"
        assert rows(store, folder)["odd/0001.png"]["status"] == "ok"

    def test_size_and_time_in_another_source_say_nothing_of_a_listing(
        self, store: LocalStore, folder: Path, tmp_path: Path
    ) -> None:
        ingest(Counting(folder), "cats", store, read="listing")
        other = copytree(folder, tmp_path / "other", copy_function=copy2)
        assert len(reads(store, Counting(other), read="listing")) == 4
        assert reads(store, Counting(other), read="listing") == []
        assert reads(store, Counting(folder), read="listing") == []

    def test_that_holds_for_what_comes_into_the_other_source_later_or_was_not_reached(
        self, store: LocalStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Away(Counting):
            def read(self, key: str) -> bytes:
                if key.startswith("odd/"):
                    raise StoreBusyError("try again")
                return super().read(key)

        ingest(Counting(folder), "cats", store, read="listing")
        other = copytree(folder, tmp_path / "other", copy_function=copy2)
        late = other / "odd" / "0003.png"
        late.rename(tmp_path / "0003.png")
        with monkeypatch.context() as then:
            then.setattr(knowledge_module, "SAVE_SECONDS", 0.0)
            with pytest.raises(StoreBusyError):
                ingest(Away(other), "cats", store, read="listing")
        assert reads(store, Counting(other), read="listing") == ["odd/0001.png"]
        (tmp_path / "0003.png").rename(late)
        assert reads(store, Counting(other), read="listing") == ["odd/0003.png"]

    def test_one_time_for_all_files_says_nothing(
        self, store: LocalStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sources = Counting(folder)
        # As on file systems that are written once, all at one time.
        of = sources_module.list_sources

        def at_one_time(given: Store, choice: Choice) -> Listing:
            found = of(given, choice)
            files = Files(replace(file, stamp="0", modified=0.0, changed=0.0) for file in found.files)
            return replace(found, files=files, one_time=files.one_time)

        monkeypatch.setattr(ingest_module, "list_sources", at_one_time)
        for read in ("full", "full", "listing", "listing"):
            assert len(reads(store, sources, read=read)) == 4

    def test_another_version_of_the_decoding_reads_all(
        self, store: LocalStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sources = Counting(folder)
        version = ingest(sources, "cats", store).version
        monkeypatch.setattr(ingest_module, "decoding_version", lambda rules: "2")
        assert reads(store, sources, read="listing") == []
        assert ingest(sources, "cats", store, read="listing").version == version
        assert len(reads(store, sources)) == 4
        assert reads(store, sources) == []

    def test_a_picture_that_can_be_decoded_by_now_is_no_longer_quarantined(
        self, store: LocalStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Old:
            def inspect(self, data: bytes, rules: int = RULES) -> ImageInfo:
                raise ImageError("too new", code="not_an_image")

        with monkeypatch.context() as then:
            then.setattr(ingest_module, "decoding_version", lambda rules: "1")
            then.setattr(ingest_module, "shared_decoder", Old)
            before = ingest(open_sources(str(folder)), "cats", store)
        after = ingest(open_sources(str(folder)), "cats", store)
        assert (before.version, before.quarantined, after.quarantined) == (after.version, 4, 0)
        assert set(read_records(store, before)["status"].to_pylist()) == {"quarantined"}
        assert set(read_records(store, after)["status"].to_pylist()) == {"ok"}
        assert ingest(open_sources(str(folder)), "cats", store) == after

    def test_all_is_read_anew_where_that_is_asked_for(self, store: LocalStore, folder: Path) -> None:
        sources = Counting(folder)
        first = ingest(sources, "cats", store)
        assert len(reads(store, sources, read="anew")) == 4
        assert ingest(sources, "cats", store, read="anew") == first
        assert reads(store, sources) == []

    def test_listings_after_it_know_what_was_read(self, store: LocalStore, folder: Path) -> None:
        sources = Counting(folder)
        listing = ingest(sources, "cats", store, read="listing")
        anew = ingest(sources, "cats", store, read="anew")
        assert listing.version != anew.version == ingest(sources, "cats", store).version
        assert reads(store, sources, read="listing") == []
        assert ingest(sources, "cats", store, read="listing") == anew

    def test_what_a_shard_found_otherwise_is_read_whatever_its_stamp(self, store: LocalStore, folder: Path) -> None:
        sources = Counting(folder)
        for read in ("full", "listing"):
            ingest(sources, "cats", store, read=read)
            doubt(store, "cats", sources.uri, record_id("odd/0001.png"))
            assert reads(store, sources, read=read) == ["odd/0001.png"]
            assert reads(store, sources, read=read) == []

    def test_a_doubt_stays_until_the_file_can_be_read(self, store: LocalStore, folder: Path) -> None:
        class Locked(LocalStore):
            def read(self, key: str) -> bytes:
                raise StoreError("cannot read", key=key)

        sources = Counting(folder)
        ingest(sources, "cats", store, read="listing")
        doubt(store, "cats", sources.uri, record_id("odd/0001.png"))
        ingest(Locked(folder), "cats", store, read="listing")
        assert reads(store, sources, read="listing") == ["odd/0001.png"]
        assert reads(store, sources, read="listing") == []

    def test_a_listing_reads_nothing_and_sees_changes(self, store: LocalStore, folder: Path) -> None:
        (folder / "text.png").write_bytes(b"not a picture")
        sources = Counting(folder)
        dataset = ingest(sources, "cats", store, read="listing")
        assert sources.reads == []
        table = read_records(store, dataset)
        assert table["sha256"].null_count == table.num_rows == 5
        assert dataset.quarantined == 0
        assert ingest(sources, "cats", store, read="listing") == dataset
        os.utime(folder / "text.png", (1, 1))
        assert ingest(sources, "cats", store, read="listing").version != dataset.version
        assert sources.reads == []

    def test_a_listing_reads_what_size_and_time_did_not_show(self, store: LocalStore, folder: Path) -> None:
        sources = Counting(folder)
        first = ingest(sources, "cats", store, read="listing")
        keep_times(folder / "odd" / "0001.png", b"other")
        assert reads(store, sources, read="listing") == ["odd/0001.png"]
        second = ingest(sources, "cats", store, read="listing")
        assert second.version != first.version
        assert reads(store, sources, read="listing") == []
        assert ingest(sources, "cats", store, read="listing") == second


def test_a_time_that_is_too_new_is_not_trusted(
    store: LocalStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = Counting(folder)
    clock = max(map(time_of, folder.rglob("*.png")))
    monkeypatch.setattr(sources_module.time, "time", lambda: clock)
    for passed, read in ((0.5, 4), (GRAIN_SECONDS + 1.5, 4), (0.1, 0)):
        clock += passed
        assert len(reads(store, sources)) == read
    ingest(sources, "dogs", store, read="listing")
    (folder / "new.png").write_bytes((folder / "even" / "0000.png").read_bytes())
    clock = time_of(folder / "new.png") + 1
    for passed, read in ((0, ["new.png"]), (GRAIN_SECONDS, ["new.png"]), (1, [])):
        clock += passed
        assert reads(store, sources, read="listing") == read


def test_an_object_that_was_put_again_with_the_same_etag_is_not_read_after_a_listing(store: LocalStore) -> None:
    class Bucket:
        uri = "s3://bucket"
        modified = 5.0

        def list(self, prefix: str = "") -> list[Entry]:
            return [Entry(key, 1, f"tag-{key}", self.modified) for key in ("a.png", "b.png")]

        def read(self, key: str) -> bytes:
            raise AssertionError("read")

    bucket = Bucket()
    first = ingest(bucket, "cats", store, read="listing")  # type: ignore[arg-type]
    bucket.modified = 6.0
    assert ingest(bucket, "cats", store, read="listing") == first  # type: ignore[arg-type]


def time_of(path: Path) -> float:
    return path.stat().st_ctime


def test_changed_records_are_tampered(store: LocalStore, folder: Path) -> None:
    dataset = ingest(open_sources(str(folder)), "cats", store)
    store.write(dataset.key, store.read(dataset.key)[:-1] + b"x")
    with pytest.raises(TamperedError, match=r"records\.parquet differs"):
        read_records(store, dataset)
