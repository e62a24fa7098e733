"""New data after a finished run: what is unchanged is carried, what is new is translated, and all of it adds up."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from lsb import ingest as ingest_module
from lsb.audit import verify
from lsb.carrying import reference
from lsb.cleanup import clean_up
from lsb.config import JobConfig
from lsb.domains import Side, StoredPrompt, provide_prompt
from lsb.erasure import erase
from lsb.errors import TamperedError, UsageError
from lsb.export import export
from lsb.images import encode
from lsb.ingest import ingest
from lsb.job import current_snapshot, may_take_the_name
from lsb.job import run_spec as run_spec_of
from lsb.lineage import RunOptions, inherited_prompt, planned_as, restriction
from lsb.manifest import collect_features
from lsb.measures import evaluation_settings
from lsb.metrics.scores import Scores
from lsb.models.load import load_backbone
from lsb.page import gather_report
from lsb.parents import runs_of_job
from lsb.publish import Snapshot, latest_snapshot, manifest_table, publish
from lsb.records import digest_of
from lsb.selection import Selection
from lsb.shard_job import run_shard
from lsb.sharding import Run, RunSpec, create_run, open_run, pending, read_plan
from lsb.status import status
from lsb.storage.layout import run_file
from lsb.storage.local import LocalStore
from lsb.storage.scratch import ScratchStore
from lsb.storage.seal import seal, unseal
from lsb.storage.snapshots import SnapshotLog, current_run, job_chain
from lsb.trace import trace
from tests.ledger import Inverter, make_images, picture, run_spec, worker
from tests.tiny import tiny_model

pytestmark = pytest.mark.usefixtures("exact_clock")


class Counting(LocalStore):
    """Sources that remember what was read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: list[str] = []

    def read(self, key: str) -> bytes:
        self.reads.append(key)
        return super().read(key)


class Judge:
    """The mean of an output is its only feature."""

    def score(self, sources: Any, outputs: Any, truths: Any) -> list[Scores]:
        return [Scores({}, np.full(2, np.asarray(output).mean(), np.float32)) for output in outputs]


class Pipeline:
    """A folder of images, a store, and the job that leads from one to the other."""

    def __init__(self, place: Path) -> None:
        self.folder = make_images(place / "images", 8)
        (self.folder / "bad.png").write_bytes(b"not a picture")
        self.store = LocalStore(place / "store")
        self.sources = Counting(self.folder)
        self.side_log = place / "side.log"

    def plan(self, *, fresh: bool = False, only: Any = None, **settings: Any) -> Run:
        spec = run_spec(self.store, self.sources, **settings)
        return planned_as(self.store, replace(spec, fresh=fresh, only=only))

    def translate(self, run: Run) -> None:
        for shard in run.shards():
            made = worker(self.sources, Inverter(side_log=self.side_log), scorer=Judge())
            run_shard(self.store, run, shard, made)

    def cut_off(self, run: Run, shard: str = "00000", batches: int = 1) -> None:
        """Translate and commit so many batches of two pictures of a shard, and no more."""
        left = iter([False] * (batches - 1))
        made = worker(self.sources, Inverter(2, self.side_log), scorer=Judge())
        run_shard(self.store, run, shard, made, stop=lambda: next(left, True))

    def add(self, *numbers: int) -> None:
        """New files."""
        for number in numbers:
            (self.folder / f"new-{number}.png").write_bytes(encode(picture(number), "png"))

    def verdict(self, run: Run) -> int:
        """What `lsb verify` ends with; a run that was cut off is incomplete, and nothing else."""
        verdict = verify(self.store, run.id)
        assert {finding.kind for finding in verdict.findings} <= {"incomplete"}
        assert verdict.orphans == ()
        return verdict.exit_code

    def finish(self, run: Run, **options: Any) -> Snapshot:
        self.translate(run)
        return publish(self.store, run, {}, b"page", **options)

    def rows(self, run: Run) -> dict[str, dict[str, Any]]:
        return {row["source_key"]: row for row in manifest_table(self.store, run).to_pylist()}

    def actions(self, run: Run) -> dict[str, str]:
        plan = read_plan(self.store, run)
        return dict(zip(plan["key"].to_pylist(), plan["action"].to_pylist(), strict=True))

    def change(self) -> None:
        """One new file, one with other bytes, one gone."""
        (self.folder / "new.png").write_bytes(encode(picture(70), "png"))
        (self.folder / "odd" / "0001.png").write_bytes(encode(picture(71), "png"))
        (self.folder / "even" / "0004.png").unlink()

    def translated(self) -> int:
        return len(self.side_log.read_text().split())


