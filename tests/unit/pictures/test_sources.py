from __future__ import annotations

import math
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lsb.errors import NotFoundError, SourceError, StoreBusyError, StoreError
from lsb.ledger.dataset import read_records
from lsb.ledger.gates import Gates
from lsb.ledger.manifest import collect
from lsb.ledger.publish import manifest_table
from lsb.pictures import sources as sources_module
from lsb.pictures.choice import EXCLUDED, Choice
from lsb.pictures.encoding import encode
from lsb.pictures.ingest import ingest
from lsb.pictures.listed import Files, SourceFile
from lsb.pictures.optional import pictures_to_show
from lsb.pictures.sources import OTHER_SUFFIXES, described, list_sources, open_sources
from lsb.records import key_of, record_id
from lsb.store.local import LocalStore
from lsb.store.store import Entry, Store
from lsb.translation.shard import run_shard
from lsb.views.page_contents import gather_report
from lsb.views.page_html import render_report
from tests.ledger import equipment, make_images, picture, start


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield make_images(tmp_path / "images", 4)
    # pytest itself cannot remove what is below too long a path
    subprocess.run(["rm", "-rf", tmp_path / "images"], check=True)


def deep(folder: Path) -> None:
    """A picture below more folders than a path can name."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(22):
        os.mkdir("d" * 200, dir_fd=here)
        above, here = here, os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(above)
    os.close(os.open("x.png", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


def odd_entries(folder: Path) -> dict[str, int]:
    """One of each odd entry; what they count as."""
    (folder / "itself.png").symlink_to("itself.png")
    (folder / "annexed.png").symlink_to("nowhere")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "elsewhere").symlink_to("/")
    (folder / "above").symlink_to(folder)
    (folder / "@eaDir").mkdir()
    (folder / "@eaDir" / "preview.png").write_bytes(b"x")
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as one:
        here = os.open(folder, os.O_RDONLY)
        one.bind(f"/proc/self/fd/{here}/socket.png")
        os.close(here)
    deep(folder)
    for name in ("a.svg", "b.psd", "c.PSD", "README", ".hidden.png", "strange.s\x1b[31m", "x.toolongasuffix"):
        (folder / name).write_bytes(b"x")
    return {
        "links to nowhere": 2,
        "links to folders elsewhere": 1,
        "links to folders that are read already": 1,
        "excluded": 1,
        "pipes, sockets and devices": 3,
        "of too long paths": 1,
        ".svg": 1,
        ".psd": 2,
        "without a suffix": 1,
        "hidden": 1,
        OTHER_SUFFIXES: 2,
    }


@pytest.mark.parametrize("read", ["full", "listing"])
def test_every_other_picture_is_ok_beside_one_of_each_odd_entry(folder: Path, tmp_path: Path, read: str) -> None:
    expected = odd_entries(folder)
    store = LocalStore(tmp_path / "store")
    run, sources = start(store, folder, read=read)
    for shard in run.shards():
        run_shard(store, run, shard, equipment(sources))
    rows = manifest_table(store, run).to_pylist()
    assert [row["status"] for row in rows] == ["ok"] * 4
    assert run.left_out == expected
    assert described(run.left_out).startswith("3 pipes, sockets and devices, 2 .psd, 2 links to nowhere, 2 of ")
    page = gather_report(store, run, collect(store, run, gates=Gates()), None, sources)
    assert described(run.left_out) in render_report(page)


def test_a_folder_and_a_file_that_may_not_be_looked_at_are_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = os.scandir

    def scandir(path: str) -> object:
        if str(path).rstrip("/").endswith("odd"):
            raise PermissionError(13, "Permission denied", path)
        return of(path)

    monkeypatch.setattr(sources_module.os, "scandir", scandir)
    found = list_sources(open_sources(str(folder)))
    assert ([file.key for file in found.files], found.left_out) == (
        ["even/0000.png", "even/0002.png"],
        {"not readable": 1},
    )


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="asks as another user")
def test_another_user_may_not_enter_a_folder(folder: Path) -> None:
    (folder / "odd").chmod(0)
    for path in (folder, *folder.parents[:-2]):
        path.chmod(path.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    code = "import sys; from lsb.pictures.sources import *; print(list_sources(open_sources(sys.argv[1])).left_out)"
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", code, str(folder)]
    home = Path(sources_module.__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env={"PYTHONPATH": str(home)})
    assert done.stdout == "{'not readable': 1}\n", done.stderr


def test_a_fault_of_the_disk_is_not_taken_for_an_odd_entry(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = os.scandir

    def scandir(path: str) -> object:
        if str(path).rstrip("/").endswith("odd"):
            raise OSError(5, "Input/output error", path)
        return of(path)

    monkeypatch.setattr(sources_module.os, "scandir", scandir)
    with pytest.raises(SourceError, match=r"cannot list the images at .*: Input/output error"):
        list_sources(open_sources(str(folder)))


class Bucket:
    """A store that is no folder."""

    uri = "s3://bucket"

    def __init__(self, *keys: str) -> None:
        self.keys = keys

    def list(self, prefix: str = "") -> list[Entry]:
        return [Entry(key, 1, f"tag-{key}", 5.0) for key in self.keys]


def test_a_bucket_that_cannot_be_listed_now_may_be_later() -> None:
    class Busy(Bucket):
        def list(self, prefix: str = "") -> list[Entry]:
            raise StoreBusyError("try again")

    with pytest.raises(StoreBusyError):
        list_sources(Busy())  # type: ignore[arg-type]


def test_a_bucket_counts_as_a_folder_does() -> None:
    keys = ("a.png", "b/.git/x.png", "b/.git/y", "b/.z.png", "c.svg", "d", *(f"e.x{n}" for n in range(30)))
    found = list_sources(Bucket(*keys))  # type: ignore[arg-type]
    assert [file.key for file in found.files] == ["a.png"]
    assert (found.left_out["hidden"], found.left_out["without a suffix"], found.left_out[".svg"]) == (2, 1, 1)
    assert sum(found.left_out.values()) == 34
    assert len([kind for kind in found.left_out if kind.startswith(".")]) == sources_module.KINDS
    assert not found.one_time


def test_no_more_of_a_file_is_read_than_allowed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_module, "MAX_BYTES", 2000)
    sources = open_sources(str(folder))
    (folder / "odd" / "0001.png").write_bytes(b"\0" * 2001)
    with pytest.raises(StoreError, match="more than") as caught:
        sources.read("odd/0001.png")
    assert caught.value.of_object
    assert len(sources.read("odd/0003.png")) < 2000


def test_a_file_that_grows_while_it_is_read_ends(folder: Path, tmp_path: Path) -> None:
    growing = folder / "growing.png"
    growing.write_bytes(encode(picture(9), "png"))
    stopped = threading.Event()

    def grow() -> None:
        with growing.open("ab", buffering=0) as file:
            while not stopped.is_set():
                file.write(b"\0" * 4096)

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        dataset = ingest(open_sources(str(folder)), "x", store := LocalStore(tmp_path / "store"))
    finally:
        stopped.set()
        writer.join()
    rows = {row["key"]: row for row in read_records(store, dataset).to_pylist()}
    assert rows["growing.png"]["status"] in ("ok", "quarantined")
    assert sum(row["status"] == "ok" and row["sha256"] is not None for row in rows.values()) >= 4


def test_an_object_that_is_too_large_is_not_read(store: Store, store_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("large.png", b"\0" * 3000)
    store.write("small.png", b"\0" * 1000)
    monkeypatch.setattr(sources_module, "MAX_BYTES", 2000)
    sources = open_sources(store_uri)
    with pytest.raises(StoreError) as caught:
        sources.read("large.png")
    assert caught.value.of_object
    assert len(sources.read("small.png")) == 1000


class Archive:
    """A source as an archive is one: nothing keeps a name from being there twice."""

    uri = "archive:///pictures"

    def list(self) -> list[Entry]:
        return [Entry("a.png", 1, "one", 0.0), Entry("b.png", 1, "other", 0.0), Entry("a.png", 2, "third", 1.0)]

    def read(self, key: str) -> bytes:
        raise NotImplementedError


def test_a_source_that_holds_a_name_twice_is_refused() -> None:
    """Both would be one record, of which nobody could say which picture it was made from."""
    with pytest.raises(SourceError, match=r"archive:///pictures holds 'a\.png' twice"):
        list_sources(Archive())


def test_a_page_does_without_pictures_of_an_unknown_kind() -> None:
    """So that an image can be erased wherever its run's source lay."""
    assert pictures_to_show("tape:///night/7").list() == []


