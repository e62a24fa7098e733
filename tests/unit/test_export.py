from __future__ import annotations

from pathlib import Path

import pytest
from PIL import ImageOps

from lsb.errors import StoreError, TamperedError, UsageError
from lsb.export import Exported, export, target_names
from lsb.images import decode, encode
from lsb.publish import manifest_table
from lsb.shard_job import run_shard
from lsb.storage.local import LocalStore
from tests.ledger import make_images, picture, start, translate_all, worker


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_outputs_come_under_the_sources_names(store: LocalStore, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images", 3)
    (folder / "my cat.webp").write_bytes(encode(picture(9), "webp"))
    (folder / "copy.png").write_bytes((folder / "odd" / "0001.png").read_bytes())
    (folder / "bad.png").write_bytes(b"x")
    run, sources = start(store, folder)
    translate_all(store, run, sources)
    out = tmp_path / "new" / "out"
    assert export(store, run, out) == Exported(written=5, unchanged=0, without_output=1)
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert names == ["copy.png", "even/0000.png", "even/0002.png", "my cat.png", "odd/0001.png"]
    made = decode((out / "my cat.png").read_bytes())[0]
    assert made.tobytes() == ImageOps.invert(picture(9)).tobytes()
    assert (out / "copy.png").read_bytes() == (out / "odd" / "0001.png").read_bytes()


def test_an_export_goes_on_where_it_was_cut_off(store: LocalStore, tmp_path: Path) -> None:
    run, sources = start(store, make_images(tmp_path / "images", 6), shard_size=3)
    run_shard(store, run, "00000", worker(sources))
    assert export(store, run, tmp_path / "out") == Exported(written=3, unchanged=0, without_output=3)
    run_shard(store, run, "00001", worker(sources))
    assert export(store, run, tmp_path / "out") == Exported(written=3, unchanged=3, without_output=0)


def test_a_file_with_other_bytes_is_replaced_only_if_asked(store: LocalStore, tmp_path: Path) -> None:
    run, sources = start(store, make_images(tmp_path / "images", 1))
    translate_all(store, run, sources)
    out = tmp_path / "out"
    (out / "even").mkdir(parents=True)
    (out / "even" / "0000.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists with other bytes"):
        export(store, run, out)
    assert (out / "even" / "0000.png").read_bytes() == b"mine"
    assert export(store, run, out, overwrite=True).written == 1


def test_a_changed_output_is_not_exported(store: LocalStore, tmp_path: Path) -> None:
    run, sources = start(store, make_images(tmp_path / "images", 1))
    translate_all(store, run, sources)
    key = manifest_table(store, run).to_pylist()[0]["output_key"]
    store.write(key, encode(picture(5), "png"))
    with pytest.raises(TamperedError, match=r"\.png differs"):
        export(store, run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_destination_that_cannot_be_written(store: LocalStore, tmp_path: Path) -> None:
    run, sources = start(store, make_images(tmp_path / "images", 1))
    translate_all(store, run, sources)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StoreError, match=r"cannot write .*: Not a directory"):
        export(store, run, tmp_path / "out")


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (["a.png", "b.jpg"], ["a.png", "b.png"]),
        (["a.png", "a.jpg"], ["a.png.png", "a.jpg.png"]),
        (["a.png", "a.jpg", "a.png.gif"], ["a.png.png", "a.jpg.png", "a.png.gif.png"]),
        (["x/a.png", "y/a.png"], ["x/a.png", "y/a.png"]),
        (["A.png", "a.jpg"], ["A.png.png", "a.jpg.png"]),
        (["a.b.png"], ["a.b.png"]),
    ],
)
def test_names_do_not_meet(keys: list[str], names: list[str]) -> None:
    assert list(target_names(keys, ".png").values()) == names