@pytest.fixture
def job(tmp_path: Path) -> Pipeline:
    return Pipeline(tmp_path)


@pytest.fixture
def first(job: Pipeline) -> Run:
    run = job.plan()
    job.finish(run)
    return run


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
    page = gather_report(job.store, second, None, job.sources)
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


def test_a_run_goes_on_from_the_newest_one_with_the_same_transform(job: Pipeline, first: Run) -> None:
    other = job.plan(tau=2.0)
    assert other.parent is None
    job.finish(other)
    assert current_run(job.store, "invert") == other.id
    job.change()
    second = job.plan()
    assert second.parent is not None
    assert second.parent["run"] == first.id


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
    with pytest.raises(UsageError, match="no record of run"):
        job.plan(only=nothing)


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


def test_what_a_run_that_was_cut_off_has_committed_is_carried(job: Pipeline) -> None:
    first = job.plan()
    job.cut_off(first)
    assert job.translated() == 2
    job.add(70)
    second = job.plan()
    assert second.parent is not None
    assert (second.parent["run"], second.parent["snapshot"], second.plan["carried"]) == (first.id, 0, 2)
    job.finish(second)
    assert job.translated() == 9  # nothing twice
    assert (job.verdict(second), job.verdict(first)) == (0, 11)
    origins = Counter(row["carried_from"] for row in job.rows(second).values())
    assert origins == {first.id: 2, None: 8}
    # Of the first run there is what was committed: no measures, no pictures, and not the job's name.
    snapshot = latest_snapshot(job.store, first)
    assert snapshot is not None
    assert (snapshot.counts, snapshot.planned, snapshot.stopped) == ({"ok": 2, "quarantined": 1}, 9, None)
    assert json.loads(job.store.read(snapshot.metrics_key)) == {}
    page = job.store.read(snapshot.report_key).decode()
    assert "was cut off" in page
    assert "<img" not in page
    assert "every planned image was translated" not in page
    assert [link.document["run"] for link in job_chain(job.store, "invert").links()] == [second.id]
    assert (status(job.store, first).records["ok"], status(job.store, first).records["pending"]) == (2, 6)


def test_what_is_committed_after_the_next_run_was_planned_is_made_again_and_never_mixed_in(job: Pipeline) -> None:
    first = job.plan()
    job.cut_off(first)
    job.add(70)
    second = job.plan()
    job.cut_off(first)  # a worker that is still at it
    assert job.plan() == second
    job.finish(second)
    assert job.translated() == 9 + 2
    rows = job.rows(second)
    assert Counter(row["carried_from"] for row in rows.values()) == {first.id: 2, None: 8}
    assert (job.verdict(second), job.verdict(first)) == (0, 11)
    # Whoever finishes the first one after all publishes it like any other, and the name does not come back to it.
    assert not may_take_the_name(job.store, first)
    job.translate(first)
    assert publish(job.store, first, {}, b"page", named=False).counts == {"ok": 8, "quarantined": 1}
    assert job.verdict(first) == 0


def test_a_window_shorter_than_the_data_gets_further_every_night(job: Pipeline) -> None:
    nights = []
    for night in range(5):
        job.add(70 + night)
        run = job.plan()
        nights.append(run)
        assert run.plan["carried"] == 2 * night
        job.cut_off(run)
    assert job.translated() == 10
    job.finish(nights[-1])
    assert (job.translated(), job.verdict(nights[-1])) == (8 + 5, 0)
    assert [run.parent and run.parent["run"] for run in nights] == [None, *[run.id for run in nights[:-1]]]
    assert all(job.verdict(run) == 11 for run in nights[:-1])
    assert len(set(job.rows(nights[-1])) & {f"new-{70 + night}.png" for night in range(5)}) == 5


def test_a_run_with_nothing_of_its_own_is_no_parent(job: Pipeline, first: Run) -> None:
    job.add(70)
    second = job.plan()  # and not a single commit
    job.add(71)
    third = job.plan()
    assert third.parent is not None
    assert third.parent["run"] == first.id
    assert latest_snapshot(job.store, second) is None
    job.finish(third)
    assert (job.verdict(third), job.translated()) == (0, 8 + 2)


