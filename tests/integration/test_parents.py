"""Which run a new one goes on from: of those that were finished, were cut off, are damaged or gone."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lsb.config.job import JobConfig
from lsb.errors import TamperedError
from lsb.jobs.erase import erase
from lsb.jobs.gc import clean_up
from lsb.jobs.job import current_snapshot, may_take_the_name
from lsb.jobs.lineage import planned_as
from lsb.jobs.measures import evaluation_settings
from lsb.jobs.parents import runs_of_job
from lsb.ledger.carrying import reference
from lsb.ledger.layout import run_file
from lsb.ledger.log.snapshots import SnapshotLog, current_run, job_chain
from lsb.ledger.publish import latest_snapshot, publish
from lsb.ledger.run import Run, create_run
from lsb.ledger.selection import Selection
from lsb.pictures.ingest import ingest
from lsb.store.local import LocalStore
from lsb.store.scratch import ScratchStore
from lsb.views.status import status
from tests.integration.pipeline import Pipeline, lose, spoil
from tests.ledger import run_spec

pytestmark = pytest.mark.usefixtures("exact_clock")


def test_a_run_goes_on_from_the_newest_one_with_the_same_transform(job: Pipeline, first: Run) -> None:
    other = job.plan(tau=2.0)
    assert other.parent is None
    job.finish(other)
    assert current_run(job.store, "invert") == other.id
    job.change()
    second = job.plan()
    assert second.parent is not None
    assert second.parent["run"] == first.id


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
