from __future__ import annotations

import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from lsb.audit import verify
from lsb.ledger.log.commit_log import ShardLog
from lsb.ledger.publish import manifest_table
from lsb.ledger.run import Run, open_log, pending
from lsb.store.local import LocalStore
from lsb.store.store import Store
from lsb.translation.shard import run_shard
from lsb.views.status import status
from tests.ledger import Inverter, equipment, make_images, start, translate_all


def test_counts_follow_the_commits(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    folder = make_images(tmp_path / "images", 12)
    (folder / "bad.png").write_bytes(b"x")
    run, sources = start(store, folder, shard_size=5)

    now = status(store, run)
    assert now.planned == 13
    assert now.records == {"ok": 0, "quarantined": 1, "failed": 0, "erased": 0, "pending": 12}
    assert now.shards == {"done": 0, "partial": 0, "pending": 3}
    assert (now.first_commit, now.rate, now.seconds_left, now.finished) == (None, None, None, False)

    run_shard(store, run, "00000", equipment(sources, Inverter(batch=2)), stop=lambda: True)
    now = status(store, run)
    assert now.records["ok"] == 2
    assert now.shards == {"done": 0, "partial": 1, "pending": 2}

    translate_all(store, run, sources)
    now = status(store, run)
    assert now.records == {"ok": 12, "quarantined": 1, "failed": 0, "erased": 0, "pending": 0}
    assert now.shards == {"done": 3, "partial": 0, "pending": 0}
    assert now.finished
    assert now.first_commit is not None
    assert now.last_commit is not None
    assert now.seconds_left == 0


def test_the_rate_counts_from_the_start_of_the_work_and_leaves_pauses_out(tmp_path: Path) -> None:
    """Two parts of four images with a pause between them, of which the first takes most of the time."""
    store = LocalStore(tmp_path / "store")
    run, sources = start(store, make_images(tmp_path / "images", 9), shard_size=9)
    began = time.monotonic()
    run_shard(store, run, "00000", equipment(sources, Inverter(seconds=0.5)), stop=lambda: True)
    took = time.monotonic() - began
    now = status(store, run)
    assert now.first_commit == now.last_commit
    assert now.rate is not None
    assert 4 / took <= now.rate <= 4 / 0.5
    assert now.seconds_left == pytest.approx(5 / now.rate)

    time.sleep(1)
    began = time.monotonic()
    run_shard(store, run, "00000", equipment(sources, Inverter()), stop=lambda: True)
    took += time.monotonic() - began
    rate = status(store, run).rate
    assert rate is not None
    assert 8 / took <= rate <= 8 / 0.5


def test_what_several_did_at_once_counts_once(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    run, sources = start(store, make_images(tmp_path / "images", 4), shard_size=2)
    work = [
        threading.Thread(target=run_shard, args=(store, run, shard, equipment(sources, Inverter(seconds=0.5))))
        for shard in run.shards()
    ]
    began = time.monotonic()
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    took = time.monotonic() - began
    rate = status(store, run).rate
    assert rate is not None
    assert 4 / took <= rate <= 4 / 0.5


def test_without_an_image_there_is_no_rate(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    folder = make_images(tmp_path / "images", 2)
    run, sources = start(store, folder)
    for path in folder.rglob("*.png"):
        path.unlink()
    translate_all(store, run, sources)
    now = status(store, run)
    assert (now.records["failed"], now.rate, now.seconds_left) == (2, None, None)


def test_two_requests_a_shard_tell_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path / "store")
    run, sources = start(store, make_images(tmp_path / "images", 8), shard_size=1)
    translate_all(store, run, sources)
    asked: Counter[str] = Counter()

    def count(method: str) -> None:
        does = getattr(LocalStore, method)

        def counted(self: LocalStore, key: str, *more: Any) -> Any:
            asked.update(["shards" if "/shards/" in key else "others"])
            return does(self, key, *more)

        monkeypatch.setattr(LocalStore, method, counted)

    for method in ("read", "read_range", "read_pieces", "list", "exists", "folders"):
        count(method)
    assert status(store, run).records["ok"] == 8
    assert asked == {"shards": 2 * 8, "others": asked["others"]}
    few = asked["others"]
    asked.clear()
    assert pending(store, run) == {}
    assert asked == {"shards": 2 * 8, "others": asked["others"]}
    assert max(few, asked["others"]) <= 4


def committed_saying(place: Path, monkeypatch: pytest.MonkeyPatch, started: datetime | None) -> tuple[Store, Run]:
    """A run whose one entry says this of the beginning of its work."""
    store = LocalStore(place / "store")
    run, sources = start(store, make_images(place / "images", 4))
    append = ShardLog.append
    with monkeypatch.context() as patch:
        patch.setattr(ShardLog, "append", lambda self, *at, **part: append(self, *at, **{**part, "started": started}))
        translate_all(store, run, sources)
    return store, run


def test_what_a_version_before_committed_is_read_from_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its entries did not say when the work had begun."""
    store, run = committed_saying(tmp_path, monkeypatch, None)
    (entry,) = open_log(store, run, "00000").entries()
    assert "started" not in entry.link.document
    begun = pc.min(manifest_table(store, run)["started"]).as_py()
    assert status(store, run).rate == 4 / (entry.link.time - begun).total_seconds()
    assert {finding.kind for finding in verify(store, run.id, sample=0).findings} == {"incomplete"}


def test_an_entry_that_names_another_beginning_than_its_rows_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, run = committed_saying(tmp_path, monkeypatch, datetime(2026, 1, 1, tzinfo=UTC))
    texts = [finding.message for finding in verify(store, run.id, sample=0).findings]
    assert any("begun at another time than its log entry says" in text for text in texts)
