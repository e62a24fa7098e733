from __future__ import annotations

import os
from pathlib import Path

import pytest

from lsb import ingest as ingest_module
from lsb.errors import SourceError, StoreBusyError, StoreError, TamperedError
from lsb.images import encode
from lsb.ingest import ingest, open_sources, read_records
from lsb.records import record_id, sha256
from lsb.storage.local import LocalStore
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


def test_what_is_listed_but_not_readable_is_quarantined_without_its_path(store: LocalStore, folder: Path) -> None:
    class Locked(LocalStore):
        def read(self, key: str) -> bytes:
            if key == "even/0000.png":
                reason = PermissionError(13, "Permission denied", str(self.root / key))
                raise StoreError("cannot read", key=key) from reason
            return super().read(key)

    dataset = ingest(Locked(folder), "cats", store)
    (row,) = [row for row in read_records(store, dataset).to_pylist() if row["status"] == "quarantined"]
    assert row["error_code"] == "unreadable_source"
    assert row["error_detail"] == "[Errno 13] Permission denied: <path>"
    assert row["sha256"] is None


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


def test_other_and_hidden_files_are_ignored_and_counted(
    store: LocalStore, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "notes.txt").write_text("x")
    (folder / "._0001.png").write_bytes(b"x")
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "a.png").write_bytes(b"x")
    with caplog.at_level("INFO"):
        assert len(rows(store, folder)) == 4
    assert "3 other files ignored" in caplog.text


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
    assert {row["error_code"] for row in rows(store, folder).values()} == {"too_many_bytes"}


def test_no_folder_and_no_images_are_refused(store: LocalStore, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no folder at"):
        open_sources(str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(SourceError, match="is not a folder"):
        open_sources(str(tmp_path / "file"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text("x")
    with pytest.raises(SourceError, match=r"no images at .* \(1 files in all\); allowed are .*\.png"):
        ingest(open_sources(str(tmp_path / "empty")), "cats", store)


class Counting(LocalStore):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: list[str] = []

    def read(self, key: str) -> bytes:
        self.reads.append(key)
        return super().read(key)


def test_a_second_ingest_reads_only_what_changed(store: LocalStore, folder: Path) -> None:
    sources = Counting(folder)
    first = ingest(sources, "cats", store)
    sources.reads.clear()
    assert ingest(sources, "cats", store) == first
    assert sources.reads == []
    (folder / "new.png").write_bytes((folder / "even" / "0000.png").read_bytes())
    os.utime(folder / "odd" / "0001.png", (1, 1))
    second = ingest(sources, "cats", store)
    assert sorted(sources.reads) == ["new.png", "odd/0001.png"]
    assert second.duplicates == 1


def test_a_listing_reads_nothing_and_sees_changes(store: LocalStore, folder: Path) -> None:
    (folder / "text.png").write_bytes(b"not a picture")
    sources = Counting(folder)
    dataset = ingest(sources, "cats", store, read="listing")
    assert sources.reads == []
    table = read_records(store, dataset)
    assert table["sha256"].null_count == table.num_rows == 5
    assert dataset.quarantined == 0
    os.utime(folder / "text.png", (1, 1))
    assert ingest(sources, "cats", store, read="listing").version != dataset.version


def test_changed_records_are_tampered(store: LocalStore, folder: Path) -> None:
    dataset = ingest(open_sources(str(folder)), "cats", store)
    store.write(dataset.key, store.read(dataset.key)[:-1] + b"x")
    with pytest.raises(TamperedError, match=r"records\.parquet differs"):
        read_records(store, dataset)
