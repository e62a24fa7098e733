from __future__ import annotations

import csv
import errno
from collections import Counter
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageOps

from lsb.errors import StoreError, UsageError
from lsb.ledger.publish import manifest_table
from lsb.pictures.encoding import encode
from lsb.pictures.images import decode
from lsb.records import record_id
from lsb.store.local import LocalStore
from lsb.translation.shard import run_shard
from lsb.views.export import Exported, _folded, export, target_names
from tests.ledger import equipment, make_images, picture, start, translate_all


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
    run_shard(store, run, "00000", equipment(sources))
    assert export(store, run, tmp_path / "out") == Exported(written=3, unchanged=0, without_output=3)
    run_shard(store, run, "00001", equipment(sources))
    assert export(store, run, tmp_path / "out") == Exported(written=3, unchanged=3, without_output=0)


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_file_with_other_bytes_is_replaced_only_if_asked(store: LocalStore, tmp_path: Path) -> None:
    run, sources = start(store, make_images(tmp_path / "images", 2))
    translate_all(store, run, sources)
    out = tmp_path / "out"
    (out / "even").mkdir(parents=True)
    (out / "even" / "0000.png").write_bytes(b"mine")
    done = export(store, run, out)
    assert (done.written, list(done.not_written), done.exit_code) == (1, ["even/0000.png"], 2)
    assert "exists with other bytes" in str(done.not_written["even/0000.png"])
    assert files_in(out)["even/0000.png"] == b"mine"
    done = export(store, run, out, overwrite=True)
    assert (done.written, done.unchanged, done.exit_code) == (1, 1, 0)
    assert sorted(files_in(out)) == ["even/0000.png", "odd/0001.png"]  # and nothing half done


def test_a_changed_output_is_not_exported_and_the_rest_is(store: LocalStore, tmp_path: Path) -> None:
    run, sources = start(store, make_images(tmp_path / "images", 3))
    translate_all(store, run, sources)
    outputs = {row["source_key"]: row["output_key"] for row in manifest_table(store, run).to_pylist()}
    store.write(outputs["even/0000.png"], encode(picture(5), "png"))
    store.delete(outputs["odd/0001.png"])
    done = export(store, run, tmp_path / "out")
    assert (done.written, done.exit_code) == (1, 10)
    assert set(done.not_written) == {"even/0000.png", "odd/0001.png"}
    assert list(files_in(tmp_path / "out")) == ["even/0002.png"]


def test_a_destination_that_cannot_be_written(store: LocalStore, tmp_path: Path) -> None:
    run, sources = start(store, make_images(tmp_path / "images", 1))
    translate_all(store, run, sources)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StoreError, match=r"cannot write .*: (Not a directory|File exists)"):
        export(store, run, tmp_path / "out")


