from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from lsb.errors import UsageError
from lsb.ledger.publish import publish
from lsb.ledger.run import Run, open_log
from lsb.pictures.decoder import Decoder
from lsb.pictures.images import encode
from lsb.records import sha256
from lsb.store.local import LocalStore
from lsb.translation.shard import run_shard
from lsb.views.trace import Trace, run_of_output, trace
from tests.bombs import scan_bomb
from tests.ledger import EXECUTION, MODEL, Inverter, equipment, make_images, picture, start


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def run(store: LocalStore, tmp_path: Path) -> Run:
    """Two shards, a copy, a quarantined image, a failed one; the second snapshot holds what the first does not."""
    folder = make_images(tmp_path / "images", 6)
    (folder / "bad.png").write_bytes(b"not a picture")
    (folder / "copy.png").write_bytes((folder / "odd" / "0001.png").read_bytes())
    made, sources = start(store, folder, shard_size=3)
    (folder / "odd" / "0005.png").unlink()
    shards = made.shards()
    run_shard(store, made, shards[0], equipment(sources, Inverter(batch=1)), stop=lambda: True)
    publish(store, made, {}, b"page", partial=True)
    for shard in shards:
        run_shard(store, made, shard, equipment(sources))
    publish(store, made, {}, b"page")
    return made


def only(found: list[Trace]) -> Trace:
    (one,) = found
    return one


def test_everything_that_made_an_image_is_told(store: LocalStore, run: Run) -> None:
    found = only(trace(store, run.id, "even/0000.png"))
    assert (found.status, found.error, found.found_by, found.run) == ("ok", None, "source_key", run.id)
    assert found.source["sha256"] == sha256((Path(run.source) / "even/0000.png").read_bytes())
    assert found.model == {"id": "tiny", "revision": None, "digest": MODEL.digest}
    assert found.prompts["target"]["key"] == run.prompts["target"]
    assert (found.settings["bridge"]["tau"], found.settings["seed"]) == (2.3, "0")
    assert found.settings["transform_id"] == run.transform_id
    assert found.execution == {**EXECUTION, "batch_padding": 2}
    assert (found.made["working_width"], found.made["working_height"]) == (12, 8)
    assert found.made["tries"] == 1
    assert found.made["started"] <= found.made["finished"]


def test_by_a_copy_of_the_source_file(store: LocalStore, run: Run, tmp_path: Path) -> None:
    copied = tmp_path / "sent by somebody.png"
    copied.write_bytes((Path(run.source) / "even/0000.png").read_bytes())
    found = only(trace(store, run.id, str(copied)))
    assert (found.found_by, found.source["key"]) == ("source_sha256", "even/0000.png")
    assert only(trace(store, run.id, str(Path(run.source) / "bad.png"))).status == "quarantined"
    assert found.output is not None
    assert (found.output["file"], found.output["sha256"]) == ("intact", sha256(store.read(found.output["key"])))
    assert found.committed_by is not None
    entry = {entry.link.key: entry for entry in open_log(store, run, found.made["shard"]).entries()}[
        found.committed_by["key"]
    ]
    assert (entry.link.sha256, entry.attempt) == (found.committed_by["sha256"], found.made["attempt"])
    assert found.output["key"] in entry.digests()


def test_an_image_is_found_by_whatever_names_it(store: LocalStore, run: Run, tmp_path: Path) -> None:
    found = only(trace(store, run.id, "even/0002.png"))
    assert found.output is not None
    key = found.output["key"]
    file = tmp_path / "renamed.png"
    file.write_bytes(store.read(key))
    for what, by in {
        key: "output_key",
        f"{store.uri}/{key}": "output_key",
        f"s3://bucket/prefix/{key}": "output_key",
        found.record_id: "record_id",
        str(file): "output_sha256",
    }.items():
        assert only(trace(store, run.id, what)) == replace(found, found_by=by), what
    Image.open(file).save(tmp_path / "other.webp", lossless=True)
    assert only(trace(store, run.id, str(tmp_path / "other.webp"))) == replace(found, found_by="pixels_sha256")


