"""Records that failed are tried again, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.e2e.jobs import PICTURES, Job, lsb

GONE = ("group-0/02.png", "group-1/05.png")


def rows(run: Path) -> dict[str, dict[str, Any]]:
    """The newest manifest by record id."""
    manifest = sorted(run.glob("snapshots/*/manifest.parquet"))[-1]
    return {row["record_id"]: row for row in pq.read_table(manifest).to_pylist()}


@pytest.mark.long  # its parts: unit/jobs/test_rerun.py
@pytest.mark.usefixtures("server")
def test_a_dry_run_prints_exactly_what_then_runs(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    few = job.changed("few", evaluate={"sample": 2}, budget={"max_failed_fraction": 0.2})
    assert lsb(capsys, "plan", few.config).code == 0
    kept = {name: (job.source / name).read_bytes() for name in GONE}
    for name in GONE:
        (job.source / name).unlink()
    (run,) = (job.store / "runs").iterdir()
    for stage in ("translate", "publish"):
        # The same data as far as the run is concerned: it is named, so that the files are not looked at again.
        answer = lsb(capsys, stage, few.config, "--resume", run)
    assert answer.code == 0, answer.err
    before = rows(run)
    assert {row["source_key"] for row in before.values() if row["status"] == "failed"} == set(GONE)

    for name, data in kept.items():
        (job.source / name).write_bytes(data)
    files = job.files()
    dry = lsb(capsys, "rerun", run, "--match", "group-0/*", "--dry-run", "--json")
    assert (dry.code, dry.json["records"]) == (0, 1), dry.err
    assert "group-0/02.png" in lsb(capsys, "rerun", run, "--match", "group-0/*", "--dry-run").out
    assert job.files() == files

    answer = lsb(capsys, "rerun", run, "--match", "group-0/*", "--json")
    assert (answer.code, answer.json["translated"], answer.json["snapshot"]) == (0, 1, 1), answer.err
    after = rows(run)
    chosen = {record for records in dry.json["shards"].values() for record in records}
    assert {record for record in after if after[record] != before[record]} == chosen
    assert {(after[record]["status"], after[record]["tries"]) for record in chosen} == {("ok", 2)}

    answer = lsb(capsys, "rerun", run, "--failed", "--workers", "2", "--json")
    assert (answer.code, answer.json["counts"]["ok"], answer.json["snapshot"]) == (0, PICTURES - 1, 2), answer.err
    assert lsb(capsys, "verify", run).code == 0

    # Once more: there is nothing to do and nothing new to say.
    files = job.files()
    answer = lsb(capsys, "rerun", run, "--json")
    assert (answer.code, answer.json["translated"], answer.json["snapshot"]) == (0, 0, 2)
    assert job.files() == files


@pytest.mark.long  # its parts: unit/jobs/test_rerun.py
@pytest.mark.usefixtures("server")
def test_chosen_shards_of_an_unfinished_run(finished: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = finished.changed("shards", store=str(tmp_path / "store"), evaluate={"sample": 2})
    assert lsb(capsys, "plan", job.config).code == 0
    (run,) = (job.store / "runs").iterdir()
    answer = lsb(capsys, "rerun", run, "--shards", "00001", "--json")
    assert answer.code == 5
    assert "other records" in answer.complaint
    assert not (job.store / "jobs").exists()  # a part is published, but the job's name does not stand for it
    assert {row["shard"] for row in rows(run).values()} == {None, "00001"}
    assert lsb(capsys, "verify", run).code == 11
    answer = lsb(capsys, "rerun", run, "--json")
    assert (answer.code, answer.json["counts"]["ok"]) == (0, PICTURES - 1)
    assert (job.store / "jobs").exists()
    assert lsb(capsys, "verify", run).code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shards", "99999"], "has no shard 99999; it has 3"),
        (["--status", "quarantined"], "allowed are failed and pending"),
        (["--records", "nothing/*"], "a pattern is given with --match"),
        (["--match", "nothing/*"], "no record that run"),
        (["--failed", "--shards", "00000"], "--failed is every failure"),
    ],
)
def test_a_choice_that_means_nothing(
    finished: Job, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    (run,) = (finished.store / "runs").iterdir()
    answer = lsb(capsys, "rerun", run, *arguments, "--dry-run")
    assert (answer.code, words in answer.complaint) == (2, True), answer.err


def test_other_settings_or_another_model_are_refused_by_name(finished: Job, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = (finished.store / "runs").iterdir()
    other = finished.changed("warmer", bridge__tau=0.7)
    answer = lsb(capsys, "rerun", run, "--config", other.config)
    assert (answer.code, "transform.bridge.tau is 0.6, asked for 0.7" in answer.complaint) == (2, True)