def test_a_full_disk_ends_it_at_once(store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, sources = start(store, make_images(tmp_path / "images", 3))
    translate_all(store, run, sources)
    calls = []

    def full(*arguments: object) -> None:
        calls.append(arguments)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lsb.views.export.name_exclusively", full)
    with pytest.raises(StoreError, match="No space left"):
        export(store, run, tmp_path / "out")
    assert (len(calls), files_in(tmp_path / "out")) == (1, {})


def test_one_name_that_cannot_be_written_stops_no_other(store: LocalStore, tmp_path: Path) -> None:
    """A file where a folder should be, a folder where a file should be, and a folder that is a link."""
    folder = make_images(tmp_path / "images", 4)
    (folder / "deep" / "down").mkdir(parents=True)
    (folder / "deep" / "down" / "x.png").write_bytes(encode(picture(9), "png"))
    (folder / "z.png").write_bytes(encode(picture(10), "png"))
    run, sources = start(store, folder)
    translate_all(store, run, sources)
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (out / "even" / "0002.png").mkdir(parents=True)
    (out / "odd").write_text("a file")
    (out / "deep").symlink_to(elsewhere)
    for overwrite in (False, True):
        done = export(store, run, out, overwrite=overwrite)
        assert set(done.not_written) == {"even/0002.png", "odd/0001.png", "odd/0003.png", "deep/down/x.png"}
        assert done.exit_code == 3
        assert "is a link" in str(done.not_written["deep/down/x.png"])
        assert sorted(files_in(out)) == ["even/0000.png", "odd", "z.png"]
    assert list(elsewhere.iterdir()) == []


def test_a_link_in_place_of_a_file_is_never_followed(store: LocalStore, tmp_path: Path) -> None:
    run, sources = start(store, make_images(tmp_path / "images", 1))
    translate_all(store, run, sources)
    out, mine = tmp_path / "out", tmp_path / "mine"
    mine.write_bytes(b"mine")
    (out / "even").mkdir(parents=True)
    (out / "even" / "0000.png").symlink_to(mine)
    assert export(store, run, out).exit_code == 2
    (tmp_path / "same").write_bytes(store.read(manifest_table(store, run).to_pylist()[0]["output_key"]))
    assert export(store, run, out, overwrite=True).written == 1
    assert mine.read_bytes() == b"mine"
    assert not (out / "even" / "0000.png").is_symlink()


def test_the_destination_itself_may_be_reached_through_a_link(store: LocalStore, tmp_path: Path) -> None:
    run, sources = start(store, make_images(tmp_path / "images", 1))
    translate_all(store, run, sources)
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    assert export(store, run, tmp_path / "out").written == 1
    assert list(files_in(tmp_path / "disk")) == ["even/0000.png"]


@pytest.mark.parametrize("place", ["images", "images/new", "store", "store/runs", "."])
def test_nothing_is_exported_to_where_pictures_are_read_or_kept(store: LocalStore, tmp_path: Path, place: str) -> None:
    run, sources = start(store, make_images(tmp_path / "images", 1))
    translate_all(store, run, sources)
    before = files_in(tmp_path)
    with pytest.raises(UsageError, match=r"the (export|store|source)"):
        export(store, run, tmp_path / place)
    assert files_in(tmp_path) == before


def test_names_that_meet_or_are_too_long_are_changed_and_listed(store: LocalStore, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    names = ["a.png", "Dir/a.png", "dir/a.png", "x" * 251 + ".png", "x" * 251 + ".gif", "b.png", "b.jpg", "zz.png"]
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encode(picture(index), "png"))
    run, sources = start(store, folder, image_format="webp")
    translate_all(store, run, sources)
    out = tmp_path / "out"
    done = export(store, run, out)
    assert (done.written, done.renamed, done.not_written) == (8, 6, {})
    assert done.names == str(out / f"{run.id}.names.csv")
    with Path(done.names).open(newline="") as file:
        header, *table = csv.reader(file)
    assert header == ["source_key", "exported_as"]
    assert {key for key, _ in table} == set(names) - {"a.png", "zz.png"}
    assert {"a.webp", "zz.webp", *(name for _, name in table)} == set(files_in(out)) - {f"{run.id}.names.csv"}
    outputs = {row["source_key"]: row["output_key"] for row in manifest_table(store, run).to_pylist()}
    assert all((out / name).read_bytes() == store.read(outputs[key]) for key, name in table)
    assert export(store, run, out) == replace(done, written=0, unchanged=8)


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (["a.png", "b.jpg"], ["a.png", "b.png"]),
        (["a.png", "a.jpg"], ["a.png.png", "a.jpg.png"]),
        (["a.png", "a.jpg", "a.png.gif"], ["a.png.png", "a.jpg.png", "a.png.gif.png"]),
        (["x/a.png", "y/a.png"], ["x/a.png", "y/a.png"]),
        (["A.png", "a.jpg"], ["A.png.png", "a.jpg.png"]),
        (["a.b.png"], ["a.b.png"]),
        (["Case.jpg", "case.jpg", "other.jpg"], ["Case~bc11ceb5.png", "case~722705dd.png", "other.png"]),
        (["Dir/a.png", "dir/a.png", "dir/b.png"], ["Dir/a~4b759044.png", "dir/a~dafef7e0.png", "dir/b.png"]),
        (["\u00e9.png", "e\u0301.png"], ["\u00e9~001c0a7a.png", "e\u0301~40aeae4f.png"]),
        (["a.png", "A.png", "a.jpg"], ["a~7f071235.png", "A~28e6ae4e.png", "a.jpg.png"]),
        (["a.png/b.png", "a.jpg"], ["a.png/b.png", "a.jpg.png"]),
        (["x" * 255], ["x" * 242 + "~" + record_id("x" * 255)[:8] + ".png"]),
        (["\u00e9" * 126 + ".gi"], ["\u00e9" * 121 + "~" + record_id("\u00e9" * 126 + ".gi")[:8] + ".png"]),
    ],
)
def test_names_do_not_meet(keys: list[str], names: list[str]) -> None:
    assert list(target_names(dict.fromkeys(keys, ".png")).values()) == names


_PARTS = st.sampled_from(["a", "A", "\u00e9", "e\u0301", "\u00df", "ss", "x" * 251, "a.png", "a~7f071235", "a.png.png"])
_KEYS = st.builds(
    lambda folders, stem, end: "/".join([*folders, stem + end]),
    st.lists(_PARTS, max_size=2),
    _PARTS,
    st.sampled_from([".png", ".PNG", ".jpg", ""]),
)


@given(st.sets(_KEYS, max_size=12))
def test_no_name_meets_another_and_none_is_changed_in_vain(found: set[str]) -> None:
    keys = sorted(key for key in found if not any(other.startswith(key + "/") for other in found))
    names = target_names(dict.fromkeys(keys, ".png"))
    folded = Counter(_folded(name) for name in names.values())
    folders = {_folded(str(folder)) for key in keys for folder in PurePosixPath(key).parents}
    assert all(count == 1 for count in folded.values())
    assert not folders & folded.keys()
    assert all(len(name.rpartition("/")[2].encode()) <= 255 for name in names.values())
    assert all(PurePosixPath(name).parent == PurePosixPath(key).parent for key, name in names.items())
    assert target_names(dict.fromkeys(reversed(keys), ".png")) == names
    plain = {key: str(PurePosixPath(key).with_suffix(".png")) for key in keys}
    meets = Counter(map(_folded, plain.values())) + Counter(_folded(name) for name in set(names.values()))
    for key in keys:
        place = _folded(plain[key])
        if names[key] != plain[key]:
            assert meets[place] > 1 or place in folders or len(plain[key].rpartition("/")[2].encode()) > 255
