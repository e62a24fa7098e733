from __future__ import annotations

from pathlib import Path

import pytest

from lsb.shard_job import run_shard
from lsb.status import status
from lsb.storage.local import LocalStore
from tests.ledger import Inverter, make_images, start, translate_all, worker


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

    run_shard(store, run, "00000", worker(sources, Inverter(batch=2)), stop=lambda: True)
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
    assert now.rate == pytest.approx(10 / (now.last_commit - now.first_commit).total_seconds())
    assert now.seconds_left == 0
