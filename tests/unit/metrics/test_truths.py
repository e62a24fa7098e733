from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from lsb.errors import StoreBusyError
from lsb.ledger.gates import Gates
from lsb.ledger.manifest import collect
from lsb.metrics.truths import OptionalTruths, Truths
from lsb.pictures.encoding import encode
from lsb.store.local import LocalStore
from lsb.store.scratch import ScratchStore
from lsb.store.store import Entry, open_store
from lsb.views.page_contents import gather_report
from tests.ledger import make_images, start, translate_all


def test_the_same_name_with_any_suffix_is_the_truth(tmp_path: Path) -> None:
    def write(name: str, colour: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(Image.new("RGB", (2, 2), colour), "webp"))

    write("cats/a.webp", "red")
    write("cats/b.png", "green")
    write("cats/b.webp", "blue")
    (tmp_path / "cats/c.webp").write_bytes(b"no picture")
    truths = Truths(open_store(str(tmp_path)))
    assert truths.key_of("cats/a.png") == "cats/a.webp"
    assert truths.find("cats/a.png").getpixel((0, 0)) == (255, 0, 0)
    assert truths.key_of("cats/b.png") == "cats/b.png"  # the very same key comes first
    assert truths.find("cats/c.png") is None
    assert truths.find("dogs/a.png") is None


def test_captions_and_hidden_files_beside_a_truth_hide_it_not(tmp_path: Path) -> None:
    data = encode(Image.new("RGB", (2, 2), "red"), "png")
    for name in ("a.PNG", "a.txt", "a.xmp", "._a.png", "b.txt", "..png", "d.e/f"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    truths = Truths(open_store(str(tmp_path)))
    assert truths.key_of("a.jpg") == "a.PNG"
    assert truths.key_of("b.jpg") is None
    assert truths.find("a.jpg") is not None


def test_several_truths_of_one_name_are_said(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "b.png", "b.webp"):
        (tmp_path / name).write_bytes(encode(Image.new("RGB", (2, 2), "red"), "png"))
    truths = Truths(open_store(str(tmp_path)))
    assert truths.ambiguous(["a.png", "a.gif", "b.jpg", "c.png"]) == ["a.gif", "b.jpg"]
    assert truths.key_of("a.gif") == "a.png"


def test_the_digest_changes_with_the_pictures_and_with_nothing_else(tmp_path: Path) -> None:
    def digest() -> str:
        return Truths(open_store(str(tmp_path))).digest

    data = encode(Image.new("RGB", (2, 2), "red"), "png")
    (tmp_path / "a.png").write_bytes(data)
    before = digest()
    (tmp_path / "a.txt").write_text("a caption")
    assert digest() == before
    (tmp_path / "b.png").write_bytes(data)
    assert digest() != before


def test_whoever_can_do_without_does_where_the_folder_has_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as a disk that is unmounted after a job's start."""
    (tmp_path / "truths").mkdir()
    folder = open_store(str(tmp_path / "truths"))
    (tmp_path / "truths").rmdir()
    for run in range(2):
        truths = OptionalTruths(folder)
        with ThreadPoolExecutor(4) as workers:
            assert list(workers.map(truths.find, ["a.png", "b.png"] * 4)) == [None] * 8
        assert len(caplog.messages) == run + 1
    assert all("nothing is compared with a truth: cannot list the images at" in said for said in caplog.messages)
    store = LocalStore(tmp_path / "store")
    run, sources = start(store, make_images(tmp_path / "images", 2))
    translate_all(store, run, sources)
    assert all(
        example.truth is None
        for example in gather_report(store, run, collect(store, run, gates=Gates()), None, sources, folder).examples
    )


def test_a_folder_that_cannot_be_listed_now_is_asked_again() -> None:
    class Busy(ScratchStore):
        busy = True

        def list(self, prefix: str = "") -> list[Entry]:
            if self.busy:
                raise StoreBusyError("slow down")
            return []

    folder = Busy(None)
    truths = OptionalTruths(folder)
    for _ in range(2):
        with pytest.raises(StoreBusyError):
            truths.find("a.png")
    folder.busy = False
    assert truths.find("a.png") is None


def test_a_transient_fault_is_no_missing_truth(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(Image.new("RGB", (2, 2), "red"), "png"))

    class Busy(LocalStore):
        def read(self, key: str) -> bytes:
            raise StoreBusyError("slow down", key=key)

    with pytest.raises(StoreBusyError):
        OptionalTruths(Busy(tmp_path)).find("a.png")