def test_records_that_share_an_output_are_all_told(store: LocalStore, run: Run) -> None:
    one = only(trace(store, run.id, "copy.png"))
    assert one.output is not None
    shared = trace(store, run.id, one.output["key"])
    assert {found.source["key"] for found in shared} == {"copy.png", "odd/0001.png"}


def test_what_failed_or_was_set_aside_is_told_with_its_reason(store: LocalStore, run: Run) -> None:
    bad = only(trace(store, run.id, "bad.png"))
    assert (bad.status, bad.output, bad.committed_by) == ("quarantined", None, None)
    assert bad.error is not None
    assert bad.error.startswith("not_an_image: the bytes are in none")
    assert [snapshot["number"] for snapshot in bad.snapshots] == [0, 1]
    gone = only(trace(store, run.id, "odd/0005.png"))
    assert (gone.status, gone.output) == ("failed", None)
    assert gone.committed_by is not None


def test_snapshots_that_hold_the_image_are_named(store: LocalStore, run: Run) -> None:
    numbers = {
        tuple(snapshot["number"] for snapshot in only(trace(store, run.id, f"even/000{index}.png")).snapshots)
        for index in (0, 2, 4)
    } | {tuple(snapshot["number"] for snapshot in only(trace(store, run.id, "odd/0003.png")).snapshots)}
    assert numbers == {(0, 1), (1,)}


def test_a_changed_or_missing_output_is_said(store: LocalStore, run: Run) -> None:
    found = only(trace(store, run.id, "even/0000.png"))
    assert found.output is not None
    store.write(found.output["key"], b"other")
    changed = only(trace(store, run.id, found.output["key"])).output
    store.delete(found.output["key"])
    missing = only(trace(store, run.id, found.output["key"])).output
    assert changed is not None
    assert missing is not None
    assert (changed["file"], missing["file"]) == ("differs", "missing")


def test_what_is_not_of_the_run_is_a_usage_error(store: LocalStore, run: Run, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.png"
    stranger.write_bytes(encode(picture(77), "png"))
    (tmp_path / "text.txt").write_text("no image")
    for what, reason in {
        "nowhere.png": "no file",
        "bad\udcff.png": "no file",
        "0" * 32: "no file",
        str(stranger): "is not of this run",
        str(tmp_path / "text.txt"): "no image",
    }.items():
        with pytest.raises(UsageError, match=reason):
            trace(store, run.id, what)


def test_a_file_is_decoded_in_a_process_with_limits(
    store: LocalStore, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bomb.jpg").write_bytes(scan_bomb())
    with Decoder(cpu_seconds=0.5) as decoder:
        monkeypatch.setattr("lsb.views.trace.shared_decoder", lambda: decoder)
        with pytest.raises(UsageError, match="decode_timed_out"):
            trace(store, run.id, str(tmp_path / "bomb.jpg"))


@pytest.mark.parametrize(
    ("place", "run"),
    [
        ("out/store/runs/a-0123456789ab/shards/00000/f/x.png", "out/store/runs/a-0123456789ab"),
        ("s3://b/p/runs/a-0123456789ab/shards/00000/f/x.png", "s3://b/p/runs/a-0123456789ab"),
        ("runs/a-0123456789ab/shards/00000/f/x.png", "runs/a-0123456789ab"),
        ("/runs/a-0123456789ab/shards/00000/f/x.png", "/runs/a-0123456789ab"),
    ],
)
def test_an_output_says_which_run_it_is_of(place: str, run: str) -> None:
    assert run_of_output(place) == run


@pytest.mark.parametrize("place", ["x.png", "runs/a/x.png", "out/runs/a/shards/00000/x.png"])
def test_a_place_that_is_no_output_needs_the_run(place: str) -> None:
    with pytest.raises(UsageError, match="--run"):
        run_of_output(place)
