from __future__ import annotations

from pathlib import Path

import pytest

from lsb.errors import TamperedError, UsageError
from lsb.jobs.erase import erase
from lsb.ledger import layout
from lsb.ledger.publish import publish
from lsb.ledger.selection import Selection
from lsb.store.local import LocalStore
from lsb.translation.shard import run_shard
from lsb.views.listing import ListedRun, list_runs
from tests.ledger import Inverter, equipment, make_images, start, translate_all


def only(store: LocalStore) -> ListedRun:
    (one,) = list_runs(store)
    return one


def test_a_run_from_its_plan_to_its_publication(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    run, sources = start(store, make_images(tmp_path / "images", 6), shard_size=3)
    now = only(store)
    assert (now.run, now.job, now.state, now.planned) == (run.id, run.job, "planned", 6)
    assert (now.counts, now.snapshot, now.last_commit, now.created) == ({}, None, None, run.created)

    run_shard(store, run, "00000", equipment(sources, Inverter(batch=2)), stop=lambda: True)
    assert only(store).state == "begun"
    publish(store, run, {}, b"page", partial=True)
    now = only(store)
    assert (now.state, now.counts["ok"], now.snapshot, now.current) == ("partial", 2, 0, True)

    translate_all(store, run, sources)
    assert only(store).state == "partial", "what is committed is not published yet"
    publish(store, run, {}, b"page")
    now = only(store)
    assert (now.state, now.counts["ok"], now.snapshot, now.current) == ("published", 6, 1, True)
    under = store.list(f"runs/{run.id}")
    assert (now.objects, now.bytes) == (len(under), sum(entry.size for entry in under))


def test_an_erasure_is_no_commit(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    run, sources = start(store, make_images(tmp_path / "images", 4), shard_size=2)
    translate_all(store, run, sources)
    publish(store, run, {"rows": []}, b"page")
    before = only(store)
    erase(store, run.id, Selection(names=("even/0000.png",)), "request 17")
    now = only(store)
    assert (now.state, now.last_commit) == ("published", before.last_commit)


def test_a_run_that_cannot_be_read_is_listed_with_the_reason(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    run, _ = start(store, make_images(tmp_path / "images", 2), shard_size=2)
    store.write(layout.run_file(run.id), store.read(layout.run_file(run.id)).replace(b"tiny", b"huge"))
    now = only(store)
    assert (now.state, type(now.error)) == ("unreadable", TamperedError)
    assert now.bytes > 0


def test_an_empty_store_and_a_run_in_place_of_one(tmp_path: Path) -> None:
    assert list_runs(LocalStore(tmp_path)) == []
    (tmp_path / "run.json").write_bytes(b"{}")
    with pytest.raises(UsageError, match="give the root"):
        list_runs(LocalStore(tmp_path))