def test_planning_twice_publishes_what_was_cut_off_once(job: Pipeline) -> None:
    first = job.plan()
    job.cut_off(first)
    job.add(70)
    second = job.plan()
    job.add(71)
    third = job.plan()  # the second has nothing of its own
    assert [run.parent and run.parent["run"] for run in (second, third)] == [first.id, first.id]
    assert len(SnapshotLog(job.store, first.id, first.sha256).history().snapshots) == 1


def test_of_several_runs_the_one_that_carries_most_is_the_parent(job: Pipeline, first: Run) -> None:
    """A night in which half of the folder was not there; then it is back."""
    (job.folder / "odd").rename(job.folder.parent / "away")
    half = job.plan()
    job.finish(half)
    assert (half.parent and half.parent["run"], half.plan["carried"]) == (first.id, 4)
    (job.folder.parent / "away").rename(job.folder / "odd")
    job.add(70)
    whole = job.plan()
    assert whole.parent is not None
    assert (whole.parent["run"], whole.plan["carried"]) == (first.id, 8)
    job.finish(whole)
    assert (job.translated(), job.verdict(whole)) == (9, 0)
    # Both carry the same now: the newest.
    job.add(71)
    assert (job.plan().parent or {})["run"] == whole.id


def test_only_runs_of_this_job_data_set_and_transform_are_parents(job: Pipeline, tmp_path: Path) -> None:
    spec = run_spec(job.store, job.sources)
    strangers = [
        create_run(job.store, replace(spec, job="invert-b")),
        create_run(job.store, replace(spec, dataset=ingest(job.sources, "other", job.store))),
        job.plan(tau=2.0),
    ]
    for run in strangers:
        job.cut_off(run)
    part = job.plan(only={**job_reference(job, strangers[0]), "selection": {"records": ["even/*"]}})
    job.cut_off(part)
    job.store.write("runs/invert-0123456789ab/plan-" + "0" * 64 + ".parquet", b"of no run")
    job.store.write("runs/invert-and-more/run.json", b"nobody's")
    job.add(70)
    assert job.plan().parent is None
    assert [run.id for run in runs_of_job(job.store, "invert-b")] == [strangers[0].id]


def job_reference(job: Pipeline, run: Run) -> dict[str, Any]:
    return reference(publish(job.store, run, {}, b"page", partial=True, named=False))


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


def spoil(job: Pipeline, place: str) -> None:
    """Change a byte in the one file that a pattern means."""
    (path,) = job.store.root.glob(place)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def lose(job: Pipeline, place: str) -> None:
    (path,) = job.store.root.glob(place)
    path.unlink()


@pytest.mark.parametrize("what", ["run.json", "shards/00000/log/00000000.json", "shards/00000/*/rows-00000.parquet"])
def test_a_damaged_run_that_was_cut_off_is_left_out_with_one_warning(
    job: Pipeline, first: Run, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    job.add(70, 71, 72)
    second = job.plan()
    job.cut_off(second)
    spoil(job, f"runs/{second.id}/{what}")
    job.add(73)
    third = job.plan()
    assert third.parent is not None
    assert third.parent["run"] == first.id
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert second.id in warning
    job.finish(third)
    assert job.verdict(third) == 0


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (spoil, "run.json"),
        (spoil, "snapshots/log/00000000.json"),
        (spoil, "snapshots/00000000/manifest.parquet"),
        (lose, "run.json"),
        (lose, "snapshots/00000000/manifest.parquet"),
    ],
)
def test_a_damaged_run_that_was_published_stops_the_plan(
    job: Pipeline, first: Run, harm: Callable[[Pipeline, str], None], what: str
) -> None:
    harm(job, f"runs/{first.id}/{what}")
    job.add(70)
    with pytest.raises(TamperedError, match=f"stands for run {first.id}.*start anew with --fresh"):
        job.plan()
    anew = job.plan(fresh=True)
    assert anew.parent is None
    job.finish(anew)
    # Once the name stands for another run the damaged one is no more than a warning.
    job.add(71)
    following = job.plan()
    assert (following.parent or {})["run"] == anew.id
    job.finish(following)
    assert job.verdict(following) == 0


def test_a_published_run_whose_folder_is_gone_stops_the_plan(job: Pipeline, first: Run) -> None:
    shutil.rmtree(job.store.root / "runs" / first.id)
    job.add(70)
    message = f"runs/{first.id}/run.json is missing; job invert stands for run {first.id}.*start anew with --fresh"
    with pytest.raises(TamperedError, match=message):
        job.plan()
    assert job.plan(fresh=True).parent is None


