from __future__ import annotations

from pathlib import Path

import pytest

from lsb.errors import NotFoundError, StoreError, UsageError
from lsb.store.store import open_store, validate_key, validate_path


@pytest.mark.parametrize("key", ["", "/a", "a//b", "a/../b", "..", "./a", "a b", "a\\b", "ä", "a/", "a\n"])
def test_keys_that_may_not_be_written(key: str) -> None:
    with pytest.raises(StoreError, match="not allowed"):
        validate_key(key)


@pytest.mark.parametrize("key", ["a", "runs/x-0a/run.json", ".tmp/probe-1", "a..b/c_d"])
def test_keys_that_may_be_written(key: str) -> None:
    assert validate_key(key) == key


def test_names_of_sources_may_hold_anything_but_a_way_out() -> None:
    assert validate_path("my cats/Käthe (1).png") == "my cats/Käthe (1).png"
    for path in ["../a", "a/../../b", "/etc/passwd", "a\0b", ""]:
        with pytest.raises(StoreError):
            validate_path(path)


def test_a_missing_folder_is_not_found_unless_it_may_be_made(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no folder at"):
        open_store(str(tmp_path / "new"))
    open_store(str(tmp_path / "new"), create=True).write("a", b"1")
    assert open_store(f"file://{tmp_path}/new").read("a") == b"1"


def test_a_file_uri_with_escapes(tmp_path: Path) -> None:
    (tmp_path / "with space").mkdir()
    assert open_store(f"file://{tmp_path}/with%20space").uri == str(tmp_path / "with space")


def test_what_cannot_be_a_store_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is not a folder"):
        open_store(str(tmp_path / "file"))
    with pytest.raises(StoreError) as caught:
        open_store(str(tmp_path / "file" / "below"), create=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="unsupported scheme"):
        open_store("ftp://host/root")
