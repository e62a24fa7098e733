from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lsb.errors import ConfigError, FrozenSettingsError, TamperedError, UsageError
from lsb.ledger.dataset import read_records
from lsb.ledger.log.seal import seal
from lsb.ledger.plan import decide, read_plan
from lsb.ledger.run import check_frozen, create_run, open_run, pending
from lsb.pictures.sources import open_sources
from lsb.store.local import LocalStore
from lsb.translation.shard import run_shard
from tests.ledger import equipment, make_images, run_spec, start


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = make_images(tmp_path / "images", 11)
    (folder / "bad.png").write_bytes(b"not a picture")
    (folder / "copy.png").write_bytes((folder / "even" / "0002.png").read_bytes())
    return folder


def test_a_plan_gives_each_usable_record_a_shard_and_copies_their_first_ones(store: LocalStore, folder: Path) -> None:
    run, _ = start(store, folder, shard_size=4)
    plan = {row["key"]: row for row in read_plan(store, run).to_pylist()}
    assert (plan["bad.png"]["action"], plan["bad.png"]["shard"]) == ("quarantine", None)
    assert plan["bad.png"]["error_code"] == "not_an_image"
    assert plan["copy.png"]["shard"] == plan["even/0002.png"]["shard"]
    assert run.shards() == ["00000", "00001", "00002"]
    assert {row["shard"] for row in plan.values()} == {None, *run.shards()}
    leaders = [row for row in plan.values() if row["action"] == "translate" and row["duplicate_of"] is None]
    assert [row["shard"] for row in leaders] == ["00000"] * 4 + ["00001"] * 4 + ["00002"] * 3


def test_too_many_shards_are_refused_with_the_least_size(
    store: LocalStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = read_records(store, run_spec(store, open_sources(str(folder))).dataset)
    monkeypatch.setattr("lsb.ledger.plan.MAX_SHARDS", 5)
    with pytest.raises(ConfigError, match="makes 11 shards, at most 5 are allowed; give 3 or more"):
        decide(records, 1)
    decide(records, 3)


def test_the_same_command_finds_the_same_run(store: LocalStore, folder: Path) -> None:
    run, sources = start(store, folder)
    before = {entry.key: entry.etag for entry in store.list("runs")}
    assert create_run(store, run_spec(store, sources)) == run
    assert open_run(store, run.id) == run
    assert {entry.key: entry.etag for entry in store.list("runs")} == before


def test_a_plan_that_clean_up_took_for_one_without_a_run_is_put_back(store: LocalStore, folder: Path) -> None:
    run, sources = start(store, folder)
    plan = store.read(run.plan["key"])
    store.delete(run.plan["key"])
    with pytest.raises(TamperedError, match=r"plan-.* is missing"):
        read_plan(store, run)
    assert create_run(store, run_spec(store, sources)) == run
    assert store.read(run.plan["key"]) == plan
    store.write(run.plan["key"], b"another")
    create_run(store, run_spec(store, sources))
    with pytest.raises(TamperedError, match=r"plan-.* differs"):
        read_plan(store, run)


def test_other_data_settings_or_shard_sizes_are_other_runs(store: LocalStore, folder: Path) -> None:
    run, sources = start(store, folder)
    ids = {run.id, start(store, folder, shard_size=6)[0].id, start(store, folder, tau=2.0)[0].id}
    (folder / "new.png").write_bytes((folder / "copy.png").read_bytes())
    ids.add(create_run(store, run_spec(store, sources)).id)
    assert len(ids) == 4
    assert all(name.startswith("invert-") and len(name) == len("invert-") + 12 for name in ids)


def test_where_the_images_lie_is_not_frozen(store: LocalStore, folder: Path, tmp_path: Path) -> None:
    run, sources = start(store, folder)
    folder.rename(tmp_path / "moved")
    moved = replace(run_spec(store, open_sources(str(tmp_path / "moved"))), truth="elsewhere")
    assert create_run(store, moved).id == run.id
    assert sources.uri == run.source


def test_other_settings_than_the_frozen_ones_are_named(store: LocalStore, folder: Path) -> None:
    run, sources = start(store, folder)
    check_frozen(run, run_spec(store, sources))
    with pytest.raises(FrozenSettingsError) as caught:
        check_frozen(run, run_spec(store, sources, tau=2.0, shard_size=6))
    assert caught.value.fields == ["plan.shard_size", "transform.bridge.tau"]
    assert "plan.shard_size is 5, asked for 6" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_that_does_not_exist(store: LocalStore) -> None:
    with pytest.raises(UsageError, match="no run job-0123456789ab in"):
        open_run(store, "job-0123456789ab")


def test_a_run_whose_settings_give_another_id_is_tampered(store: LocalStore, folder: Path) -> None:
    run, _ = start(store, folder)
    key = f"runs/{run.id}/run.json"
    document = json.loads(store.read(key))
    del document["seal"]
    document["plan"]["shard_size"] = 7
    store.write(key, seal(document))
    with pytest.raises(TamperedError, match="another run id"):
        open_run(store, run.id)
    document["transform"]["seed"] = "1"
    store.write(key, seal(document))
    with pytest.raises(TamperedError, match="another run or transform"):
        open_run(store, run.id)


def test_pending_is_what_has_no_row(store: LocalStore, folder: Path) -> None:
    run, sources = start(store, folder)
    plan = read_plan(store, run).to_pylist()
    assert pending(store, run) == {shard: sum(row["shard"] == shard for row in plan) for shard in run.shards()}
    run_shard(store, run, "00001", equipment(sources))
    assert sorted(pending(store, run)) == ["00000", "00002"]


def test_a_run_without_usable_images_has_no_shards(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "bad.png").write_bytes(b"x")
    run, _ = start(store, tmp_path / "only")
    assert run.shards() == []
    assert pending(store, run) == {}
