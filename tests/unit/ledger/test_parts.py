from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc
import pytest

from lsb.audit import verify
from lsb.errors import TamperedError, UnverifiableError
from lsb.jobs.gc import clean_up
from lsb.ledger import layout, parts, plan
from lsb.ledger.carrying import parent_reference
from lsb.ledger.log.seal import seal, unseal
from lsb.ledger.plan import read_plan, read_shard_plan
from lsb.ledger.publish import latest_snapshot, publish
from lsb.ledger.run import Run, create_run, open_run, pending
from lsb.ledger.schemas import PLAN, write_table
from lsb.records import canonical_json
from lsb.store.local import LocalStore
from lsb.store.store import Store, open_store
from lsb.views.export import export
from lsb.views.status import status
from tests.ledger import make_images, picture, run_spec, start, translate_all

IMAGES, SHARD_SIZE = 11, 4


class Watched(LocalStore):
    """Notes which bytes of which object are read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.whole: list[str] = []
        self.ranges: list[tuple[str, int, int]] = []

    def read(self, key: str) -> bytes:
        self.whole.append(key)
        return super().read(key)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        self.ranges.append((key, start, length))
        return super().read_range(key, start, length)


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "PART_ROWS", 2)


@pytest.fixture
def store(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = make_images(tmp_path / "images", IMAGES)
    for name in ("bad", "worse", "worst"):
        (folder / f"{name}.png").write_bytes(name.encode())
    (folder / "copy.png").write_bytes((folder / "even" / "0002.png").read_bytes())
    return folder


def of_one_table(tmp_path: Path, folder: Path) -> tuple[Store, Run]:
    """The same run with its plan as a single table."""
    store = LocalStore(tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "PART_ROWS", 1000)
        return store, start(store, folder, shard_size=SHARD_SIZE)[0]


def damage(store: LocalStore, key: str, place: int) -> None:
    data = bytearray(store.read(key))
    data[place] ^= 1
    store.write(key, bytes(data))


@pytest.mark.usefixtures("in_parts")
def test_readers_see_the_same_table_and_the_run_is_the_same(store: Watched, folder: Path, tmp_path: Path) -> None:
    run, _ = start(store, folder, shard_size=SHARD_SIZE)
    other_store, other = of_one_table(tmp_path, folder)
    assert run.id == other.id
    assert run.plan["key"].endswith(".parts")
    assert other.plan["key"].endswith(".parquet")
    assert read_plan(store, run).equals(read_plan(other_store, other))
    columns = ["key", "action"]
    assert read_plan(store, run, columns=columns).equals(read_plan(other_store, other, columns=columns))
    assert pending(store, run) == pending(other_store, other)
    for shard in run.shards():
        for sample in (10_000, 3):
            (one, limit), (same, wanted) = (
                read_shard_plan(*place, shard, sample) for place in ((store, run), (other_store, other))
            )
            assert one.equals(same)
            assert limit == wanted


def test_a_small_plan_leaves_no_trace_of_parts(store: Watched, folder: Path) -> None:
    run, _ = start(store, folder)
    assert store.read(run.plan["key"]) == write_table(read_plan(store, run), PLAN)
    assert not {"index", "sample"} & run.plan.keys()
    assert unseal(store.read(layout.run_file(run.id)), key="k", schema="lsb.run/1")


@pytest.mark.usefixtures("in_parts")
def test_a_shard_reads_the_index_and_its_own_part(store: Watched, folder: Path) -> None:
    run, sources = start(store, folder, shard_size=SHARD_SIZE)
    whole = len(store.read(run.plan["key"]))
    store.whole, store.ranges = [], []
    translate_all(store, run, sources)
    assert run.plan["key"] not in store.whole
    assert {key for key, _, _ in store.ranges} == {run.plan["key"]}
    index = run.plan["index"]
    assert store.ranges[::2] == [(run.plan["key"], index["offset"], index["length"])] * len(run.shards())
    assert len(set(store.ranges[1::2])) == len(run.shards())
    assert all(length < whole / 3 for _, _, length in store.ranges[1::2])


@pytest.mark.usefixtures("in_parts")
def test_a_run_of_parts_ends_as_any_other(store: Watched, folder: Path, tmp_path: Path) -> None:
    run, sources = start(store, folder, shard_size=SHARD_SIZE)
    translate_all(store, run, sources)
    publish(store, run, {}, b"page")
    verdict = verify(store, run.id)
    assert (verdict.exit_code, verdict.findings, verdict.orphans) == (0, (), ())
    assert status(store, run).records["pending"] == 0
    assert export(store, run, tmp_path / "out").written == IMAGES + 1
    clean_up(store, older_than=-1, least=-1)
    assert verify(store, run.id).exit_code == 0


@pytest.mark.usefixtures("in_parts")
def test_the_next_run_carries_from_a_plan_of_parts(store: Watched, folder: Path) -> None:
    run, sources = start(store, folder, shard_size=SHARD_SIZE)
    translate_all(store, run, sources)
    publish(store, run, {}, b"page")
    picture(99).save(folder / "new.png")
    snapshot = latest_snapshot(store, run)
    assert snapshot is not None
    spec = run_spec(store, open_store(str(folder)), shard_size=SHARD_SIZE)
    parent = parent_reference(snapshot, run.plan, same_decoding=True)
    following = create_run(store, plan_with(spec, parent))
    assert (following.plan["carried"], following.plan["quarantined"]) == (IMAGES + 1, 3)
    translate_all(store, following, sources)
    publish(store, following, {}, b"page")
    assert verify(store, following.id).exit_code == 0


def plan_with(spec: object, parent: object) -> object:
    from dataclasses import replace

    return replace(spec, parent=parent)  # type: ignore[type-var]


@pytest.mark.usefixtures("in_parts")
def test_a_plan_of_parts_is_put_back(store: Watched, folder: Path) -> None:
    run, sources = start(store, folder, shard_size=SHARD_SIZE)
    data = store.read(run.plan["key"])
    store.delete(run.plan["key"])
    assert create_run(store, run_spec(store, sources, shard_size=SHARD_SIZE)) == run
    assert store.read(run.plan["key"]) == data


def test_an_older_plan_is_put_back_in_its_own_form(
    store: Watched, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, sources = start(store, folder, shard_size=SHARD_SIZE)
    data = store.read(run.plan["key"])
    store.delete(run.plan["key"])
    monkeypatch.setattr(plan, "PART_ROWS", 2)
    create_run(store, run_spec(store, sources, shard_size=SHARD_SIZE))
    assert store.read(run.plan["key"]) == data


@pytest.mark.usefixtures("in_parts")
def test_clean_up_knows_a_plan_of_parts_without_a_run(store: Watched, folder: Path) -> None:
    run, _ = start(store, folder, shard_size=SHARD_SIZE)
    store.delete(layout.run_file(run.id))
    gone = clean_up(store, older_than=-1, least=-1)
    assert [leftover.key for leftover in gone.deleted if leftover.kind == "plans"] == [run.plan["key"]]


@pytest.mark.usefixtures("in_parts")
def test_one_changed_byte_anywhere_is_found_by_whoever_reads_it(store: Watched, folder: Path) -> None:
    run, _ = start(store, folder, shard_size=SHARD_SIZE)
    key, index = run.plan["key"], run.plan["index"]
    part = next(part for part in parts._parts(store.read(key)[index["offset"] :][: index["length"]], key, PLAN))
    for place in (part.offset + part.length // 2, index["offset"] + 50, -1, -12):
        damage(store, key, place)
        with pytest.raises(TamperedError, match=r"plan-.* differs"):
            read_plan(store, run)
        if place >= 0:
            with pytest.raises(TamperedError, match=r"plan-.* differs"):
                read_shard_plan(store, run, "00000", plan.SAMPLE)
        if place == part.offset + part.length // 2:  # others do not read it
            assert read_shard_plan(store, run, "00001", plan.SAMPLE)[0].num_rows == SHARD_SIZE
        assert verify(store, run.id).exit_code == 10
        damage(store, key, place)
    store.write(key, store.read(key)[:100])
    with pytest.raises(TamperedError, match=r"plan-.* differs"):
        read_shard_plan(store, run, "00000", plan.SAMPLE)
    store.delete(key)
    with pytest.raises(TamperedError, match=r"plan-.* is missing"):
        read_shard_plan(store, run, "00000", plan.SAMPLE)


def forged(store: LocalStore, run: Run, **changes: object) -> Run:
    """The run with other entries about its plan, under a seal that fits."""
    name = layout.run_file(run.id)
    document = unseal(store.read(name), key=name, schema="lsb.run/2")
    document["plan"] |= changes
    store.write(name, seal(document))
    return open_run(store, run.id)


@pytest.mark.usefixtures("in_parts")
def test_a_sample_or_an_index_that_does_not_follow_is_found(store: Watched, folder: Path) -> None:
    run, _ = start(store, folder, shard_size=SHARD_SIZE)
    sample, index = run.plan["sample"], run.plan["index"]
    changed = forged(store, run, sample={**sample, "limit": "0" * 32})
    assert "another sample" in verify(store, changed.id).findings[0].message
    other = forged(store, run, sample=sample, index={**index, "offset": index["offset"] - 1})
    assert any("another index" in finding.message for finding in verify(store, other.id).findings)
    with pytest.raises(TamperedError, match="another index"):
        read_shard_plan(store, other, "00000", plan.SAMPLE)


@pytest.mark.usefixtures("in_parts")
def test_a_part_holds_rows_of_its_shard_alone(store: Watched, folder: Path) -> None:
    run, _ = start(store, folder, shard_size=SHARD_SIZE)
    table = read_plan(store, run)
    swapped = {"00000": "00001", "00001": "00000"}
    pieces = [(swapped.get(name, name), table.filter(pc.equal(table["shard"], name))) for name in run.shards()]
    data, index = parts.join(pieces, PLAN)
    key = layout.plan_file(run.id, parts.sha256(data), of_parts=True)
    store.write(key, data)
    other = forged(store, run, key=key, sha256=parts.sha256(data), index=index)
    for read in (lambda: read_plan(store, other), lambda: read_shard_plan(store, other, "00000", plan.SAMPLE)):
        with pytest.raises(TamperedError, match="rows of another shard"):
            read()


def test_an_index_of_another_schema_is_refused() -> None:
    table = PLAN.empty()
    data, _ = parts.join([("a", table)], PLAN)
    for old, new in ((b"lsb.parts/1", b"lsb.parts/9"), (b"lsb.plan/1", b"lsb.plan/9")):
        with pytest.raises(UnverifiableError, match=r"expected lsb.parts/1 of lsb.plan/1"):
            list(parts.parts_of(data.replace(old, new), "key", PLAN))


def test_an_object_that_only_ends_like_one_of_parts_is_tampered() -> None:
    for index in (b"", b"[]", canonical_json({"schema": "lsb.parts/1"}), b"\xff"):
        with pytest.raises(TamperedError):
            list(parts.parts_of(index + parts._TAIL.pack(len(index), parts._END), "key", PLAN))
    with pytest.raises(TamperedError):
        list(parts.parts_of(parts._TAIL.pack(1 << 40, parts._END), "key", PLAN))


def test_where_ranges_are_wrong_the_object_is_read_once(store: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    data, index = parts.join([(None, PLAN.empty())] * 5, PLAN)
    store.write("key", data)
    monkeypatch.setattr(Watched, "read_range", lambda self, key, start, length: b"x" * length)
    assert len(list(parts.read_part(store, "key", parts.sha256(data), index, None, PLAN))) == 5
    assert store.whole == ["key"]


def test_of_a_name_that_no_part_has_there_is_nothing(store: Watched) -> None:
    data, index = parts.join([("a", PLAN.empty())], PLAN)
    store.write("key", data)
    assert list(parts.read_part(store, "key", parts.sha256(data), index, "b", PLAN)) == []
