from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from lsb.errors import AlreadyExistsError, IncompleteError
from lsb.ledger.gates import Gates
from lsb.ledger.log.snapshots import current_run
from lsb.ledger.publish import latest_snapshot, manifest_table, publish
from lsb.ledger.run import Run
from lsb.ledger.schemas import MANIFEST, read_table
from lsb.records import sha256
from lsb.store.local import LocalStore
from lsb.store.store import Data, Store
from lsb.translation.shard import run_shard
from lsb.views.page_contents import page_of
from tests.ledger import equipment, make_images, start, translate_all

METRICS = {"kid": 1.5, "fid": None}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def begun(store: LocalStore, tmp_path: Path) -> tuple[Run, Store]:
    folder = make_images(tmp_path / "images", 7)
    (folder / "bad.png").write_bytes(b"not a picture")
    return start(store, folder, shard_size=4)


def test_the_manifest_has_a_row_for_every_planned_record(store: LocalStore, begun: tuple[Run, Store]) -> None:
    run, sources = begun
    translate_all(store, run, sources)
    table = manifest_table(store, run)
    ids = table["record_id"].to_pylist()
    assert ids == sorted(ids)
    assert len(ids) == 8
    (bad,) = [row for row in table.to_pylist() if row["source_key"] == "bad.png"]
    assert (bad["status"], bad["error_code"], bad["tries"], bad["shard"]) == ("quarantined", "not_an_image", 0, None)
    assert bad["flags"] is None


def test_missing_rows_are_incomplete_unless_allowed(store: LocalStore, begun: tuple[Run, Store]) -> None:
    run, sources = begun
    run_shard(store, run, "00000", equipment(sources))
    with pytest.raises(IncompleteError, match=r"3 of 8 planned records of run .* lack rows; run it again"):
        publish(store, run, METRICS, b"page")
    with pytest.raises(IncompleteError):
        manifest_table(store, run)
    assert latest_snapshot(store, run) is None
    assert publish(store, run, METRICS, b"page", partial=True).counts == {"ok": 4, "quarantined": 1}


def test_a_snapshot_names_everything_by_digest(store: LocalStore, begun: tuple[Run, Store]) -> None:
    run, sources = begun
    translate_all(store, run, sources)
    snapshot = publish(store, run, METRICS, b"<html>page")
    assert snapshot == latest_snapshot(store, run)
    assert snapshot.folder == f"runs/{run.id}/snapshots/00000000"
    assert (snapshot.counts, snapshot.planned) == ({"ok": 7, "quarantined": 1}, 8)
    assert {key: sha256(store.read(key)) for key in snapshot.digests()} == snapshot.digests()
    assert store.read(snapshot.report_key) == b"<html>page"
    assert json.loads(store.read(snapshot.metrics_key)) == METRICS
    assert read_table(store.read(snapshot.manifest_key), MANIFEST).equals(manifest_table(store, run))
    assert sorted(snapshot.heads) == ["00000", "00001"]
    assert current_run(store, "invert") == run.id


def test_the_attestation_is_a_statement_in_an_unsigned_envelope(store: LocalStore, begun: tuple[Run, Store]) -> None:
    run, sources = begun
    translate_all(store, run, sources)
    snapshot = publish(store, run, METRICS, b"page")
    envelope = json.loads(store.read(snapshot.attestation_key))
    assert (envelope["payloadType"], envelope["signatures"]) == ("application/vnd.in-toto+json", [])
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicate"]["assurance"] == "integrity only"
    subjects = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    heads = {f"runs/{run.id}/shards/{shard}/log/00000000.json" for shard in ("00000", "00001")}
    assert subjects.keys() >= {snapshot.manifest_key, snapshot.metrics_key, *heads}
    assert all(sha256(store.read(name)) == digest for name, digest in subjects.items())


def test_publishing_again_with_nothing_new_writes_nothing(store: LocalStore, begun: tuple[Run, Store]) -> None:
    run, sources = begun
    translate_all(store, run, sources)
    first = publish(store, run, METRICS, b"page of today")
    before = {entry.key: entry.etag for entry in store.list()}
    assert publish(store, run, METRICS, b"page of tomorrow") == first
    assert {entry.key: entry.etag for entry in store.list()} == before


def test_new_metrics_gates_or_rows_are_a_new_snapshot(store: LocalStore, begun: tuple[Run, Store]) -> None:
    run, sources = begun
    run_shard(store, run, "00000", equipment(sources))
    numbers = [publish(store, run, METRICS, b"page", partial=True).number]
    numbers.append(publish(store, run, {"kid": 1.0}, b"page", partial=True).number)
    numbers.append(publish(store, run, {"kid": 1.0}, b"page", partial=True, gates=Gates({"flat_output": 0.9})).number)
    translate_all(store, run, sources)
    last = publish(store, run, {"kid": 1.0}, b"page", gates=Gates({"flat_output": 0.9}))
    assert [*numbers, last.number] == [0, 1, 2, 3]
    flags = {
        tuple(row["flags"]) for row in read_table(store.read(last.manifest_key), MANIFEST).to_pylist() if row["flags"]
    }
    assert flags == {("flat_output",)}