def test_what_is_carried_from_a_run_that_is_gone_is_tampered_with(job: Pipeline, first: Run) -> None:
    job.add(70)
    second = job.plan()
    job.finish(second)
    job.store.delete(run_file(first.id))
    views = (
        lambda: manifest_table(job.store, second),
        lambda: status(job.store, second),
        lambda: trace(job.store, second.id, "even/0000.png"),
    )
    for view in views:
        with pytest.raises(TamperedError, match=f"runs/{first.id}/run.json is missing"):
            view()
    assert verify(job.store, second.id).exit_code == 10


def test_an_unmeasured_snapshot_is_not_all_there_is_to_say(job: Pipeline, tmp_path: Path) -> None:
    """A run of which only publishing was left, published by a planner, and then finished."""
    config = JobConfig.model_validate(
        {
            "name": "invert",
            "store": job.store.uri,
            "model": "tiny",
            "source": {"domain": "noise", "path": str(job.folder)},
            "prompts": {"source": {"text": "a"}, "target": {"text": "b"}},
        }
    )
    first = job.plan()
    job.translate(first)
    job.add(70)
    assert (job.plan().parent or {})["run"] == first.id
    snapshot = latest_snapshot(job.store, first)
    assert snapshot is not None
    assert sum(snapshot.counts.values()) == snapshot.planned
    for partial in (False, True):
        assert current_snapshot(job.store, first, config, partial=partial) is None
    measured = publish(job.store, first, {"settings": evaluation_settings(config)}, b"page")
    assert current_snapshot(job.store, first, config) == measured
    assert current_run(job.store, "invert") == first.id


def test_the_name_goes_to_a_run_that_goes_on_through_one_that_was_cut_off(job: Pipeline, first: Run) -> None:
    job.add(70)
    second = job.plan()
    job.cut_off(second)
    job.add(71)
    third = job.plan()
    assert (third.parent or {})["run"] == second.id
    assert may_take_the_name(job.store, third)
    job.finish(third)
    assert not may_take_the_name(job.store, second)
    job.store.delete(run_file(first.id))
    assert not may_take_the_name(job.store, second)


def test_what_was_published_of_a_run_that_was_cut_off_can_be_erased_and_cleaned_up(job: Pipeline) -> None:
    first = job.plan()
    job.cut_off(first)
    job.add(70)
    second = job.plan()
    job.finish(second)
    carried = next(key for key, row in job.rows(second).items() if row["carried_from"] == first.id)
    done = erase(job.store, second.id, Selection(names=(carried,)), "request 17")
    assert (set(done.runs), set(done.snapshots)) == ({first.id, second.id}, {first.id, second.id})
    assert clean_up(job.store, older_than=-1, least=-1).left_alone == {}
    assert (job.verdict(first), job.verdict(second)) == (11, 0)
    assert job.rows(second)[carried]["status"] == "erased"
    job.add(71)
    third = job.plan()
    job.finish(third)
    assert (job.rows(third)[carried]["status"], job.verdict(third)) == ("erased", 0)


