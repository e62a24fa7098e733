"""An image that somebody asks to be deleted is gone everywhere, and every view says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lsb.audit import Verdict, verify
from lsb.cli import render
from lsb.errors import TamperedError, UsageError
from lsb.jobs.erase import Erased, erase
from lsb.jobs.gc import HINTS, clean_up
from lsb.jobs.lineage import planned_as
from lsb.ledger import layout
from lsb.ledger.log.commit_log import Erasure
from lsb.ledger.log.snapshots import SnapshotLog, current_run
from lsb.ledger.manifest import Collected
from lsb.ledger.publish import latest_snapshot, manifest_table, publish
from lsb.ledger.run import Run, open_log, pending
from lsb.ledger.selection import Selection
from lsb.pictures.encoding import encode
from lsb.records import record_id
from lsb.store.local import LocalStore
from lsb.store.store import Data, Store
from lsb.views.export import export
from lsb.views.page_contents import page_of
from lsb.views.status import status
from tests.ledger import make_images, picture, run_spec, start, translate_all

KEY = "even/0002.png"
RECORD = record_id(KEY)


class Scorer:
    """Features that tell whose they are."""

    def score(self, sources: Any, outputs: Any, truths: Any) -> list[Any]:
        class Score:
            values = {"structure_distance": 0.1}  # noqa: RUF012
            features = np.ones(4, np.float32)

        return [Score() for _ in outputs]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def done(store: LocalStore, tmp_path: Path) -> tuple[Run, Store]:
    """Six images in two shards, published with a page that shows them."""
    run, sources = start(store, make_images(tmp_path / "images", 6), shard_size=3)
    translate_all(store, run, sources, scorer=Scorer())
    publish(store, run, {"rows": []}, page_of(store, run, None, sources))
    return run, sources


def row_of(store: Store, run: Run, record: str = RECORD) -> dict[str, Any]:
    rows = manifest_table(store, run).to_pylist()
    return next(row for row in rows if row["record_id"] == record)


def features_of(store: Store, run: Run) -> list[str]:
    """Every record whose features lie in some file that a log names."""
    logs = [open_log(store, run, shard) for shard in run.shards()]
    tables = [log.features(entry) for log in logs for entry in log.entries()]
    return [record for table in tables for record in table["record_id"].to_pylist()]


def cleaned(store: Store) -> list[str]:
    """What a clean-up deletes apart from hints."""
    return [leftover.key for leftover in clean_up(store, older_than=-1, least=-1).deleted if leftover.kind != HINTS]


def intact(store: Store, run: Run) -> Verdict:
    verdict = verify(store, run.id)
    assert (verdict.exit_code, verdict.findings) == (0, ())
    return verdict


def test_the_image_its_features_and_the_pages_are_gone_and_all_else_stays(
    store: LocalStore, done: tuple[Run, Store], tmp_path: Path
) -> None:
    run, _ = done
    before = row_of(store, run)
    first = latest_snapshot(store, run)
    assert first is not None
    assert RECORD in features_of(store, run)
    result = erase(store, run.id, Selection(names=(KEY,)), "request 17")
    assert result.records == {RECORD: KEY}
    assert (result.runs, result.other_runs, result.without_image) == ((run.id,), (), 0)
    assert {before["output_key"], first.report_key} < set(result.files)
    assert len(result.files) == 3
    assert not any(store.exists(key) for key in result.files)

    after = row_of(store, run)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"status", "error_code", "error_detail", "flags"}
    assert (after["status"], after["error_detail"]) == ("erased", "request 17")
    features = features_of(store, run)
    assert len(features) == 5
    assert RECORD not in features
    assert (status(store, run).records["erased"], status(store, run).records["ok"]) == (1, 5)
    assert export(store, run, tmp_path / "out").written == 5
    assert pending(store, run) == {}

    verdict = intact(store, run)
    assert set(verdict.erased) == set(result.files)
    assert verdict.orphans == ()
    last = latest_snapshot(store, run)
    assert last is not None
    assert result.snapshots == {run.id: last.number}
    assert last.counts == {"ok": 5, "erased": 1}
    assert json.loads(store.read(last.metrics_key)) == {"rows": []}
    page = store.read(last.report_key).decode()
    assert "request 17" in page
    assert cleaned(store) == []


def test_a_dry_run_lists_what_then_goes_and_writes_nothing(store: LocalStore, done: tuple[Run, Store]) -> None:
    run, _ = done
    before = store.list()
    planned = erase(store, run.id, Selection(match=("odd/*",)), "request 17", dry_run=True)
    assert store.list() == before
    result = erase(store, run.id, Selection(match=("odd/*",)), "request 17")
    assert (planned.files, planned.records) == (result.files, result.records)
    assert len(planned.records) == 3


def test_an_erasure_can_be_repeated(store: LocalStore, done: tuple[Run, Store]) -> None:
    run, _ = done
    erase(store, run.id, Selection(names=(KEY,)), "request 17")
    before = store.list()
    again = erase(store, run.id, Selection(names=(RECORD,)), "request 18")
    assert (again.records, again.erased_before, again.files, again.snapshots) == ({}, {RECORD: KEY}, (), {})
    assert store.list() == before
    assert row_of(store, run)["error_detail"] == "request 17"


def test_what_is_erased_already_is_not_said_to_go(
    store: LocalStore, done: tuple[Run, Store], capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = done
    erase(store, run.id, Selection(names=(KEY,)), "request 17")
    planned = erase(store, run.id, Selection(match=("even/*",)), "request 18", dry_run=True)
    assert planned.erased_before == {RECORD: KEY}
    assert set(planned.records.values()) == {"even/0000.png", "even/0004.png"}
    figures = render.erased(planned, dry_run=True, as_json=False)
    assert (figures["records"], figures["erased_before"]) == (2, 1)
    printed = capsys.readouterr().out
    assert f"would erase the image of {KEY}" not in printed
    assert f"erased already: the image of {KEY}" in printed


def test_an_image_that_an_erasure_left_behind_is_still_to_be_erased(store: LocalStore, done: tuple[Run, Store]) -> None:
    run, _ = done
    output = row_of(store, run)["output_key"]
    data = store.read(output)
    erase(store, run.id, Selection(names=(KEY,)), "request 17")
    store.write(output, data)  # as if it had been cut off before
    again = erase(store, run.id, Selection(names=(KEY,)), "request 17", dry_run=True)
    assert (again.records, again.erased_before, again.files) == ({RECORD: KEY}, {}, (output,))


def test_a_plan_of_which_no_run_was_made_is_in_nobodys_way(store: LocalStore, done: tuple[Run, Store]) -> None:
    run, _ = done
    store.write(layout.plan_file("invert-0123456789ab", "0" * 64), b"a plan")
    assert erase(store, run.id, Selection(names=(KEY,)), "request 17").unread == {}


def test_a_run_whose_own_file_is_missing_may_show_the_image(store: LocalStore, done: tuple[Run, Store]) -> None:
    run, sources = done
    other = next_run(store, sources, tau=2.0)
    store.delete(layout.run_file(other.id))
    (error,) = erase(store, run.id, Selection(names=(KEY,)), "request 17").unread.values()
    assert (error.exit_code, str(error)) == (10, f"{layout.run_file(other.id)} is missing")


def test_one_erasure_after_another(store: LocalStore, done: tuple[Run, Store]) -> None:
    run, _ = done
    for index, key in enumerate(["even/0000.png", "even/0002.png", "even/0004.png", "odd/0001.png"]):
        erase(store, run.id, Selection(names=(key,)), f"request {index}")
    assert intact(store, run).checked["snapshots"] == 5
    assert len(features_of(store, run)) == 2
    assert status(store, run).records["erased"] == 4
    erase(store, run.id, Selection(match=("*",)), "all")
    assert len(features_of(store, run)) == 0
    intact(store, run)


def test_copies_of_one_image_are_erased_together_or_not_at_all(store: LocalStore, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images", 4)
    (folder / "copy.png").write_bytes(encode(picture(2), "png"))
    run, sources = start(store, folder)
    translate_all(store, run, sources)
    before = store.list()
    with pytest.raises(UsageError, match=r"belongs to 1 more records of run \S+ with the same bytes \(copy\.png\)"):
        erase(store, run.id, Selection(names=(KEY,)), "request 17")
    assert store.list() == before
    result = erase(store, run.id, Selection(names=(KEY, "copy.png")), "request 17")
    assert (len(result.records), len(result.files), result.snapshots) == (2, 1, {})
    assert verify(store, run.id).exit_code == 11  # nothing is published yet, and nothing is wrong


def test_records_without_an_image(store: LocalStore, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images", 2)
    (folder / "bad.png").write_bytes(b"no image")
    run, sources = start(store, folder)
    translate_all(store, run, sources)
    result = erase(store, run.id, Selection(names=("bad.png",)), "request 17")
    assert (result.records, result.without_image, result.files) == ({}, 1, ())


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "x" * 201])
def test_a_reason_is_one_short_line(store: LocalStore, done: tuple[Run, Store], reason: str) -> None:
    with pytest.raises(UsageError, match="give a reason"):
        erase(store, done[0].id, Selection(names=(KEY,)), reason)


def test_nobody_is_meant(store: LocalStore, done: tuple[Run, Store]) -> None:
    with pytest.raises(UsageError, match=r"no record of run \S+ has the id or the source key 'nobody'"):
        erase(store, done[0].id, Selection(names=("nobody",)), "request 17")
    with pytest.raises(UsageError, match="say whose images"):
        erase(store, done[0].id, Selection(), "request 17")


def test_a_name_that_reads_like_a_pattern_erases_only_what_is_called_so(store: LocalStore, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for index, name in enumerate(("img[1].png", "img1.png", "img?.png")):
        (folder / name).write_bytes(encode(picture(index), "png"))
    run, sources = start(store, folder)
    translate_all(store, run, sources)
    planned = erase(store, run.id, Selection(names=("img[1].png",)), "request 17", dry_run=True)
    assert list(planned.records.values()) == ["img[1].png"]
    erase(store, run.id, Selection(names=("img[1].png",)), "request 17")
    statuses = {row["source_key"]: row["status"] for row in manifest_table(store, run, partial=True).to_pylist()}
    assert statuses == {"img[1].png": "erased", "img1.png": "ok", "img?.png": "ok"}
    with pytest.raises(UsageError, match="--match"):
        erase(store, run.id, Selection(names=("img*",)), "request 17")


def test_another_transform_of_the_same_picture_is_named_and_not_touched(
    store: LocalStore, done: tuple[Run, Store], tmp_path: Path
) -> None:
    run, sources = done
    other, _ = start(store, tmp_path / "images", shard_size=3, tau=1.0)
    translate_all(store, other, sources)
    result = erase(store, run.id, Selection(names=(KEY,)), "request 17")
    assert (result.runs, result.other_runs) == ((run.id,), (other.id,))
    assert verify(store, other.id).erased == ()


def test_a_page_that_was_made_before_is_not_published(store: LocalStore, done: tuple[Run, Store]) -> None:
    """Its picture is on the page."""
    run, sources = done
    made: list[bytes] = []

    def page(collected: Collected) -> bytes:
        made.append(page_of(store, run, None, sources)(collected))
        return made[-1]

    class Slow(LocalStore):
        def create(self, key: str, data: Data) -> None:
            if "/snapshots/log/" in key and not erased:
                erased.append(erase(store, run.id, Selection(names=(KEY,)), "request 17"))
            super().create(key, data)

    erased: list[Erased] = []
    snapshot = publish(Slow(store.root), run, {"rows": [], "kid": 2.0}, page)
    assert len(erased) == 1
    assert [text.count(b"<img ") for text in made] == [24, 20]  # source and output, in two places
    assert store.read(snapshot.report_key) == made[1]
    intact(store, run)


def test_a_page_that_was_published_meanwhile_goes_too(store: LocalStore, done: tuple[Run, Store]) -> None:
    run, _ = done

    class Slow(LocalStore):
        def create(self, key: str, data: Data) -> None:
            if "/snapshots/log/" in key and not published:
                published.append(publish(LocalStore(self.root), run, {"rows": [], "kid": 2.0}, b"late"))
            super().create(key, data)

    published: list[Any] = []
    result = erase(Slow(store.root), run.id, Selection(names=(KEY,)), "request 17")
    assert published[0].report_key in result.files
    intact(store, run)


def test_what_clean_up_condemned_meanwhile_is_written_again(store: LocalStore, done: tuple[Run, Store]) -> None:
    run, _ = done

    class Slow(LocalStore):
        def create(self, key: str, data: Data) -> None:
            if "/shards/" in key and not swept:
                swept.append(clean_up(store, older_than=-1, least=-1))
            super().create(key, data)

    swept: list[Any] = []
    erase(Slow(store.root), run.id, Selection(names=(KEY,)), "request 17")
    assert swept[0].counts()["attempts"] == 1
    assert len(features_of(store, run)) == 5
    intact(store, run)


def test_a_file_that_is_erased_but_still_there_is_told(store: LocalStore, done: tuple[Run, Store]) -> None:
    run, _ = done
    output = row_of(store, run)["output_key"]
    data = store.read(output)
    erase(store, run.id, Selection(names=(KEY,)), "request 17")
    store.write(output, data)
    verdict = verify(store, run.id)
    assert verdict.exit_code == 11
    assert [finding.key for finding in verdict.findings] == [output]
    assert erase(store, run.id, Selection(names=(KEY,)), "request 17").files == (output,)
    intact(store, run)
    store.write(output, data)
    assert cleaned(store) == [output]


def test_an_erasure_excuses_nothing_else(store: LocalStore, done: tuple[Run, Store]) -> None:
    run, _ = done
    other = row_of(store, run, record_id("even/0004.png"))["output_key"]
    erase(store, run.id, Selection(names=(KEY,)), "request 17")
    data = store.read(other)
    store.delete(other)
    assert [(finding.kind, finding.key) for finding in verify(store, run.id).findings] == [("tampered", other)]
    store.write(other, data)
    intact(store, run)

    shard = row_of(store, run)["shard"]
    entry = open_log(store, run, shard).history().condemnations[0].link.key
    store.delete(entry)
    found = {finding.key for finding in verify(store, run.id).findings if finding.kind == "tampered"}
    assert entry in found
    with pytest.raises(TamperedError):
        SnapshotLog(store, run.id, "0" * 64).history()


def test_rows_cannot_be_erased(store: LocalStore, done: tuple[Run, Store]) -> None:
    run, _ = done
    log = open_log(store, run, "00000")
    history = log.history()
    rows = history.commits[0].rows
    with pytest.raises(TamperedError, match="rows stay for ever"):
        log.condemn(history.head, attempts=(), reason="x", erasure=Erasure((RECORD,), (rows,), layout.new_attempt()))


@pytest.mark.parametrize("name", ["log/00000000.json", "../../run.json", "/etc/passwd", "0123456789abcdef/notes.txt"])
def test_nothing_but_files_of_attempts_can_be_erased(store: LocalStore, done: tuple[Run, Store], name: str) -> None:
    run, _ = done
    log = open_log(store, run, "00000")
    with pytest.raises(TamperedError, match="which is no attempt's file"):
        log.condemn(
            log.history().head, attempts=(), reason="x", erasure=Erasure((RECORD,), (name,), layout.new_attempt())
        )
    with pytest.raises(TamperedError):
        erase(store, run.id, Selection(names=(KEY,)), "request 17")


@pytest.mark.parametrize("name", ["log/00000000.json", "../run.json", "00000000/manifest.parquet", "/etc/passwd"])
def test_no_snapshot_log_erases_anything_but_pages(store: LocalStore, done: tuple[Run, Store], name: str) -> None:
    run, _ = done
    log = SnapshotLog(store, run.id, run.sha256)
    log.condemn(log.history().head, reason="x", erased=[name])
    before = {entry.key for entry in store.list()}
    with pytest.raises(TamperedError, match="which is no page"):
        log.history()
    with pytest.raises(TamperedError, match="which is no page"):
        erase(store, run.id, Selection(names=(KEY,)), "request 17")
    assert before <= {entry.key for entry in store.list()}
    assert verify(store, run.id).exit_code == 10


def next_run(store: Store, sources: Store, **settings: Any) -> Run:
    """The job's next run, which carries what is unchanged."""
    run = planned_as(store, run_spec(store, sources, shard_size=3, **settings))
    translate_all(store, run, sources)
    return run