def test_a_job_whose_entry_is_missing_gets_it(store: LocalStore, begun: tuple[Run, Store]) -> None:
    run, sources = begun
    translate_all(store, run, sources)
    publish(store, run, METRICS, b"page")
    store.delete("jobs/invert/log/00000000.json")
    publish(store, run, METRICS, b"page")
    assert current_run(store, "invert") == run.id


@pytest.mark.parametrize("broken", ["quarantined", "failed"])
def test_a_run_without_a_picture_never_takes_the_jobs_name(store: LocalStore, tmp_path: Path, broken: str) -> None:
    good = make_images(tmp_path / "good", 2)
    first, sources = start(store, good)
    translate_all(store, first, sources)
    publish(store, first, METRICS, b"page")
    folder = make_images(tmp_path / "bad", 3)
    if broken == "quarantined":
        for path in folder.rglob("*.png"):
            path.write_bytes(b"no picture")
    run, sources = start(store, folder)
    if broken == "failed":
        for path in folder.rglob("*.png"):
            path.unlink()
    translate_all(store, run, sources)
    snapshot = publish(store, run, METRICS, b"page")
    assert snapshot.counts == {broken: 3}
    assert current_run(store, "invert") == first.id


def test_a_folder_that_somebody_crashed_in_is_left_alone(store: LocalStore, begun: tuple[Run, Store]) -> None:
    run, sources = begun
    translate_all(store, run, sources)
    store.create(f"runs/{run.id}/snapshots/00000000/manifest.parquet", b"half a snapshot")
    snapshot = publish(store, run, METRICS, b"page")
    assert (snapshot.number, snapshot.folder) == (0, f"runs/{run.id}/snapshots/00000001")
    assert store.read(f"runs/{run.id}/snapshots/00000000/manifest.parquet") == b"half a snapshot"


@pytest.mark.parametrize("name", ["metrics.json", "attestation.json", "report/index.html"])
def test_a_folder_that_is_being_cleaned_up_is_left_for_another(
    store: LocalStore, begun: tuple[Run, Store], name: str
) -> None:
    """Clean-up took its maker for dead and has deleted the manifest, by which a folder is claimed, but not the rest."""
    run, sources = begun
    translate_all(store, run, sources)
    store.create(f"runs/{run.id}/snapshots/00000000/{name}", b"of a dead one")
    snapshot = publish(store, run, {}, b"page")
    assert snapshot.number == 0
    assert "/snapshots/00000001/" in snapshot.manifest_key
    assert latest_snapshot(store, run) == snapshot
    assert store.read(f"runs/{run.id}/snapshots/00000000/{name}") == b"of a dead one"


def test_of_two_publishers_one_is_first_and_the_other_adopts(store: LocalStore, begun: tuple[Run, Store]) -> None:
    run, sources = begun
    translate_all(store, run, sources)

    class Beaten(LocalStore):
        """Lets another publisher finish just before its own entry."""

        beaten = False

        def create(self, key: str, data: Data) -> None:
            if key.endswith("snapshots/log/00000000.json") and not self.beaten:
                self.beaten = True
                publish(LocalStore(self.root), run, METRICS, b"page of the winner")
                raise AlreadyExistsError("taken", key=key)
            super().create(key, data)

    snapshot = publish(Beaten(store.root), run, METRICS, b"page of the loser")
    assert snapshot == latest_snapshot(store, run)
    assert snapshot.number == 0
    assert store.read(snapshot.report_key) == b"page of the winner"


def test_the_manifest_goes_from_a_file_to_the_store(store: LocalStore, begun: tuple[Run, Store]) -> None:
    """Of ten million records it has more than a gigabyte."""
    run, sources = begun
    translate_all(store, run, sources)
    given: list[type] = []

    class Noting(LocalStore):
        def create(self, key: str, data: Data) -> None:
            if key.endswith("/manifest.parquet"):
                given.append(type(data))
            super().create(key, data)

    snapshot = publish(Noting(store.root), run, METRICS, b"page")
    assert len(given) == 1
    assert given != [bytes]
    assert sha256(store.read(snapshot.manifest_key)) == snapshot.files["manifest.parquet"]


def test_metrics_without_a_number_are_refused(store: LocalStore, begun: tuple[Run, Store]) -> None:
    run, sources = begun
    translate_all(store, run, sources)
    with pytest.raises(ValueError, match="JSON compliant"):
        publish(store, run, {"kid": float("nan")}, b"page")


def test_publishing_reads_rows_and_plan_once_for_manifest_and_page(store: LocalStore, begun: tuple[Run, Store]) -> None:
    run, sources = begun
    translate_all(store, run, sources)
    reads: Counter[str] = Counter()

    class Counting(LocalStore):
        def read(self, key: str) -> bytes:
            reads[key] += 1
            return super().read(key)

        def read_pieces(self, key: str) -> Iterator[bytes]:
            reads[key] += 1
            return super().read_pieces(key)

    counting = Counting(store.root)
    snapshot = publish(counting, run, METRICS, page_of(counting, run, None, sources))
    assert b"<img " in store.read(snapshot.report_key)
    tables = {key: number for key, number in reads.items() if "/rows-" in key or "/plan-" in key}
    assert (len(tables), set(tables.values())) == (3, {1})