def keys(path: Path, choice: Choice = Choice()) -> list[str]:
    return [file.key for file in list_sources(open_sources(str(path)), choice).files]


@pytest.mark.parametrize("links", ["within", "all"])
def test_links_to_folders_are_followed_once_and_never_in_a_circle(folder: Path, tmp_path: Path, links: str) -> None:
    other = make_images(tmp_path / "other", 2)
    (folder / ".versions" / "7").mkdir(parents=True)
    (folder / "even" / "0000.png").rename(folder / ".versions" / "7" / "new.png")
    (folder / "latest").symlink_to(".versions/7")
    (folder / "newest").symlink_to(folder / "latest")  # the same folder by another link
    (folder / "odd" / "over").symlink_to("../even")
    (folder / "even" / "back").symlink_to("../odd")
    (folder / "outside").symlink_to(other)
    (folder / "odd" / "top").symlink_to(folder)
    choice = Choice(links=links)
    expected = ["even/0002.png", "even/back/0001.png", "even/back/0003.png", "latest/new.png"]
    expected += ["odd/0001.png", "odd/0003.png", "odd/over/0002.png"]
    beyond = ["outside/even/0000.png", "outside/odd/0001.png"] if links == "all" else []
    assert keys(folder, choice) == sorted(expected + beyond)
    left_out = list_sources(open_sources(str(folder)), choice).left_out
    assert left_out["links to folders that are read already"] >= 3
    assert left_out.get("links to folders elsewhere", 0) == (links == "within")
    sources = open_sources(str(folder))
    assert all(sources.read(key) for key in keys(folder, choice))