class Asked(LocalStore):
    """A store that remembers which runs' manifests were read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.manifests: list[str] = []

    def read(self, key: str) -> bytes:
        if key.endswith("manifest.parquet"):
            self.manifests.append(key.split("/")[1])
        return super().read(key)


def test_only_the_rows_of_runs_that_may_carry_more_are_read(job: Pipeline) -> None:
    """A folder that gains a file and loses one each night, for many nights, then nights that are cut off."""
    nights = []
    for night in range(6):
        job.add(70 + night)
        (job.folder / ("even" if night % 2 == 0 else "odd") / f"{night:04d}.png").unlink()
        nights.append(job.plan())
        job.finish(nights[-1])
    store = Asked(job.store.root)
    job.add(76)
    assert planned_as(ScratchStore(store), run_spec(store, job.sources)).plan["carried"] == 8
    assert store.manifests == [nights[-1].id] * 2  # once to choose, once to plan
    for night in range(4):
        job.add(*range(80 + 3 * night, 83 + 3 * night))
        nights.append(job.plan())
        job.cut_off(nights[-1])
    store.manifests.clear()
    job.add(99)
    planned = planned_as(ScratchStore(store), run_spec(store, job.sources))
    assert (planned.plan["carried"], planned.parent and planned.parent["run"]) == (8 + 4 * 2, nights[-1].id)
    assert set(store.manifests) == {nights[-2].id}  # what the last night carries


def test_what_was_refused_is_tried_again_once_pictures_are_decoded_in_another_way(
    job: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = job.plan(read="listing")
    job.finish(first)
    job.add(70)
    for module in ("sharding", "parents"):
        monkeypatch.setattr(f"lsb.{module}.decoding_version", lambda: "of tomorrow")
    second = job.plan(read="listing")
    assert {key for key, action in job.actions(second).items() if action == "translate"} == {"new-70.png", "bad.png"}
    job.finish(second)
    assert job.rows(second)["bad.png"]["carried_from"] is None
    job.add(71)
    third = job.plan(read="listing")
    assert job.actions(third)["bad.png"] == "carry"
    job.finish(third)
    assert [job.verdict(run) for run in (first, second, third)] == [0, 0, 0]


def test_how_a_parent_decoded_is_checked(job: Pipeline, first: Run) -> None:
    job.add(70)
    second = job.plan()
    job.finish(second)
    key = run_file(second.id)
    document = unseal(job.store.read(key), key=key, schema="lsb.run/1")
    assert document["parent"]["same_decoding"] is True
    document["parent"]["same_decoding"] = False
    job.store.write(key, seal(document))
    messages = [finding.message for finding in verify(job.store, second.id).findings]
    assert any("whether it decoded pictures in the same way" in message for message in messages)


class Nights:
    """A job whose target prompt is learned from the folder that it translates; files are added to that every night."""

    def __init__(self, place: Path, **learning: Any) -> None:
        self.job = Pipeline(place)
        self.backbone = load_backbone(str(tiny_model(place / "model")), device="cpu")
        self.learned = 0
        self.config = JobConfig.model_validate(
            {
                "name": "nightly",
                "store": self.job.store.uri,
                "model": str(place / "model"),
                "source": {"domain": "noise", "path": str(self.job.folder)},
                "prompts": {
                    "source": {"text": "a flat icon"},
                    "target": {"images": str(self.job.folder), "token": "<3d>", "initial": "icon"},
                },
                "learning": {"steps": 1, "batch": 2, "validate_every": 1, **learning},
                "execution": {"shard_size": 6},
            }
        )

    def spec(self, *, refit: bool = False, **planned_with: Any) -> RunSpec:
        """What tonight's run is to be, by the steps of `lsb run`; `planned_with` changes what `run.json` keeps."""
        store, config = self.job.store, self.config

        def prompt(side: Side) -> StoredPrompt:
            inherited = None if refit else inherited_prompt(store, config, side, self.backbone.identity)
            found = inherited or provide_prompt(store, config, side, self.backbone.identity, lambda: self.backbone)
            self.learned += found.new
            return found

        dataset = ingest(self.job.sources, "noise", store)
        spec = run_spec_of(config, dataset, prompt("source"), prompt("target"), self.backbone.identity)
        return replace(spec, config={**(spec.config or {}), **planned_with})


