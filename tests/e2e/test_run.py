"""A whole job, and what the other commands say about it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from flows.looking import result_of_nothing
from lsb.cli.commands import making
from lsb.config.job import load_config
from lsb.jobs.lineage import RunOptions
from tests.e2e.jobs import PICTURES, Job, lsb, make_job
from tests.keys import key_pair
from tests.tiny import tiny_model


def run_of(job: Job) -> Path:
    (run,) = (job.store / "runs").iterdir()
    return run


def test_every_picture_has_a_row_and_the_garbage_is_quarantined(
    finished: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = lsb(capsys, "status", run_of(finished), "--json")
    assert answer.code == 0
    assert answer.json["planned"] == PICTURES
    assert {k: v for k, v in answer.json["records"].items() if v} == {"ok": PICTURES - 1, "quarantined": 1}
    assert answer.json["shards"]["done"] == 3


def test_a_second_run_does_nothing_new(finished: Job, capsys: pytest.CaptureFixture[str]) -> None:
    before = finished.files()
    answer = lsb(capsys, "run", finished.config, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["translated"] == 0
    assert answer.json["counts"]["ok"] == PICTURES - 1
    (unusable,) = answer.json["problems"]
    assert unusable.startswith("1 quarantined (not_an_image): garbage.png. ")
    assert lsb(capsys, "run", finished.config).out.splitlines()[-1] == unusable
    assert Path(answer.json["report"]).read_text().lower().startswith("<!doctype html")
    assert finished.files() == before


def everything_in(store: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}


def test_without_a_named_server_none_is_started_where_nothing_is_to_do(
    finished: Job, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = lsb(capsys, "run", finished.config, "--json").json  # also reads what was listed as soon as it was made
    before = everything_in(finished.store)
    monkeypatch.setattr(making, "_server_is_named", lambda verbose: False)
    monkeypatch.setattr("lsb.cli.local_server.prefect_server", None)
    answer = lsb(capsys, "run", finished.config, "--json")
    assert (answer.code, answer.json, answer.err) == (0, said, "")
    assert everything_in(finished.store) == before


def test_where_something_is_to_do_nothing_is_done_to_find_that_out(
    finished: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lsb(capsys, "run", finished.config).code == 0
    before = everything_in(finished.store)
    more = shutil.copytree(finished.source, tmp_path / "more")
    (more / "new.png").write_bytes((more / "copy.png").read_bytes())
    jobs = {
        "as it is": finished,
        "pictures": finished.changed("pictures", source__path=str(more)),
        "transform": finished.changed("transform", bridge__tau=0.7),
        "measures": finished.changed("measures", evaluate__sample=2),
        "store": finished.changed("store", store=str(tmp_path / "store")),
    }
    found = {name: result_of_nothing(load_config(job.config), None, RunOptions()) for name, job in jobs.items()}
    assert [name for name, result in found.items() if result is not None] == ["as it is"]
    assert result_of_nothing(load_config(finished.config), None, RunOptions(reread=True)) is None
    assert everything_in(finished.store) == before
    assert not (tmp_path / "store").exists()


def test_a_dry_run_of_a_finished_job_names_its_run(finished: Job, capsys: pytest.CaptureFixture[str]) -> None:
    before = finished.files()
    answer = lsb(capsys, "run", finished.config, "--dry-run", "--json")
    assert answer.code == 0, answer.err
    assert (answer.json["run"], answer.json["pending"]) == (run_of(finished).name, 0)
    choice = ("--records-from", run_of(finished), "--match", "group-0/*")
    few = lsb(capsys, "run", finished.config, *choice, "--dry-run", "--json").json
    assert (few["records"], few["pending"], sum(few["sizes"]["outputs"].values())) == (5, 5, 5)
    assert answer.json["records"] == PICTURES
    assert finished.files() == before


def test_a_file_that_init_wrote_can_be_run(
    job: Job, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, file = job.source.with_name("3d"), tmp_path / "new" / "job.yaml"
    answer = lsb(capsys, "init", job.source, target, "--model", model, "--out", file, "--json")
    assert (answer.code, answer.json["job"], answer.json["name"]) == (0, str(file), "flat-to-3d")
    resolved = lsb(capsys, "run", file, "--dry-run", "--json")
    assert (resolved.code, resolved.json["records"]) == (0, PICTURES)
    assert (resolved.json["prompts_to_learn"], resolved.json["forwards_to_learn"]) == ([], None)
    again = lsb(capsys, "init", job.source, target, "--model", model, "--out", file)
    assert (again.code, "exists" in again.complaint) == (2, True)


def test_a_dry_run_of_a_new_job_writes_nothing(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    answer = lsb(capsys, "run", job.config, "--dry-run", "--json")
    assert answer.code == 0, answer.err
    assert not job.store.exists()
    resolved = answer.json
    assert (resolved["records"], resolved["quarantined"], resolved["duplicates"]) == (PICTURES, 1, 1)
    assert (resolved["shards"], resolved["pending"], resolved["forwards_per_image"]) == (3, PICTURES - 1, 3)
    assert len(resolved["transform_id"]) == 64


def test_verify_accepts_the_run(finished: Job, capsys: pytest.CaptureFixture[str]) -> None:
    answer = lsb(capsys, "verify", run_of(finished), "--json")
    assert (answer.code, answer.json["verdict"], answer.json["findings"]) == (0, "intact", [])


@pytest.mark.parametrize(
    "pattern",
    [
        "shards/*/*/*.png",
        "shards/*/*/rows-*.parquet",
        "shards/*/log/*.json",
        "snapshots/*/manifest.parquet",
        "snapshots/*/metrics.json",
    ],
)
def test_verify_names_the_file_in_which_one_byte_was_changed(
    finished: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str], pattern: str
) -> None:
    shutil.copytree(finished.store, tmp_path / "store")
    run = tmp_path / "store" / "runs" / run_of(finished).name
    victim = sorted(run.glob(pattern))[0]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    answer = lsb(capsys, "verify", run)
    assert answer.code == 10
    assert str(victim.relative_to(tmp_path / "store")) in answer.err


def test_a_signed_snapshot_is_verified_with_key_and_digest(
    finished: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = finished.changed("signed", store=str(tmp_path / "store"))
    shutil.copytree(finished.store, job.store)
    private, public = key_pair(tmp_path)
    monkeypatch.setenv("LSB_SIGNING_KEY", str(public))
    refused = lsb(capsys, "run", job.config)
    assert refused.code == 2
    assert "LSB_SIGNING_KEY" in refused.complaint
    monkeypatch.setenv("LSB_SIGNING_KEY", str(private))
    answer = lsb(capsys, "run", job.config, "--json")
    assert (answer.code, answer.json["snapshot"], answer.json["translated"]) == (0, 1, 0), answer.err
    run = run_of(job)
    anchored = lsb(capsys, "verify", run, "--key", public, "--snapshot", answer.json["snapshot_sha256"], "--json")
    assert (anchored.code, anchored.json["assurance"][:16]) == (0, "signed with key "), anchored.err
    assert anchored.json["snapshot"] == answer.json["snapshot_sha256"]
    assert lsb(capsys, "verify", run, "--key", private).code == 2


@pytest.fixture
def threads(finished: Job) -> Iterator[int]:
    """More of torch's threads than the finished job was done with."""
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    yield torch.get_num_threads()
    torch.set_num_threads(before)


