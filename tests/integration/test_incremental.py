"""New data after a finished run: what is unchanged is carried, what is new is translated, and all of it adds up."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lsb.audit import verify
from lsb.errors import UsageError
from lsb.jobs.lineage import RunOptions, planned_as, restriction
from lsb.ledger.carrying import reference
from lsb.ledger.gates import Gates
from lsb.ledger.log.snapshots import current_run
from lsb.ledger.manifest import collect, collect_features
from lsb.ledger.publish import latest_snapshot, publish
from lsb.ledger.run import Run, open_run, pending
from lsb.ledger.selection import Selection
from lsb.pictures import ingest as ingest_module
from lsb.pictures.encoding import encode
from lsb.pictures.listed import Files
from lsb.records import digest_of
from lsb.store.scratch import ScratchStore
from lsb.views.export import export
from lsb.views.page_contents import gather_report
from lsb.views.status import status
from tests.integration.pipeline import Pipeline
from tests.ledger import picture, run_spec

pytestmark = pytest.mark.usefixtures("exact_clock")


@pytest.mark.parametrize("read", ["full", "listing"])
def test_what_is_unchanged_is_carried_without_reading_or_translating_it(job: Pipeline, read: str) -> None:
    first = job.plan(read=read)
    job.finish(first)
    job.change()
    done = job.translated()
    job.sources.reads.clear()
    second = job.plan(read=read)
    actions = job.actions(second)
    assert {key for key, action in actions.items() if action == "translate"} == {"new.png", "odd/0001.png"}
    assert actions["bad.png"] == ("quarantine" if read == "full" else "carry")
    assert "even/0004.png" not in actions
    assert second.parent is not None
    assert (second.parent["run"], second.parent["snapshot"]) == (first.id, 0)
    job.finish(second)
    assert set(job.sources.reads) == {"new.png", "odd/0001.png"}
    assert job.translated() == done + 2

    before, after = job.rows(first), job.rows(second)
    for key, action in actions.items():
        if action == "carry":
            assert after[key] == {**before[key], "carried_from": first.id}
        else:
            assert after[key]["carried_from"] is None
    verdict = verify(job.store, second.id)
    assert (verdict.exit_code, verdict.findings, verdict.orphans) == (0, (), ())
    assert verdict.checked["carried rows"] == sum(action == "carry" for action in actions.values())
    assert verdict.checked["outputs"] == 8
    assert current_run(job.store, "invert") == second.id


def test_carried_rows_name_the_run_that_made_the_image_through_any_number_of_runs(job: Pipeline, first: Run) -> None:
    (job.folder / "new.png").write_bytes(encode(picture(70), "png"))
    second = job.plan()
    job.finish(second)
    (job.folder / "newer.png").write_bytes(encode(picture(72), "png"))
    third = job.plan()
    job.finish(third)
    rows = job.rows(third)
    origins = {key: row["carried_from"] for key, row in rows.items() if row["status"] == "ok"}
    assert {key: origin for key, origin in origins.items() if origin != first.id} == {
        "new.png": second.id,
        "newer.png": None,
    }
    assert verify(job.store, third.id).exit_code == 0
    # Features come from all three, and each belongs to its own image.
    features = collect_features(job.store, third).to_pylist()
    means = {row["record_id"]: 255 - np.asarray(picture(number)).mean() for row, number in _numbered(rows)}
    assert {row["record_id"]: pytest.approx(row["features"][0], abs=1e-3) for row in features} == means


def _numbered(rows: dict[str, dict[str, Any]]) -> list[tuple[dict[str, Any], int]]:
    numbers = {"new.png": 70, "newer.png": 72}
    made = [(key, row) for key, row in rows.items() if row["status"] == "ok"]
    return [(row, numbers[key] if key in numbers else int(key[-8:-4])) for key, row in made]


def test_everything_downstream_sees_carried_records(job: Pipeline, first: Run, tmp_path: Path) -> None:
    job.change()
    second = job.plan()
    assert (status(job.store, second).records["ok"], status(job.store, second).records["pending"]) == (6, 2)
    job.finish(second)
    found = status(job.store, second)
    assert (found.carried, found.finished, found.shards) == (6, True, {"done": 1, "partial": 0, "pending": 0})
    assert {name: n for name, n in found.records.items() if n} == {"ok": 8, "quarantined": 1}
    done = export(job.store, second, tmp_path / "out")
    assert (done.written, done.without_output) == (8, 1)
    page = gather_report(job.store, second, collect(job.store, second, gates=Gates()), None, job.sources)
    assert ("carried", f"6 from snapshot 0 of {first.id}") in page.settings
    assert len(page.examples) == 8
    snapshot = latest_snapshot(job.store, second)
    assert snapshot is not None
    assert (snapshot.planned, snapshot.counts) == (9, {"ok": 8, "quarantined": 1})


def test_the_same_command_finds_the_same_run_while_it_is_unfinished_and_after(job: Pipeline, first: Run) -> None:
    assert job.plan().id == first.id  # nothing changed: no child of itself
    job.change()
    second = job.plan()
    # Meanwhile the job's name goes elsewhere, and the parent gets another snapshot.
    other = job.plan(tau=2.0)
    job.finish(other)
    publish(job.store, first, {"kid": 1.0}, b"page")
    assert job.plan() == second
    job.finish(second)
    assert job.plan() == second
    assert current_run(job.store, "invert") == second.id


def test_another_shard_size_is_a_new_run_that_carries_everything(job: Pipeline, first: Run) -> None:
    done = job.translated()
    second = job.plan(shard_size=2)
    assert (second.shards(), second.plan["carried"], pending(job.store, second)) == ([], 8, {})
    job.finish(second)
    assert job.translated() == done
    assert verify(job.store, second.id).exit_code == 0
    assert {row["output_key"] for row in job.rows(second).values()} == {
        row["output_key"] for row in job.rows(first).values()
    }


def test_failures_of_the_parent_are_translated_again(job: Pipeline) -> None:
    first = job.plan()
    gone = job.folder / "odd" / "0003.png"
    data, stat = gone.read_bytes(), gone.stat()
    gone.unlink()
    job.finish(first)
    assert job.rows(first)["odd/0003.png"]["status"] == "failed"
    gone.write_bytes(data)
    os.utime(gone, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (job.folder / "new.png").write_bytes(encode(picture(70), "png"))
    second = job.plan()
    job.finish(second)
    rows = job.rows(second)
    assert {key for key, row in rows.items() if row["carried_from"] is None} == {"odd/0003.png", "new.png", "bad.png"}
    assert rows["odd/0003.png"]["status"] == "ok"


def test_a_copy_of_a_carried_image_is_translated_by_itself(job: Pipeline, first: Run) -> None:
    for name in ("copy-1.png", "copy-2.png"):
        (job.folder / name).write_bytes((job.folder / "odd" / "0005.png").read_bytes())
    done = job.translated()
    second = job.plan()
    job.finish(second)
    assert job.translated() == done + 1
    rows = job.rows(second)
    assert rows["copy-1.png"]["output_key"] == rows["copy-2.png"]["output_key"] != rows["odd/0005.png"]["output_key"]
    assert rows["copy-1.png"]["pixels_sha256"] == rows["odd/0005.png"]["pixels_sha256"]
    assert verify(job.store, second.id).exit_code == 0


def test_a_fresh_run_carries_nothing_and_is_found_again(job: Pipeline, first: Run) -> None:
    fresh = job.plan(fresh=True)
    assert (fresh.id != first.id, fresh.parent, fresh.plan["carried"]) == (True, None, 0)
    assert job.plan(fresh=True) == fresh
    assert open_run(job.store, fresh.id) == fresh


def test_a_run_over_flagged_records_with_other_settings(job: Pipeline, first: Run) -> None:
    snapshot = latest_snapshot(job.store, first)
    assert snapshot is not None
    (job.folder / "even" / "0000.png").write_bytes(encode(picture(90, (12, 8)).point(lambda _: 128), "png"))
    flat = job.plan()
    job.finish(flat)
    flagged = {key for key, row in job.rows(flat).items() if row["flags"]}
    assert flagged == {"even/0000.png"}
    options = RunOptions(records_from=flat.id, selection=Selection(flags=("flat_output",)))
    again = job.plan(only=restriction(job.store, options), tau=2.0)
    assert job.actions(again) == {"even/0000.png": "translate"}
    assert again.id not in (job.plan(tau=2.0).id, flat.id)
    assert job.plan(only=restriction(job.store, options), tau=2.0) == again
    job.finish(again)
    assert set(job.rows(again)) == flagged
    assert verify(job.store, again.id).exit_code == 0
    assert current_run(job.store, "invert") == flat.id  # a part does not take the job's name
    nothing = restriction(job.store, RunOptions(records_from=flat.id, selection=Selection(codes=("worker_died",))))
    with pytest.raises(UsageError, match=r"no record of run .* has codes worker_died$"):
        job.plan(only=nothing)
    misspelt = RunOptions(records_from=flat.id, selection=Selection(flags=("no_opp",)))
    with pytest.raises(UsageError, match="was not judged by the flag 'no_opp'; its flags are flat_output"):
        restriction(job.store, misspelt)


def test_a_restriction_frozen_with_a_pattern_keeps_its_id_and_its_meaning(job: Pipeline, first: Run) -> None:
    """`records` in `run.json` are ids or patterns, whatever a command now takes for a name."""
    snapshot = latest_snapshot(job.store, first)
    assert snapshot is not None
    before = reference(snapshot) | {"selection": {"records": ["even/000[02].png", "nobody/*"]}}
    old = job.plan(only=before, tau=2.0)
    assert set(job.actions(old)) == {"even/0000.png", "even/0002.png"}
    settings = {"schema": "lsb.plan/1", "shard_size": old.plan["shard_size"], "only": before}
    assert old.id == f"invert-{digest_of([old.dataset['version'], old.transform_id, settings])[:12]}"
    job.finish(old)
    assert verify(job.store, old.id).exit_code == 0
    chosen = Selection(match=("even/000[02].png",))
    again = restriction(job.store, RunOptions(records_from=first.id, selection=chosen))
    assert again == reference(snapshot) | {"selection": {"records": ["even/000[02].png"]}}
    named = RunOptions(records_from=first.id, selection=Selection(names=("even/000[02].png",)))
    with pytest.raises(UsageError, match="--match"):
        restriction(job.store, named)


def test_a_dry_run_writes_nothing_and_says_what_would_be_carried(job: Pipeline) -> None:
    first = job.plan()
    job.cut_off(first)
    job.add(70)
    before = {entry.key: entry.etag for entry in job.store.list("runs")}
    scratch = ScratchStore(job.store)
    planned = planned_as(scratch, run_spec(scratch, job.sources))
    assert (planned.parent and planned.parent["run"], planned.plan["carried"]) == (first.id, 2)
    assert {entry.key: entry.etag for entry in job.store.list("runs")} == before
    assert job.plan().id == planned.id


def test_what_was_refused_is_tried_again_once_pictures_are_decoded_in_another_way(
    job: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = job.plan(read="listing")
    job.finish(first)
    job.add(70)
    for module in ("tests.ledger", "lsb.jobs.parents"):
        monkeypatch.setattr(f"{module}.decoding_version", lambda rules: "of tomorrow")
    second = job.plan(read="listing")
    assert {key for key, action in job.actions(second).items() if action == "translate"} == {"new-70.png", "bad.png"}
    job.finish(second)
    assert job.rows(second)["bad.png"]["carried_from"] is None
    job.add(71)
    third = job.plan(read="listing")
    assert job.actions(third)["bad.png"] == "carry"
    job.finish(third)
    assert [job.verdict(run) for run in (first, second, third)] == [0, 0, 0]


def test_a_change_that_nothing_shows_is_found_by_the_shard_and_read_by_the_next_run(
    job: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, shown = ingest_module.list_sources, {}

    def blind(sources: Any, *choice: Any) -> Any:
        found = of(sources, *choice)
        files = Files(shown.setdefault(file.key, file) for file in found.files)
        return replace(found, files=files)

    monkeypatch.setattr("lsb.pictures.ingest.list_sources", blind)
    first = job.plan()
    job.finish(first)
    (job.folder / "odd" / "0001.png").write_bytes(encode(picture(72), "png"))
    assert job.plan().id == first.id
    fresh = job.plan(fresh=True)
    job.translate(fresh)
    assert job.rows(fresh)["odd/0001.png"]["error_code"] == "source_changed"
    healed = job.plan()
    assert job.actions(healed)["odd/0001.png"] == "translate"
    job.finish(healed)
    assert {row["status"] for row in job.rows(healed).values()} == {"ok", "quarantined"}
    assert verify(job.store, healed.id).exit_code == 0