def test_many_links_to_many_links_end(tmp_path: Path) -> None:
    """Each folder holds two links to the next: a million paths to one picture."""
    for number in range(20):
        here = tmp_path / "a" / f"{number:02}"
        here.mkdir(parents=True)
        for name in ("x", "y"):
            (here / name).symlink_to(f"../{number + 1:02}")
    end = tmp_path / "a" / "20"
    end.mkdir()
    (end / "one.png").write_bytes(b"x")
    assert len(keys(tmp_path / "a")) == 2


@pytest.mark.parametrize(
    ("exclude", "expected"),
    [
        (EXCLUDED, ["a/new.png", "a/old.png", "b/new.png"]),
        ((), ["#recycle/c.png", ".hidden.png", "a/.thumbs/x.png", "a/new.png", "a/old.png", "b/new.png"]),
        ((".*", "#recycle", "old*"), ["a/new.png", "b/new.png"]),
        ((".*", "#recycle", "a"), ["b/new.png"]),
        ((".*", "#recycle", "a/*"), ["b/new.png"]),
        ((".*", "#recycle", "*/new.png"), ["a/old.png"]),
        ((".*", "#recycle", "NEW.png", "ew.png"), ["a/new.png", "a/old.png", "b/new.png"]),
    ],
)
def test_what_is_excluded_is_left_out_of_folder_and_bucket(
    tmp_path: Path, exclude: tuple[str, ...], expected: list[str]
) -> None:
    there = ["#recycle/c.png", ".hidden.png", "a/.thumbs/x.png", "a/new.png", "a/old.png", "b/new.png"]
    for key in there:
        path = tmp_path / "images" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    choice = Choice(exclude)
    found = list_sources(open_sources(str(tmp_path / "images")), choice)
    assert [file.key for file in found.files] == expected
    objects = list_sources(Bucket(*there), choice)  # type: ignore[arg-type]
    assert [file.key for file in objects.files] == expected
    assert ("hidden" in found.left_out, "excluded" in found.left_out) == (
        "hidden" in objects.left_out,
        "excluded" in objects.left_out,
    )


