from __future__ import annotations

from pathlib import Path

from PIL import Image

from lsb.images import encode
from lsb.storage.store import open_store
from lsb.truths import Truths


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