@pytest.mark.parametrize("named", ["maker", "carrier"])
def test_a_carried_image_is_erased_wherever_it_is_carried(
    store: LocalStore, done: tuple[Run, Store], tmp_path: Path, named: str
) -> None:
    run, sources = done
    (tmp_path / "images" / "new.png").write_bytes(encode(picture(70), "png"))
    second = next_run(store, sources)
    publish(store, second, {}, b"page of the second")
    (tmp_path / "images" / "newer.png").write_bytes(encode(picture(71), "png"))
    third = next_run(store, sources)  # not published yet
    assert status(store, third).carried == 7

    result = erase(store, run.id if named == "maker" else second.id, Selection(names=(KEY,)), "request 17")
    assert set(result.runs) == {run.id, second.id, third.id}
    assert result.snapshots.keys() == {run.id, second.id}
    assert current_run(store, run.job) == second.id
    for each in (run, second, third):
        assert row_of(store, each)["status"] == "erased"
        assert status(store, each).records["erased"] == 1
    assert row_of(store, second)["output_key"] in intact(store, run).erased
    assert row_of(store, second)["output_key"] in intact(store, second).erased
    assert export(store, third, tmp_path / "out").written == 7
    publish(store, third, {}, b"page")
    assert cleaned(store) == []
    for each in (run, second, third):
        intact(store, each)

    output = row_of(store, second)["output_key"]
    store.write(output, b"x")
    assert [finding.kind for finding in verify(store, third.id).findings] == ["incomplete"]
    store.delete(output)

    # It is not made again by the job's next run, though its source is still there.
    (tmp_path / "images" / "newest.png").write_bytes(encode(picture(72), "png"))
    fourth = next_run(store, sources)
    publish(store, fourth, {}, b"page")
    assert row_of(store, fourth)["status"] == "erased"
    intact(store, fourth)