def test_three_nights_each_cut_off_each_with_new_files_and_a_learned_prompt(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    job, runs = nights.job, []
    for night in range(3):
        job.add(70 + night, 80 + night)
        runs.append(planned_as(job.store, nights.spec()))
        job.cut_off(runs[-1], batches=2)
        assert (job.translated(), runs[-1].plan["carried"]) == (4 * (night + 1), 4 * night)
    assert (nights.learned, len({run.transform_id for run in runs})) == (1, 1)
    assert (runs[2].parent or {})["run"] == runs[1].id
    job.finish(runs[2])
    assert job.translated() == 8 + 6
    origins = Counter(row["carried_from"] for row in job.rows(runs[2]).values())
    assert origins == {runs[0].id: 4, runs[1].id: 4, None: 4 + 2 + 1}  # what the last night made, and bad.png
    assert [job.verdict(run) for run in runs] == [11, 11, 0]
    assert current_run(job.store, "nightly") == runs[2].id


def test_prompts_learned_anew_are_those_of_the_nights_after(tmp_path: Path) -> None:
    nights = Nights(tmp_path, steps=8, learning_rate=0.1)
    first = planned_as(nights.job.store, nights.spec())
    nights.job.finish(first)
    nights.job.add(70)
    anew = planned_as(nights.job.store, nights.spec(refit=True))
    assert (nights.learned, anew.transform_id != first.transform_id, anew.parent) == (2, True, None)
    nights.job.cut_off(anew)
    nights.job.add(71)
    third = planned_as(nights.job.store, nights.spec())
    assert (nights.learned, third.transform_id, (third.parent or {})["run"]) == (2, anew.transform_id, anew.id)


@pytest.mark.parametrize(
    ("changed", "learned"),
    [
        ({"later": {"setting": 1}, "budget": {"another": 2}}, 1),  # of a version that knows more
        ({"learning": {"steps": 1, "batch": 2, "validate_every": 1}, "evaluate": {}}, 1),  # of one that knew less
        ({"learning": {"steps": 2, "batch": 2, "validate_every": 1}}, 2),
        ({"seed": "1"}, 2),
    ],
)
def test_learned_prompts_are_inherited_across_versions_of_the_settings(
    tmp_path: Path, changed: dict[str, Any], learned: int
) -> None:
    nights = Nights(tmp_path)
    create_run(nights.job.store, nights.spec(**changed))
    nights.job.add(70)
    nights.spec()
    assert nights.learned == learned


def delete_image(job: Pipeline, first: Run, second: Run) -> str:
    key = job.rows(second)["even/0002.png"]["output_key"]
    job.store.delete(key)
    return key


def change_image(job: Pipeline, first: Run, second: Run) -> str:
    key = job.rows(second)["even/0002.png"]["output_key"]
    job.store.write(key, encode(picture(1), "png"))
    return key


def change_manifest(job: Pipeline, first: Run, second: Run) -> str:
    snapshot = latest_snapshot(job.store, first)
    assert snapshot is not None
    job.store.write(snapshot.manifest_key, job.store.read(snapshot.manifest_key)[:-1] + b"x")
    return snapshot.manifest_key


def cut_snapshot(job: Pipeline, first: Run, second: Run) -> str:
    key = f"runs/{first.id}/snapshots/log/00000000.json"
    job.store.delete(key)
    return key


def cut_log(job: Pipeline, first: Run, second: Run) -> str:
    """The newest commit of the shard that made an image."""
    row = job.rows(second)["even/0002.png"]
    job.store.delete(f"runs/{first.id}/shards/{row['shard']}/log/00000000.json")
    return row["output_key"]


@pytest.mark.parametrize("spoil", [delete_image, change_image, change_manifest, cut_snapshot, cut_log])
def test_verify_finds_what_was_changed_about_carried_records(
    job: Pipeline, first: Run, spoil: Callable[[Pipeline, Run, Run], str]
) -> None:
    job.change()
    second = job.plan()
    job.finish(second)
    key = spoil(job, first, second)
    verdict = verify(job.store, second.id)
    assert verdict.exit_code == 10
    assert key in {finding.key for finding in verdict.findings}


def test_the_plan_of_a_run_that_carries_can_be_worked_out_again(job: Pipeline, first: Run) -> None:
    """A plan that carries a record which has changed does not pass."""
    from lsb.records import sha256
    from lsb.storage import layout
    from lsb.storage.schemas import PLAN, write_table

    job.change()
    second = job.plan()
    plan = read_plan(job.store, second)
    forged = plan.set_column(
        plan.schema.get_field_index("action"),
        PLAN.arrow.field("action"),
        pc.if_else(pc.equal(plan["key"], "odd/0001.png"), "carry", plan["action"]),
    )
    data = write_table(forged, PLAN)
    key = layout.plan_file(second.id, sha256(data))
    job.store.write(key, data)
    name = layout.run_file(second.id)
    document = unseal(job.store.read(name), key=name, schema="lsb.run/1")
    document["plan"] |= {"key": key, "sha256": sha256(data)}
    job.store.write(name, seal(document))
    verdict = verify(job.store, second.id)
    assert verdict.exit_code == 10
    assert any("does not follow from the data set, the parent" in finding.message for finding in verdict.findings)


def test_a_change_that_nothing_shows_is_found_by_the_shard_and_read_by_the_next_run(
    job: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, shown = ingest_module.list_sources, {}

    def blind(sources: Any) -> Any:
        found = of(sources)
        files = [shown.setdefault(file.key, file) for file in found.files]
        return replace(found, files=files)

    monkeypatch.setattr("lsb.ingest.list_sources", blind)
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
