"""A store that an earlier version wrote is read, resumed, carried from and verified; how it was made stands in
`tests/fixtures/make_old_store.py`.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from lsb import open_run
from lsb.audit.replay import TOLERANCES
from tests.e2e.jobs import lsb

FIXTURE = Path(__file__).parents[1] / "fixtures" / "old_store.zip"
FIRST, SECOND, CUT_OFF = "nightly-60a2c783e107", "nightly-4b6683086559", "nightly-41a8306aa468"
BY_PATTERN, LISTED = "nightly-b465947b4c87", "listed-9f5c39c26aab"
VERDICTS = {FIRST: 0, SECOND: 0, BY_PATTERN: 0, "listed-52857dd36abe": 0, LISTED: 0, CUT_OFF: 11}

pytestmark = pytest.mark.usefixtures("server")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The folder with `store`, `inbox`, `style`, `listed` and `model`; file times are those of today."""
    with zipfile.ZipFile(FIXTURE) as archive:
        archive.extractall(tmp_path)
    return tmp_path


def run_file(old: Path, run: str) -> dict[str, Any]:
    return dict(json.loads((old / "store" / "runs" / run / "run.json").read_text()))


def job_of(old: Path, run: str, geometry: dict[str, str] | None = None) -> Path:
    """A job file with the settings that a run was planned with, and the folders where they lie now.

    Args:
        geometry: by default the line that keeps the pictures; an empty one says nothing, as files did then.
    """
    settings = run_file(old, run)["config"]
    said = {"fit": "letterbox"} if geometry is None else geometry
    settings |= {"geometry": said} if said else {}
    text = yaml.safe_dump(settings).replace("/data/", f"{old}/")
    file = old / f"{run}.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(("run", "code"), VERDICTS.items())