def test_a_run_that_carries_what_was_erased_before_keeps_its_page(
    store: LocalStore, done: tuple[Run, Store], tmp_path: Path
) -> None:
    run, sources = done
    erase(store, run.id, Selection(names=(KEY,)), "request 17")
    (tmp_path / "images" / "new.png").write_bytes(encode(picture(70), "png"))
    second = next_run(store, sources)
    page = publish(store, second, {}, b"page").report_key
    assert row_of(store, second)["status"] == "erased"
    before = store.list()
    for named in (run, second):
        again = erase(store, named.id, Selection(names=(KEY,)), "request 17")
        assert (again.files, again.snapshots, again.erased_before) == ((), {}, {RECORD: KEY})
        assert second.id not in again.runs
    assert store.list() == before

    # One more image, which both show: of each run only what it has shown is erased, and once.
    both = Selection(names=(KEY, "even/0004.png"))
    more = erase(store, run.id, both, "request 18")
    assert (more.snapshots.keys(), page in more.files) == ({run.id, second.id}, True)
    assert store.exists(latest_snapshot(store, second).report_key)  # type: ignore[union-attr]
    assert erase(store, run.id, both, "request 18").snapshots == {}
    intact(store, second)


def test_a_copy_of_a_carried_image_in_another_run(store: LocalStore, done: tuple[Run, Store], tmp_path: Path) -> None:
    run, sources = done
    (tmp_path / "images" / "copy.png").write_bytes(encode(picture(2), "png"))
    second = next_run(store, sources)
    assert row_of(store, second)["output_key"] != row_of(store, second, record_id("copy.png"))["output_key"]
    result = erase(store, run.id, Selection(names=(KEY,)), "request 17")
    assert (set(result.runs), result.other_runs) == ({run.id, second.id}, (second.id,))
    assert row_of(store, second, record_id("copy.png"))["status"] == "ok"
