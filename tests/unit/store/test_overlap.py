from __future__ import annotations

import os
from pathlib import Path

import pytest

from lsb.errors import UsageError
from lsb.store.overlap import lies_within, refuse_overlap


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data" / "in").mkdir(parents=True)
    return tmp_path / "data"


def test_a_folder_lies_within_itself_and_those_above(data: Path) -> None:
    for outer in (data, data.parent, Path("/")):
        assert lies_within(str(data), str(outer))
    assert not lies_within(str(data), str(data / "in"))
    assert not lies_within(f"{data}-2", str(data))
    assert lies_within(str(data / "not" / "there" / "yet"), str(data))


def test_other_spellings_of_a_folder_are_the_same_folder(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data.parent / "link").symlink_to(data)
    monkeypatch.chdir(data.parent)
    for spelling in (
        f"{data}/",
        f"{data}/in/..",
        f"file://{data}",
        f"FILE://{data}/in",
        f"{data.parent}/link/new",
        "data",
        "./data/x",
    ):
        assert lies_within(spelling, str(data)), spelling
        assert lies_within(spelling, f"file://{data.parent}/link"), spelling
    assert lies_within("file:///a%20b/c", "/a b")


def test_two_names_of_one_folder_are_found_by_what_it_is(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on file systems that do not tell letters' case apart, and with bind mounts.
    stat = os.stat(data)
    of = Path.stat
    monkeypatch.setattr(Path, "stat", lambda self, **more: stat if self.name == "DATA" else of(self, **more))
    assert lies_within(str(data.parent / "DATA" / "store"), str(data))


def test_prefixes_of_a_bucket(tmp_path: Path) -> None:
    assert lies_within("s3://bucket/a/b", "s3://bucket/a")
    assert lies_within("s3://bucket/a", "S3://bucket/a/")
    assert lies_within("s3://bucket/a", "s3://bucket")
    assert not lies_within("s3://bucket/ab", "s3://bucket/a")
    assert not lies_within("s3://other/a", "s3://bucket/a")
    assert not lies_within("s3://bucket/a", str(tmp_path))
    assert not lies_within(str(tmp_path), "s3://bucket/a")


def test_overlaps_are_refused_in_either_direction(data: Path) -> None:
    elsewhere = {"source": f"{data.parent}/pictures", "truth": None}
    refuse_overlap("store", str(data), elsewhere)
    for inner, outer in ((data / "in", data), (data, data / "in"), (data, data)):
        with pytest.raises(UsageError, match=r"must not lie where it reads pictures"):
            refuse_overlap("store", str(inner), {**elsewhere, "source.path": str(outer)})
    with pytest.raises(UsageError, match=f"^store {data}/in lies in the source {data}; "):
        refuse_overlap("store", str(data / "in"), {"the source": str(data)})


def test_what_has_a_scheme_of_its_own_is_no_folder_of_this_machine(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    assert not lies_within("zip:///pictures.zip", str(data))
    assert not lies_within("zip://bucket/a", "s3://bucket")
    assert lies_within("zip:///pictures.zip", "ZIP:///pictures.zip")