def test_a_replay_gives_the_same_pixels_to_the_bit_with_whatever_threads_it_begins(
    finished: Job, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], threads: int
) -> None:
    run = run_of(finished)
    moved = shutil.copytree(model, tmp_path / "moved")
    answer = lsb(capsys, "verify", run, "--replay", "3", "--model", moved, "--json")
    assert (answer.code, answer.json["verdict"]) == (0, "intact"), answer.err
    assert [(one["basis"], one["same"]) for one in answer.json["replayed"]] == [("bit", True)] * 3
    assert torch.get_num_threads() == threads
    said = lsb(capsys, "verify", run, "--sample", "0", "--replay", "3").out
    assert "3 outputs, 3 the same to the bit" in said


def test_a_replay_needs_the_model_of_the_run(finished: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = lsb(capsys, "verify", run_of(finished), "--replay", "1", "--model", tmp_path / "nowhere")
    assert nowhere.code == 3
    assert "--model" in nowhere.complaint
    other = lsb(capsys, "verify", run_of(finished), "--replay", "1", "--model", tiny_model(tmp_path / "other", seed=1))
    assert other.code == 3
    assert "is not the model of run" in other.complaint


def test_a_replay_after_tampering_translates_nothing(
    finished: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished.store, tmp_path / "store")
    run = tmp_path / "store" / "runs" / run_of(finished).name
    next(run.glob("shards/*/*/*.png")).unlink()
    answer = lsb(capsys, "verify", run, "--replay", "1", "--json")
    assert (answer.code, answer.json["replayed"]) == (10, [])


def test_trace_tells_of_an_output_where_it_came_from(
    finished: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = sorted(run_of(finished).glob("shards/*/*/*.png"))[0]
    answer = lsb(capsys, "trace", output, "--json")
    assert answer.code == 0, answer.err
    found = answer.json[0]
    assert (finished.source / found["source"]["key"]).exists()
    assert (found["prompts"]["target"]["text"], found["output"]["file"]) == ("a 3d icon", "intact")
    shutil.copy(output, tmp_path / "picture.png")
    again = lsb(capsys, "trace", tmp_path / "picture.png", "--run", run_of(finished))
    assert again.code == 0
    assert found["record_id"] in again.out
    assert lsb(capsys, "trace", tmp_path / "picture.png").code == 2


def test_export_uses_the_names_of_the_sources(
    finished: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = lsb(capsys, "export", run_of(finished), tmp_path / "out", "--json")
    assert (answer.code, answer.json["written"], answer.json["without_output"]) == (0, PICTURES - 1, 1)
    names = {str(path.relative_to(finished.source)) for path in finished.source.rglob("*.png")}
    exported = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    assert exported == names - {"garbage.png"}


def test_report_writes_a_copy_of_the_page(finished: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = lsb(capsys, "report", run_of(finished), "--out", tmp_path / "page.html")
    assert answer.code == 0
    page = (tmp_path / "page.html").read_text()
    assert "garbage.png" in page
    assert 'src="http' not in page


def test_the_metrics_hold_the_reference_rows(finished: Job) -> None:
    (file,) = run_of(finished).glob("snapshots/*/metrics.json")
    rows = {row["key"] for row in json.loads(file.read_text())["rows"]}
    assert {"translation", "source", "source_vae", "target_vae", "source_colour"} <= rows


@pytest.mark.parametrize("command", [["run"], ["run", "--dry-run"], ["translate"], ["evaluate"], ["publish"]])
def test_a_run_refuses_to_resume_with_other_settings(
    finished: Job, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    other = finished.changed("other", bridge__tau=0.7)
    files = finished.files()
    answer = lsb(capsys, *command, other.config, "--resume", run_of(finished).name)
    assert answer.code == 2
    assert "transform.bridge.tau" in answer.complaint
    assert finished.files() == files


def test_quarantine_beyond_the_budget_ends_with_4_after_everything_is_published(
    finished: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    strict = finished.changed("strict", budget__max_quarantined_fraction=0.01)
    answer = lsb(capsys, "run", strict.config)
    assert answer.code == 4
    assert "max_quarantined_fraction" in answer.complaint


def test_stages_one_by_one_lead_to_the_same_run(
    finished: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = finished.changed("alone", store=str(tmp_path / "store"), evaluate={"sample": 2})
    assert lsb(capsys, "ingest", alone.config).code == 0
    assert "lsb plan" in lsb(capsys, "translate", alone.config).complaint
    for stage in ("optimise", "plan", "translate", "evaluate", "publish"):
        answer = lsb(capsys, stage, alone.config, "--json")
        assert answer.code == 0, (stage, answer.err)
    assert Path(answer.json["run"]).name == run_of(finished).name
    assert lsb(capsys, "verify", answer.json["run"]).code == 0


def test_learned_prompts_are_learned_once(finished: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = finished.changed(
        "learned",
        store=str(tmp_path / "store"),
        prompts={
            "source": {"images": str(finished.source), "token": "<flat>", "initial": "icon"},
            "target": {
                "domain": "3d",
                "images": str(finished.source.with_name("3d")),
                "token": "<3d>",
                "initial": "icon",
            },
        },
        learning={"steps": 4, "batch": 2, "validate_every": 2},
    )
    dry = lsb(capsys, "run", job.config, "--dry-run", "--json")
    assert (dry.json["prompts_to_learn"], dry.json["run"]) == (["flat", "3d"], None)
    first = lsb(capsys, "optimise", job.config, "--json")
    assert first.code == 0, first.err
    assert [first.json[side]["learned_now"] for side in ("source", "target")] == [True, True]
    second = lsb(capsys, "optimise", job.config, "--json")
    assert [second.json[side]["learned_now"] for side in ("source", "target")] == [False, False]
    assert first.json["source"]["id"] == second.json["source"]["id"] != first.json["target"]["id"]


def pixels(manifest: str) -> dict[str, str | None]:
    """Source key -> digest of the output's pixels."""
    rows = pq.read_table(manifest).to_pylist()
    return {row["source_key"]: row["pixels_sha256"] for row in rows}


@pytest.mark.long  # its parts: tests/integration/test_ledger_workers.py
def test_two_processes_make_the_same_pixels_as_one(
    finished: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = finished.changed("pool", store=str(tmp_path / "store"), execution__workers=2, evaluate={"sample": 2})
    answer = lsb(capsys, "run", job.config, "--json")
    assert answer.code == 0, answer.err
    assert (answer.json["translated"], answer.json["counts"]["ok"]) == (PICTURES - 2, PICTURES - 1)
    assert lsb(capsys, "verify", answer.json["run"]).code == 0
    first = lsb(capsys, "run", finished.config, "--json")
    assert pixels(answer.json["manifest"]) == pixels(first.json["manifest"])


@pytest.mark.long  # its parts: unit/models/test_stable_diffusion.py
def test_the_layout_of_stable_diffusion_gives_the_same_pixels_twice(
    server: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Version 1.5 in all but its widths: two runs that share nothing but pictures and model."""
    model = tiny_model(tmp_path / "model", layout="1.5")
    job = make_job(tmp_path, model, bridge={"tau": 0.6, "nfe": 3}, evaluate={"sample": 2})
    found = []
    for name in ("one", "two"):
        answer = lsb(capsys, "run", job.changed(name, store=str(tmp_path / name)).config, "--json")
        assert answer.code == 0, answer.err
        assert (answer.json["translated"], answer.json["counts"]["ok"]) == (PICTURES - 2, PICTURES - 1)
        found.append(pixels(answer.json["manifest"]))
    assert found[0] == found[1]
    assert len(set(found[0].values())) == PICTURES - 1  # one is a copy, one has none


def test_the_run_that_is_to_go_on_may_be_named(finished: Job, capsys: pytest.CaptureFixture[str]) -> None:
    files = finished.files()
    for name in (run_of(finished).name, run_of(finished)):
        answer = lsb(capsys, "run", finished.config, "--resume", name, "--json")
        assert (answer.code, answer.json["translated"]) == (0, 0), answer.err
        assert Path(answer.json["run"]) == run_of(finished)
    assert finished.files() == files


def test_a_stage_names_the_one_that_comes_before_it(job: Job, server: None, capsys: pytest.CaptureFixture[str]) -> None:
    learned = {"images": str(job.source), "token": "<flat>", "initial": "icon"}
    answer = lsb(capsys, "plan", job.changed("learned", prompts__source=learned).config)
    assert (answer.code, "run `lsb optimise`" in answer.complaint) == (2, True)

    assert lsb(capsys, "plan", job.config).code == 0
    answer = lsb(capsys, "run", job.config, "--records-from", run_of(job), "--match", "*")
    assert (answer.code, "has published nothing to choose records from; finish it" in answer.complaint) == (2, True)


def test_what_deletes_says_which_run_it_could_not_read(
    finished: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished.store, tmp_path / "store")
    run, other = tmp_path / "store" / "runs" / run_of(finished).name, tmp_path / "store" / "runs" / "other-0123456789ab"
    shutil.copytree(run, other)
    (other / "run.json").write_text("{")
    swept = lsb(capsys, "gc", tmp_path / "store")
    assert (swept.code, f"{other.name} was left alone: " in swept.err) == (10, True), swept.err
    erased = lsb(capsys, "erase", run, "--records", "group-0/02.png", "--reason", "request 1")
    assert (erased.code, f"run {other.name} cannot be read and may show the images" in erased.err) == (10, True), (
        erased.err
    )
    assert lsb(capsys, "status", run, "--json").json["records"]["erased"] > 0
