from __future__ import annotations

import os
from pathlib import Path

import pytest

from lsb.errors import UsageError
from lsb.ledger.dataset import read_records
from lsb.ledger.layout import dataset_records_again
from lsb.ledger.publish import publish
from lsb.ledger.schemas import RECORDS, write_table
from lsb.pictures.encoding import encode
from lsb.pictures.ingest import ingest
from lsb.pictures.sources import open_sources
from lsb.records import sha256
from lsb.store.local import LocalStore
from lsb.views.diff import Difference, compare
from tests.ledger import make_images, picture, start, translate_all


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_images(tmp_path / "images", 4)


def change(folder: Path) -> None:
    (folder / "new.png").write_bytes(encode(picture(9), "png"))
    (folder / "odd" / "0001.png").write_bytes(encode(picture(8), "png"))
    (folder / "even" / "0000.png").unlink()
    os.utime(folder / "even" / "0002.png", (1, 1))


EXPECTED = Difference(("new.png",), ("even/0000.png",), {"odd/0001.png": ("source",)}, 2)


def test_versions_of_a_data_set(store: LocalStore, folder: Path) -> None:
    versions = [ingest(open_sources(str(folder)), "cats", store).version]
    change(folder)
    versions.append(ingest(open_sources(str(folder)), "cats", store).version)
    before, after = (f"{store.uri}/datasets/cats/{version}" for version in versions)
    assert compare(before, after) == EXPECTED
    assert compare(after, after) == Difference((), (), {}, 4)


def test_of_a_version_that_is_decoded_in_another_way_the_newest_table_is_read(store: LocalStore, folder: Path) -> None:
    dataset = ingest(open_sources(str(folder)), "cats", store)
    rows = read_records(store, dataset).to_pylist()
    refused = {"status": "quarantined", "error_code": "corrupt", "error_detail": "corrupt: it contradicts itself"}
    (row,) = (row for row in rows if row["key"] == "odd/0001.png")
    row.update(refused)
    data = write_table(RECORDS.table(rows), RECORDS)
    again = dataset_records_again("cats", dataset.version, sha256(data))
    store.write(again, data)

    version = f"{store.uri}/datasets/cats/{dataset.version}"
    assert compare(f"{version}/records.parquet", version).changed == {"odd/0001.png": ("status",)}
    assert compare(f"{store.uri}/{again}", version).changed == {}
    with pytest.raises(UsageError, match=r"no data set datasets/cats/.*/records-0000"):
        compare(version, f"{version}/records-{'0' * 64}.parquet")


@pytest.mark.usefixtures("exact_clock")
def test_after_a_listing_another_time_is_a_change(store: LocalStore, folder: Path) -> None:
    versions = [ingest(open_sources(str(folder)), "cats", store, read="listing").version]
    change(folder)
    for read in ("listing", "full"):
        versions.append(ingest(open_sources(str(folder)), "cats", store, read=read).version)
    uris = [f"{store.uri}/datasets/cats/{version}" for version in versions]
    touched = {"odd/0001.png": ("source",), "even/0002.png": ("source",)}
    assert compare(uris[0], uris[1]).changed == compare(uris[0], uris[2]).changed == touched
    assert compare(uris[1], uris[2]) == Difference((), (), {}, 4)


def test_runs(store: LocalStore, folder: Path) -> None:
    (folder / "bad.png").write_bytes(b"not a picture")
    runs = []
    for tau in (2.3, 2.0):
        run, sources = start(store, folder, tau=tau)
        translate_all(store, run, sources)
        publish(store, run, {}, b"page")
        runs.append(f"{store.uri}/runs/{run.id}")
        if tau == 2.3:
            change(folder)
    found = compare(*runs)
    assert (found.added, found.vanished, found.unchanged) == (("new.png",), ("even/0000.png",), 0)
    assert found.changed == {
        "bad.png": ("transform",),
        "even/0002.png": ("transform",),
        "odd/0001.png": ("source", "transform", "output"),
        "odd/0003.png": ("transform",),
    }


def test_what_cannot_be_compared_is_refused(store: LocalStore, folder: Path) -> None:
    dataset = ingest(open_sources(str(folder)), "cats", store)
    run, _ = start(store, folder)
    version, unfinished = f"{store.uri}/datasets/cats/{dataset.version}", f"{store.uri}/runs/{run.id}"
    for before, after, words in (
        (version, unfinished, "not of one kind; give two data sets or two runs"),
        (unfinished, unfinished, "has published nothing yet"),
        (version, version.replace(dataset.version, "0" * 64), "no data set datasets/cats/0000"),
        ("somewhere", "else", "is not a run"),
    ):
        with pytest.raises(UsageError, match=words):
            compare(before, after)
