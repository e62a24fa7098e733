from __future__ import annotations

from pathlib import Path

import pytest

from lsb.errors import UsageError
from lsb.jobs import rerun
from lsb.jobs.rerun import Chosen, choose, what_is_left
from lsb.ledger.plan import read_plan
from lsb.ledger.publish import manifest_table
from lsb.ledger.run import Run, open_log
from lsb.ledger.selection import Selection
from lsb.store.local import LocalStore
from lsb.store.store import Store
from lsb.translation.shard import run_shard
from tests.ledger import Inverter, equipment, make_images, start

GONE = ("even/0002.png", "odd/0003.png")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = make_images(tmp_path / "images", 12)
    (folder / "bad.png").write_bytes(b"not a picture")
    return folder


@pytest.fixture
def run(store: LocalStore, folder: Path) -> Run:
    """Two sources were gone when their shards were done; the last shard has not been touched."""
    made, sources = start(store, folder, shard_size=4)
    kept = {key: (folder / key).read_bytes() for key in GONE}
    for key in GONE:
        (folder / key).unlink()
    for shard in made.shards()[:-1]:
        run_shard(store, made, shard, equipment(sources))
    for key, data in kept.items():
        (folder / key).write_bytes(data)
    return made


def keys(chosen: Chosen) -> set[str]:
    return {chosen.sources[record] for records in chosen.shards.values() for record in records}


def planned(store: Store, run: Run, shard: str) -> set[str]:
    return {row["key"] for row in read_plan(store, run).to_pylist() if row["shard"] == shard}


def failed(store: Store, run: Run) -> set[str]:
    rows = manifest_table(store, run, partial=True).to_pylist()
    return {row["source_key"] for row in rows if row["status"] == "failed"}


def test_by_default_failures_and_records_without_a_row(store: LocalStore, run: Run) -> None:
    chosen = choose(store, run, Selection())
    assert keys(chosen) == failed(store, run) | planned(store, run, "00002")
    assert set(chosen.why.values()) <= {"pending", "source_missing"}
    assert chosen.records == len(keys(chosen))
    assert chosen.final == 12 - chosen.records
    assert {tries for records in chosen.shards.values() for tries in records.values()} <= {0, 1}


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(statuses=("failed",)), "failed"),
        (Selection(codes=("source_missing",)), "failed"),
        (Selection(codes=("translate_error",)), "none"),
        (Selection(statuses=("pending",)), "pending"),
        (Selection(shards=("00002",)), "pending"),
        (Selection(match=("*",)), "both"),
    ],
)
def test_each_list_narrows_the_choice(store: LocalStore, run: Run, selection: Selection, expected: str) -> None:
    sets = {"failed": failed(store, run), "pending": planned(store, run, "00002"), "none": set()}
    sets["both"] = sets["failed"] | sets["pending"]
    assert keys(choose(store, run, selection)) == sets[expected]


def test_records_are_meant_by_id_and_by_pattern(store: LocalStore, run: Run) -> None:
    everything = choose(store, run, Selection())
    one = next(iter(everything.sources))
    assert keys(choose(store, run, Selection(names=(one,)))) == {everything.sources[one]}
    odd = keys(choose(store, run, Selection(names=(one,), match=("odd/*",))))
    assert odd == {key for key in keys(everything) if key.startswith("odd/")} | {everything.sources[one]}


def test_a_name_in_another_shard_is_somebody_and_is_not_chosen(store: LocalStore, run: Run) -> None:
    one = min(planned(store, run, "00002"))
    assert choose(store, run, Selection(names=(one,), shards=("00001",))).records == 0
    assert keys(choose(store, run, Selection(names=(one,), shards=("00002",)))) == {one}


def test_failures_that_are_not_retryable_are_left_out_unless_asked_for(
    store: LocalStore, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = choose(store, run, Selection())
    state = rerun._state

    def terminal(*arguments: object) -> object:
        table = state(*arguments)
        place = table.schema.get_field_index("retryable")
        flags = [why == "pending" for why in table["status"].to_pylist()]
        return table.set_column(place, "retryable", [flags])

    monkeypatch.setattr(rerun, "_state", terminal)
    left = choose(store, run, Selection())
    assert keys(left) == planned(store, run, "00002")
    assert left.terminal == len(failed(store, run)) > 0
    assert keys(choose(store, run, Selection(include_terminal=True))) == keys(everything)


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        (Selection(shards=("7",)), "has no shard 7; it has 3, from 00000"),
        (Selection(statuses=("ok",)), "status ok cannot be run again; allowed are failed and pending"),
        (Selection(match=("cats/*",)), r"no record that run \S+ translates has a source key that matches 'cats/\*'"),
        (Selection(names=("odd/*", "bad.png")), r"no record that run .* source key 'odd/\*', 'bad.png'; .* --match"),
    ],
)
def test_what_cannot_be_meant_is_refused(store: LocalStore, run: Run, selection: Selection, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        choose(store, run, selection)


def test_what_is_chosen_is_exactly_what_is_done(store: LocalStore, run: Run, folder: Path, tmp_path: Path) -> None:
    chosen = choose(store, run, Selection(match=("odd/*",)))
    before = {row["record_id"]: row for row in manifest_table(store, run, partial=True).to_pylist()}
    left = what_is_left(store, run, chosen)
    assert {shard: share.chosen for shard, share in left.items()} == chosen.shards
    assert [share.records for share in left.values()] == [*map(len, chosen.shards.values())]
    log = tmp_path / "side.log"
    for shard, records in chosen.shards.items():
        run_shard(store, run, shard, equipment(LocalStore(folder), Inverter(side_log=log)), chosen=records)
    after = {row["record_id"]: row for row in manifest_table(store, run, partial=True).to_pylist()}
    done = {record for record, row in after.items() if before.get(record) != row}
    assert done == {record for records in chosen.shards.values() for record in records}
    assert len(log.read_text().split()) == len(done)
    assert what_is_left(store, run, chosen) == {}
    assert all(
        row["tries"] == chosen.shards[row["shard"]][record] + 1 for record, row in after.items() if record in done
    )


def test_a_choice_that_was_tried_in_vain_is_not_left(store: LocalStore, run: Run, folder: Path) -> None:
    chosen = choose(store, run, Selection(statuses=("failed",)))
    for key in GONE:
        (folder / key).unlink()
    for shard, records in chosen.shards.items():
        run_shard(store, run, shard, equipment(LocalStore(folder)), chosen=records)
    assert what_is_left(store, run, chosen) == {}
    again = choose(store, run, Selection(statuses=("failed",)))
    assert again.shards == {shard: dict.fromkeys(records, 2) for shard, records in chosen.shards.items()}
    assert sum(len(open_log(store, run, shard).entries()) for shard in chosen.shards) == 2 * len(chosen.shards)