def test_every_run_has_the_verdict_that_it_had(
    old: Path, run: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sorted(path.name for path in (old / "store" / "runs").iterdir()) == sorted(VERDICTS)
    answer = lsb(capsys, "verify", old / "store" / "runs" / run, "--json")
    assert (answer.code, [finding["kind"] for finding in answer.json["findings"]]) == (
        code,
        ["incomplete"] if code else [],
    )
    assert answer.json["orphans"] == 0


def test_views_read_it(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = old / "store" / "runs"
    status = lsb(capsys, "status", runs / CUT_OFF, "--json").json
    assert {name: count for name, count in status["records"].items() if count} == {
        "ok": 6,
        "quarantined": 1,
        "erased": 1,
        "pending": 2,
    }
    found = lsb(capsys, "diff", runs / FIRST, runs / SECOND, "--json").json
    assert (found["added"], found["vanished"], found["unchanged"]) == (["icon-4.png"], [], 5)
    assert lsb(capsys, "export", runs / SECOND, tmp_path / "out", "--json").json["written"] == 4
    traced = lsb(capsys, "trace", "icon-0.png", "--run", runs / SECOND, "--json").json
    assert (traced[0]["made"]["carried_from"], traced[0]["output"]["file"]) == (FIRST, "intact")
    assert lsb(capsys, "report", runs / SECOND).code == 0
    assert lsb(capsys, "gc", old / "store", "--dry-run").code == 0


def test_pixels_made_anew_are_those_that_it_holds(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = lsb(capsys, "run", job_of(old, SECOND), "--fresh", "--json")
    assert (answer.code, answer.json["translated"]) == (0, 9), answer.err
    made, anew = manifest(old / "store" / "runs" / SECOND), manifest(Path(answer.json["run"]))
    held = {key: row for key, row in made.items() if row["status"] == "ok"}
    assert len(held) == 4
    same = ("transform_id", "model_digest", "source_prompt", "target_prompt")
    assert {key: [anew[key][name] for name in same] for key in held} == {
        key: [row[name] for name in same] for key, row in held.items()
    }
    allowed = TOLERANCES["float32"]  # since the processor is hardly the one that it was
    for key, row in held.items():
        now, then = (pixels(old / "store" / one["output_key"]) for one in (anew[key], row))
        assert np.abs(now - then).max() <= allowed.largest
        assert np.abs(now - then).mean() <= allowed.mean


def pixels(file: Path) -> npt.NDArray[np.float64]:
    return np.asarray(Image.open(file), np.float64)


def manifest(run: Path) -> dict[str, dict[str, Any]]:
    """The rows of a run's newest manifest by source key."""
    newest = sorted(run.glob("snapshots/*/manifest.parquet"))[-1]
    return {row["source_key"]: row for row in pq.read_table(newest).to_pylist()}


@pytest.mark.parametrize("command", ["run", "rerun"])
def test_a_run_that_was_cut_off_is_finished(old: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    job, run = job_of(old, CUT_OFF), old / "store" / "runs" / CUT_OFF
    answer = (
        lsb(capsys, "run", job, "--json") if command == "run" else lsb(capsys, "rerun", run, "--config", job, "--json")
    )
    assert answer.code == 0, answer.err
    assert (Path(answer.json["run"]).name, answer.json["translated"], answer.json["carried"]) == (CUT_OFF, 2, 5)
    assert answer.json["counts"] == {"ok": 8, "quarantined": 1, "erased": 1}
    assert lsb(capsys, "verify", run).code == 0
    opened = open_run(run)
    counted = opened.records.query("carried_from.isna() and status == 'ok'")["device_seconds"]
    assert (counted.notna().sum(), counted.isna().sum()) == (2, 2)  # that version counted nothing
    assert opened.costs["shards"].isna().all()


def test_the_next_night_carries_what_was_committed(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (24, 32), "teal").save(old / "inbox" / "icon-9.png")
    answer = lsb(capsys, "run", job_of(old, CUT_OFF), "--json")
    assert answer.code == 0, answer.err
    assert Path(answer.json["run"]).name not in VERDICTS
    assert (answer.json["translated"], answer.json["carried"]) == (3, 7)
    assert answer.json["counts"] == {"ok": 9, "quarantined": 1, "erased": 1}
    parent = run_file(old, Path(answer.json["run"]).name)["parent"]
    assert (parent["run"], parent["snapshot"]) == (CUT_OFF, 0)
    for run, code in {**VERDICTS, Path(answer.json["run"]).name: 0}.items():
        assert lsb(capsys, "verify", old / "store" / "runs" / run).code == code


def test_a_finished_job_is_still_finished(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The newest finished state of the inbox: what was asked for then finds its run, its prompts and its snapshot."""
    for number in (5, 6, 7, 8):
        (old / "inbox" / f"icon-{number}.png").unlink()
    snapshots = sorted((old / "store" / "runs" / SECOND).glob("snapshots/*"))
    answer = lsb(capsys, "run", job_of(old, SECOND), "--json")
    assert (answer.code, Path(answer.json["run"]).name, answer.json["translated"]) == (0, SECOND, 0), answer.err
    assert sorted((old / "store" / "runs" / SECOND).glob("snapshots/*")) == snapshots


def files(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", [["run"], ["run", "--dry-run"], ["run", "--fresh"], ["optimise"], ["plan"]])
def test_a_job_that_says_nothing_of_its_geometry_stops_before_all_is_made_again(
    old: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(old / "store")
    answer = lsb(capsys, *command, job_of(old, CUT_OFF, {}))
    assert answer.code == 2
    complaint = answer.complaint
    assert f"the job's newest run, {CUT_OFF}, was made with letterbox: its 6 pictures would be made again" in complaint
    assert "add `geometry: {fit: letterbox}` to the job to keep them" in complaint
    assert "`geometry: {fit: aspect}` to have all made anew" in complaint
    assert files(old / "store") == before


@pytest.mark.long  # its parts: tests/e2e/test_sizes.py
def test_with_the_line_that_takes_the_new_every_picture_has_its_own_size(
    old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_of(old, CUT_OFF, {"fit": "aspect"})
    foreseen = lsb(capsys, "run", job, "--dry-run", "--json").json
    assert (foreseen["carried"], foreseen["parent"], foreseen["prompts_to_learn"]) == (0, None, ["flat"])
    assert foreseen["sizes"]["outputs"] == {"24x32": 9}
    answer = lsb(capsys, "run", job, "--json")
    assert (answer.code, answer.json["translated"], answer.json["carried"]) == (0, 9, 0), answer.err
    made = [row for row in manifest(Path(answer.json["run"])).values() if row["status"] == "ok"]
    assert {(row["output_width"], row["output_height"]) for row in made} == {(24, 32)}
    transform = run_file(old, Path(answer.json["run"]).name)["transform"]
    assert transform["geometry"] == {"fit": "aspect"}
    # Now that this one is the newest, nobody is surprised by it, and the line may go.
    answer = lsb(capsys, "run", job_of(old, CUT_OFF, {}), "--json")
    assert (answer.code, answer.json["translated"]) == (0, 0), answer.err
    # Back again is a choice as well, and finds what there was.
    answer = lsb(capsys, "run", job_of(old, CUT_OFF), "--json")
    assert (answer.code, answer.json["translated"], answer.json["carried"]) == (0, 2, 5), answer.err


@pytest.mark.parametrize("command", [["run", "--resume", CUT_OFF], ["rerun"], ["translate"]])
def test_a_frozen_run_is_finished_as_it_is_whatever_the_default_is_now(
    old: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    job, run = job_of(old, CUT_OFF, {}), old / "store" / "runs" / CUT_OFF
    arguments = [*command, run, "--config", job] if command == ["rerun"] else [*command, job]
    answer = lsb(capsys, *arguments, "--json")
    assert (answer.code, answer.json["translated"]) == (0, 2), answer.err
    if command == ["translate"]:
        published = lsb(capsys, "publish", job, "--json")
        assert (published.code, Path(published.json["run"]).name) == (0, CUT_OFF), published.err
    rows = manifest(run)
    assert {(row["output_width"], row["output_height"]) for row in rows.values() if row["status"] == "ok"} == {(24, 32)}
    assert lsb(capsys, "verify", run).code == 0


def test_what_is_asked_for_beside_a_frozen_run_is_still_refused(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = lsb(capsys, "run", job_of(old, CUT_OFF, {"fit": "aspect"}), "--resume", CUT_OFF)
    assert answer.code == 2
    assert "transform.geometry is None, asked for {'fit': 'aspect'}" in answer.complaint


def test_records_chosen_by_a_pattern_then_are_the_same_run_now(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`run.json` keeps the choice `icon-[12].png` as it was meant, as a pattern."""
    document = run_file(old, BY_PATTERN)
    assert document["plan"]["only"]["selection"] == {"records": ["icon-[12].png"]}
    rows = manifest(old / "store" / "runs" / BY_PATTERN)
    assert sorted(rows) == ["icon-1.png", "icon-2.png"]


def test_an_image_is_erased_from_it_wherever_it_is_carried(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = old / "store" / "runs"
    answer = lsb(capsys, "erase", runs / SECOND, "--records", "icon-1.png", "--reason", "request 18", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["runs"] == sorted([FIRST, SECOND, CUT_OFF])
    assert manifest(runs / SECOND)["icon-1.png"]["status"] == "erased"
    for run in (FIRST, SECOND):
        assert lsb(capsys, "verify", runs / run).code == 0


def test_another_night_of_a_job_that_only_lists(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = lsb(capsys, "run", job_of(old, LISTED), "--json")
    assert answer.code == 0, answer.err
    assert answer.json["counts"] == {"ok": 2, "quarantined": 1}
    assert lsb(capsys, "verify", answer.json["run"]).code == 0
