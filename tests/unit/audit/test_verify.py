from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from shutil import copytree
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from lsb.audit import Verdict, shards, verify
from lsb.audit.rows import same
from lsb.errors import StoreError, TemporaryFileError, UsageError
from lsb.ledger import pieces
from lsb.ledger.layout import is_hint
from lsb.ledger.log.seal import seal
from lsb.ledger.pieces import Boxes
from lsb.ledger.publish import manifest_table, publish
from lsb.ledger.run import Run, open_log
from lsb.ledger.schemas import MANIFEST, TableSchema, read_table, write_table
from lsb.metrics.scores import Scores
from lsb.pictures.decoder import Decoder
from lsb.pictures.encoding import encode
from lsb.pictures.geometry import Frame, Size
from lsb.records import sha256
from lsb.store.local import LocalStore
from lsb.translation.shard import run_shard
from tests.ledger import Inverter, equipment, make_images, picture, start, translate_all


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A finished run with copies, a quarantined image, features, several commits and two snapshots. Read only."""
    place = tmp_path_factory.mktemp("published")
    folder = make_images(place / "images", 7)
    (folder / "bad.png").write_bytes(b"not a picture")
    (folder / "copy.png").write_bytes((folder / "odd" / "0001.png").read_bytes())
    store = LocalStore(place / "store")
    run, sources = start(store, folder, shard_size=4)
    judge = equipment(sources, Inverter(batch=2), scorer=Judge())
    run_shard(store, run, "00000", judge, stop=lambda: True)
    publish(store, run, {"kid": 2.0}, b"<html>first", partial=True)
    for shard in run.shards():
        run_shard(store, run, shard, judge)
    publish(store, run, {"kid": 1.0}, b"<html>second")
    return place / "store", run


class Judge:
    """Gives every output the same features."""

    def score(
        self, sources: Sequence[Image.Image], outputs: Sequence[Image.Image], truths: Sequence[Image.Image | None]
    ) -> list[Scores]:
        return [Scores({}, np.ones(2, np.float32)) for _ in outputs]


@pytest.fixture
def store(published: tuple[Path, Run], tmp_path: Path) -> LocalStore:
    """A copy of it to be spoilt."""
    return LocalStore(copytree(published[0], tmp_path / "store"))


@pytest.fixture
def run(published: tuple[Path, Run]) -> Run:
    return published[1]


def tampered(verdict: Verdict) -> set[str]:
    assert verdict.exit_code == 10
    return {finding.key for finding in verdict.findings if finding.kind == "tampered"}


def test_rows_that_waited_in_a_file_are_those_of_their_commits(
    store: LocalStore, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = verify(store, run.id)
    for name in ("PIECE_ROWS", "LEAST_ROWS"):
        monkeypatch.setattr(pieces, name, 1)
    assert verify(store, run.id) == whole
    monkeypatch.setattr(Boxes, "box", lambda self, number: self._empty)
    assert len(tampered(verify(store, run.id))) == 2  # both manifests hold other rows


def test_a_full_disk_is_no_finding(store: LocalStore, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("PIECE_ROWS", "LEAST_ROWS"):
        monkeypatch.setattr(pieces, name, 1)
    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(TemporaryFileError, match="TMPDIR"):
        verify(store, run.id)


def cut(table: pa.Table, size: int) -> list[pa.Table]:
    return [table.slice(start, size) for start in range(0, table.num_rows, size)]


@pytest.mark.parametrize(("size", "other"), [(3, 4), (7, 2), (1, 20), (5, 5)])
def test_tables_that_come_in_pieces_are_compared_row_by_row(size: int, other: int) -> None:
    table = pa.table({"number": range(10)})
    assert same(cut(table, size), cut(table, other))
    assert same([table.slice(0, 0)], [])
    for wrong in (
        table.slice(1),
        table.slice(0, 9),
        pa.table({"number": [*range(9), 0]}),
        pa.concat_tables([table] * 2),
    ):
        assert not same(cut(table, size), cut(wrong, other))
        assert not same(cut(wrong, size), cut(table, other))
    assert not same([], [table.slice(0, 0), table])


def test_an_intact_run_passes(store: LocalStore, run: Run) -> None:
    verdict = verify(store, run.id)
    assert (verdict.exit_code, verdict.findings, verdict.orphans) == (0, (), ())
    assert verdict.checked == {
        "run": 1,
        "data set": 1,
        "plan": 1,
        "prompt files": 4,
        "log entries": 3,
        "row files": 3,
        "feature files": 3,
        "rows": 8,
        "outputs": 7,
        "snapshots": 2,
        "snapshot files": 8,
        "job entries": 2,
    }


def every_file(store: LocalStore) -> list[str]:
    return [entry.key for entry in store.list() if not (is_hint(entry.key) or "/listings/" in entry.key)]


def test_one_changed_byte_of_any_file_is_found_and_named(store: LocalStore, run: Run) -> None:
    keys = every_file(store)
    assert len(keys) == 1 + 4 + 2 + 3 * 3 + 7 + 2 * 5 + 2
    for key in keys:
        whole = store.read(key)
        place = int(sha256(key.encode()), 16) % len(whole)
        store.write(key, whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert key in tampered(verify(store, run.id)), f"byte {place} of {key}"
        store.write(key, whole)
    assert verify(store, run.id).exit_code == 0


def test_any_missing_file_is_found_and_named(store: LocalStore, run: Run) -> None:
    last_of_job = "jobs/invert/log/00000001.json"  # nothing names the newest entry of the topmost log
    for key in every_file(store):
        whole = store.read(key)
        store.delete(key)
        verdict = verify(store, run.id)
        if key == last_of_job:
            assert verdict.exit_code == 0
        else:
            assert key in tampered(verdict), key
        store.write(key, whole)


def test_two_swapped_outputs_are_both_named(store: LocalStore, run: Run) -> None:
    a, b = [row["output_key"] for row in manifest_table(store, run).to_pylist() if row["output_key"]][:2]
    one, other = store.read(a), store.read(b)
    store.write(a, other)
    store.write(b, one)
    assert tampered(verify(store, run.id)) == {a, b}


def rewrite_rows(store: LocalStore, run: Run, change: dict[str, object]) -> str:
    """Forge a log's newest commit as well as one can: rows changed, entry sealed anew. Returns the rows' key."""
    entry = open_log(store, run, "00001").entries()[-1]
    rows = read_table(store.read(entry.rows_key), MANIFEST).to_pylist()
    rows[0] |= change
    data = write_table(MANIFEST.table(rows), MANIFEST)
    store.write(entry.rows_key, data)
    document = {**entry.link.document, "files": {**entry.files, entry.rows: sha256(data)}}
    store.write(entry.link.key, seal(document))
    return entry.rows_key


def forget_snapshots(store: LocalStore) -> None:
    for entry in [*store.list("jobs"), *store.list("runs")]:
        if entry.key.startswith("jobs") or "/snapshots/" in entry.key:
            store.delete(entry.key)


def test_a_forged_commit_is_found_by_the_snapshot_that_names_the_head(store: LocalStore, run: Run) -> None:
    rewrite_rows(store, run, {"guidance": 1.0})
    assert f"runs/{run.id}/shards/00001/log/00000000.json" in tampered(verify(store, run.id))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"status": "failed"}, "counts"),
        ({"record_id": "0" * 32}, "not planned in this shard"),
        ({"source_key": "other.png"}, "another source"),
        ({"source_sha256": "0" * 64}, "other bytes than planned"),
        ({"attempt": "0" * 16}, "another shard, attempt or transform"),
        ({"transform_id": "0" * 64}, "another shard, attempt or transform"),
        ({"output_sha256": "0" * 64}, "an output that its log entry does not"),
        ({"output_key": "runs/elsewhere.png"}, "an output that its log entry does not"),
    ],
)
def test_a_forged_commit_must_agree_with_plan_and_entry(
    store: LocalStore, run: Run, change: dict[str, object], problem: str
) -> None:
    forget_snapshots(store)
    key = rewrite_rows(store, run, change)
    verdict = verify(store, run.id)
    assert tampered(verdict) >= {key}
    assert any(problem in finding.message for finding in verdict.findings)


def test_wrong_pixel_digests_are_found(store: LocalStore, run: Run) -> None:
    forget_snapshots(store)
    rewrite_rows(store, run, {"pixels_sha256": "0" * 64})
    (finding,) = verify(store, run.id).findings
    assert (finding.kind, finding.key[-4:]) == ("tampered", ".png")
    assert "pixels" in finding.message


def test_a_manifest_with_other_rows_than_the_shards_is_found(store: LocalStore, run: Run) -> None:
    """Even if every digest above it was made to fit."""
    folder = f"runs/{run.id}/snapshots"
    key = f"{folder}/00000001/manifest.parquet"
    rows = read_table(store.read(key), MANIFEST).to_pylist()
    rows[0]["guidance"] = 1.0
    data = write_table(MANIFEST.table(rows), MANIFEST)
    store.write(key, data)
    reseal(store, f"{folder}/log/00000001.json", files={"manifest.parquet": sha256(data)})
    reseal(store, "jobs/invert/log/00000001.json", snapshot_sha256=sha256(store.read(f"{folder}/log/00000001.json")))
    assert tampered(verify(store, run.id)) == {key, f"{folder}/00000001/attestation.json"}


def reseal(store: LocalStore, key: str, **changes: object) -> None:
    document = json.loads(store.read(key))
    del document["seal"]
    for name, value in changes.items():
        document[name] = {**document[name], **value} if isinstance(value, dict) else value
    store.write(key, seal(document))


def test_an_unknown_schema_is_unverifiable(store: LocalStore, run: Run) -> None:
    reseal(store, f"runs/{run.id}/run.json", schema="lsb.run/9")
    verdict = verify(store, run.id)
    assert verdict.exit_code == 12
    assert "lsb.run/9" in verdict.findings[0].message


def test_rows_of_an_unknown_schema_are_unverifiable(store: LocalStore, run: Run) -> None:
    forget_snapshots(store)
    entry = open_log(store, run, "00001").entries()[-1]
    later = TableSchema("lsb.manifest/99", MANIFEST.arrow)
    data = write_table(read_table(store.read(entry.rows_key), MANIFEST), later)
    store.write(entry.rows_key, data)
    reseal(store, entry.link.key, files={entry.rows: sha256(data)})
    verdict = verify(store, run.id)
    assert verdict.exit_code == 12
    assert verdict.findings[0].key == entry.rows_key


def test_what_cannot_be_read_is_unverifiable(store: LocalStore, run: Run) -> None:
    class Locked(LocalStore):
        def read(self, key: str) -> bytes:
            if key.endswith("records.parquet"):
                raise StoreError(f"cannot read {key}: Permission denied", key=key)
            return super().read(key)

    verdict = verify(Locked(store.root), run.id)
    assert verdict.exit_code == 12
    assert verdict.findings[0].key.endswith("records.parquet")


def test_tampered_comes_before_unverifiable(store: LocalStore, run: Run) -> None:
    class Locked(LocalStore):
        def read(self, key: str) -> bytes:
            if key.endswith("records.parquet"):
                raise StoreError(f"cannot read {key}: Permission denied", key=key)
            return super().read(key)

    store.delete(run.prompts["source"])
    assert verify(Locked(store.root), run.id).exit_code == 10


def test_an_unfinished_run_is_incomplete(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    run, sources = start(store, make_images(tmp_path / "images", 6), shard_size=3)
    assert verify(store, run.id).exit_code == 11
    run_shard(store, run, "00000", equipment(sources))
    publish(store, run, {}, b"page", partial=True)
    verdict = verify(store, run.id)
    assert verdict.exit_code == 11
    assert "3 planned records have no row" in verdict.findings[0].message
    translate_all(store, run, sources)
    publish(store, run, {}, b"page")
    assert verify(store, run.id).exit_code == 0


def test_orphans_are_listed_without_alarm(store: LocalStore, run: Run) -> None:
    lost = f"runs/{run.id}/shards/00000/deadbeefdeadbeef/x.png"
    store.write(lost, encode(picture(1), "png"))
    verdict = verify(store, run.id)
    assert (verdict.exit_code, verdict.orphans) == (0, (lost,))


def test_a_broken_log_makes_no_orphans_of_what_it_named(store: LocalStore, run: Run) -> None:
    store.delete(f"runs/{run.id}/shards/00000/log/00000000.json")
    verdict = verify(store, run.id)
    assert verdict.exit_code == 10
    assert verdict.orphans == ()


def test_a_sample_reads_as_many_images_as_it_says(store: LocalStore, run: Run) -> None:
    verdict = verify(store, run.id, sample=3)
    assert (verdict.exit_code, verdict.checked["outputs"], verdict.sample, verdict.orphans) == (0, 3, 3, ())


@pytest.mark.parametrize("sample", [0, 3, 5])
def test_a_sample_is_the_same_however_many_outputs_are_held(
    store: LocalStore, run: Run, sample: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = sorted(key for key in every_file(store) if key.endswith(".png") and "/shards/" in key)
    for key in outputs[1:]:
        store.write(key, b"other bytes")
    store.delete(outputs[0])
    found = tampered(verify(store, run.id, sample, seed="s"))
    assert len(found) == sample + 1
    monkeypatch.setattr(shards, "FORGOTTEN", 0)
    assert tampered(verify(store, run.id, sample, seed="s")) == found


def test_a_missing_output_is_found_whatever_the_sample(store: LocalStore, run: Run) -> None:
    keys = [row["output_key"] for row in manifest_table(store, run).to_pylist() if row["output_key"]]
    store.delete(keys[0])
    assert tampered(verify(store, run.id, sample=0)) == {keys[0]}


def test_no_such_run(store: LocalStore) -> None:
    with pytest.raises(UsageError, match="no run job-0123456789ab"):
        verify(store, "job-0123456789ab")


def test_two_files_under_one_record_id_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_images(tmp_path / "images", 2)
    for name in (b"bad\xff.png", rb"bad\xff.png"):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write((folder / "odd" / "0001.png").read_bytes())
    # As names were once escaped.
    old = partial(str.encode, errors="surrogateescape")
    monkeypatch.setattr("lsb.pictures.ingest.key_of", lambda name: old(name).decode(errors="backslashreplace"))
    store = LocalStore(tmp_path / "store")
    run, sources = start(store, folder)
    translate_all(store, run, sources)
    snapshot = publish(store, run, {}, b"page")
    verdict = verify(store, run.id)
    assert verdict.exit_code == 12
    places = {finding.key for finding in verdict.findings if "twice" in finding.message}
    assert places == {run.dataset["key"], run.plan["key"], snapshot.manifest_key}


def test_an_id_that_is_not_its_keys_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsb.pictures.ingest.record_id", lambda key: sha256(key.upper().encode())[:32])
    store = LocalStore(tmp_path / "store")
    run, sources = start(store, make_images(tmp_path / "images", 2))
    translate_all(store, run, sources)
    snapshot = publish(store, run, {}, b"page")
    assert tampered(verify(store, run.id)) == {run.dataset["key"], run.plan["key"], snapshot.manifest_key}


class Reddening(Inverter):
    """Makes pictures whose files are small."""

    def translate(
        self, images: Sequence[Image.Image], digests: Sequence[str] | None = None, *, batch: int | None = None
    ) -> list[Image.Image]:
        return [Image.new("RGB", image.size, "red") for image in images]


def enlarged(size: Size) -> Frame:
    """What comes out takes the decoder long."""
    return Frame(size, size, size, (6000, 6000))


def test_outputs_are_decoded_in_a_process_with_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path / "store")
    run, sources = start(store, make_images(tmp_path / "images", 1))
    translate_all(store, run, sources, translator=Reddening(), frame=enlarged)
    publish(store, run, {}, b"page")
    with Decoder(cpu_seconds=0.05) as decoder:
        monkeypatch.setattr("lsb.audit.shards.shared_decoder", lambda: decoder)
        verdict = verify(store, run.id)
    (finding,) = verdict.findings
    assert (verdict.exit_code, finding.kind) == (12, "unverifiable")
    assert "its pixels cannot be checked: decode_timed_out" in finding.message