def test_a_folder_that_is_excluded_counts_as_one(tmp_path: Path) -> None:
    (tmp_path / "@eaDir" / "deep").mkdir(parents=True)
    for number in range(5):
        (tmp_path / "@eaDir" / "deep" / f"{number}.png").write_bytes(b"x")
    assert list_sources(open_sources(str(tmp_path))).left_out == {"excluded": 1}
    in_bucket = list_sources(Bucket(*(f"@eaDir/deep/{number}.png" for number in range(5))))  # type: ignore[arg-type]
    assert in_bucket.left_out == {"excluded": 1}


def test_a_picture_without_a_suffix_is_known_by_its_first_bytes(
    folder: Path, tmp_path: Path, store: Store, store_uri: str
) -> None:
    contents = {
        "0f3a9c": encode(picture(7), "png"),
        "deep/0f3a9d": encode(picture(8), "jpeg"),
        "README": b"BM, a text that begins like a bitmap",
        "empty": b"",
        "short": b"\x89P",
    }
    for key, data in contents.items():
        path = tmp_path / "nameless" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        store.write(f"nameless/{key}", data)
    for uri in (str(tmp_path / "nameless"), f"{store_uri}/nameless"):
        found = list_sources(open_sources(uri))
        assert [file.key for file in found.files] == ["0f3a9c", "deep/0f3a9d"], uri
        assert found.left_out == {"without a suffix": 3}


def test_a_source_that_shows_no_beginnings_leaves_out_what_has_no_suffix() -> None:
    found = list_sources(Bucket("a", "b.png"))  # type: ignore[arg-type]
    assert ([file.key for file in found.files], found.left_out) == (["b.png"], {"without a suffix": 1})


@pytest.mark.parametrize(
    ("error", "left_out"),
    [
        (NotFoundError("gone", key="a"), {"without a suffix": 1}),
        (StoreError("may not be read", key="a"), {"not readable": 1}),
        (StoreBusyError("try later", key="a"), None),
    ],
)
def test_a_beginning_that_cannot_be_read(error: StoreError, left_out: dict[str, int] | None) -> None:
    class Broken(Bucket):
        def read(self, key: str) -> bytes:
            raise error

        def beginning(self, entry: Entry, length: int) -> bytes:
            raise error

    if left_out is None:
        with pytest.raises(StoreBusyError):
            list_sources(Broken("a"))  # type: ignore[arg-type]
    else:
        assert list_sources(Broken("a")).left_out == left_out  # type: ignore[arg-type]


def files_of(count: int) -> list[SourceFile]:
    return [SourceFile(f"{n:03d}\udcff.png", n, f"tag-{n}", 1.5 * n, f"stamp-{n}", -math.inf) for n in range(count)]


def test_files_come_back_as_they_were_in_key_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsb.pictures.listed.AT_ONCE", 4)
    expected = files_of(11)
    files = Files(reversed(expected))
    assert [*files] == expected == files[:]
    assert (len(files), files[3], files[-1], files[2:9:3]) == (11, expected[3], expected[-1], expected[2:9:3])
    assert [*files.at([9, 0, 4, 4, 10])] == [expected[place] for place in (9, 0, 4, 4, 10)]
    assert files.record_ids.to_pylist() == [record_id(key_of(file.key)) for file in expected]
    with pytest.raises(IndexError):
        files[11]


def test_files_tell_doubles_and_a_time_that_all_have() -> None:
    assert (Files([]).twice, Files([]).one_time, len(Files([])), [*Files([])]) == (None, False, 0, [])
    one, other = files_of(2)
    assert Files([one]).one_time is False
    assert Files([one, other]).twice is None
    assert Files([other, one, one]).twice == one.key
    assert Files([one, other]).one_time is False
    assert Files([one, replace(other, modified=one.modified)]).one_time is True
    assert Files([one, replace(other, modified=one.modified, changed=2.0)]).one_time is False
