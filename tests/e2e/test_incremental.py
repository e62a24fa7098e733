"""The same job again after new data: through the command, with the tiny model."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.jobs import PICTURES, SIZE, Job, log_entries, lsb, start_lsb, wait_for_commits
from tests.gate import Gate


@pytest.mark.usefixtures("server")
def test_new_data_makes_a_run_that_carries_what_is_unchanged(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learned = {"images": str(job.source), "token": "<flat>", "initial": "icon"}
    nightly = job.changed(
        "nightly",
        prompts__source=learned,
        learning={"steps": 2, "batch": 2, "validate_every": 2},
        evaluate={"sample": 4},
    )
    first = lsb(capsys, "run", nightly.config, "--json")
    assert (first.code, first.json["translated"], first.json["carried"]) == (0, PICTURES - 2, 0), first.err

    Image.new("RGB", (SIZE, SIZE), "teal").save(job.source / "new.png")
    (job.source / "group-1" / "05.png").unlink()
    files = nightly.files()
    dry = lsb(capsys, "run", nightly.config, "--dry-run", "--json")
    assert (dry.code, dry.json["prompts_to_learn"]) == (0, []), dry.err
    assert (dry.json["carried"], dry.json["pending"]) == (PICTURES - 2, 1)
    assert dry.json["parent"] == Path(first.json["run"]).name
    assert nightly.files() == files

    second = lsb(capsys, "run", nightly.config, "--json")
    assert (second.code, second.json["translated"], second.json["carried"]) == (0, 1, PICTURES - 2), second.err
    assert Path(second.json["run"]).name == dry.json["run"]
    assert second.json["counts"] == {"ok": PICTURES - 1, "quarantined": 1}
    assert lsb(capsys, "verify", second.json["run"]).code == 0
    exported = lsb(capsys, "export", second.json["run"], tmp_path / "out", "--json")
    assert exported.json["written"] == PICTURES - 1
    found = lsb(capsys, "diff", first.json["run"], second.json["run"], "--json")
    assert (found.json["added"], found.json["vanished"]) == (["new.png"], ["group-1/05.png"])
    assert (found.json["changed"], found.json["unchanged"]) == ({}, PICTURES - 1)
    assert "+ new.png\n- group-1/05.png\n" in lsb(capsys, "diff", first.json["run"], second.json["run"]).out

    # Nothing new: the same run, and nothing is written.
    files = nightly.files()
    third = lsb(capsys, "run", nightly.config, "--json")
    assert (third.json["run"], third.json["translated"], third.json["snapshot"]) == (second.json["run"], 0, 0)
    assert nightly.files() == files


@pytest.mark.long  # its parts: unit/jobs/test_vanished.py
@pytest.mark.usefixtures("server")
def test_a_source_that_is_half_there_is_refused_and_its_account_is_shown(
    finished: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = shutil.copytree(finished.source, tmp_path / "flat")
    store = shutil.copytree(finished.store, tmp_path / "store")
    job = finished.changed("half", source__path=str(source), store=str(store), evaluate={"sample": 2})
    for name in ("a.svg", "b.psd"):
        (source / name).write_bytes(b"x")
    (source / "annexed.png").symlink_to("nowhere")
    for group in ("group-0", "group-1"):
        shutil.rmtree(source / group)
    files = job.files()
    for more in ((), ("--dry-run",)):
        answer = lsb(capsys, "run", job.config, *more)
        assert answer.code == 4, answer.err
        assert f"10 of the {PICTURES} records" in answer.complaint
    assert job.files() == files
    left_out = {".svg": 1, ".psd": 1, "links to nowhere": 1}
    dry = lsb(capsys, "run", job.config, "--dry-run", "--accept-vanished", "--reread", "--json")
    assert (dry.code, dry.json["records"], dry.json["left_out"]) == (0, 2, left_out), dry.err
    answer = lsb(capsys, "run", job.config, "--accept-vanished", "--reread", "--json")
    assert (answer.code, answer.json["left_out"]) == (0, left_out), answer.err
    assert Path(answer.json["run"]).name == dry.json["run"]
    again = lsb(capsys, "run", job.config)
    assert (again.code, "left out         .psd 1, .svg 1, links to nowhere 1\n" in again.out) == (0, True), again.out
    assert "1 .psd, 1 .svg, 1 links to nowhere" in Path(answer.json["report"]).read_text()
    assert lsb(capsys, "ingest", job.config, "--json").json["left_out"] == left_out


@pytest.mark.long  # its parts: tests/integration/test_incremental.py
@pytest.mark.usefixtures("server")
def test_chosen_records_with_other_settings_are_a_run_of_their_own(
    finished: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = finished.changed("first", store=str(tmp_path / "store"), evaluate={"sample": 2})
    first = lsb(capsys, "run", job.config, "--json")
    stronger = job.changed("stronger", bridge__guidance=12)
    choice = ("--records-from", first.json["run"], "--match", "group-0/*")
    dry = lsb(capsys, "run", stronger.config, *choice, "--dry-run", "--json")
    answer = lsb(capsys, "run", stronger.config, *choice, "--json")
    assert (answer.code, answer.json["translated"], answer.json["counts"]) == (0, 5, {"ok": 5}), answer.err
    assert Path(answer.json["run"]).name == dry.json["run"] != Path(first.json["run"]).name
    assert lsb(capsys, "verify", answer.json["run"]).code == 0
    assert lsb(capsys, "run", job.config, "--json").json["run"] == first.json["run"]
    assert "name it with --records-from" in lsb(capsys, "run", job.config, "--flag", "flat_output").complaint


@pytest.mark.long  # its parts: test_parents.py and test_inherited_prompts.py of tests/integration
@pytest.mark.usefixtures("server")
def test_a_night_that_was_cut_off_and_then_new_data(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is committed is carried, with the prompt that the first night learned from fewer pictures."""
    nightly = job.one_by_one(
        "nightly",
        prompts__source={"images": str(job.source), "token": "<flat>", "initial": "icon"},
        learning={"steps": 2, "batch": 2, "validate_every": 2},
    )
    gate = Gate(tmp_path / "gate")
    gate.admit(2)
    killed = start_lsb(gate, "run", nightly.config)
    wait_for_commits(killed, nightly.store, 2)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    (first,) = (nightly.store / "runs").iterdir()
    committed = lsb(capsys, "status", first, "--json").json["records"]["ok"]
    entries = log_entries(nightly.store)

    Image.new("RGB", (SIZE, SIZE), "teal").save(job.source / "new.png")
    files = nightly.files()
    dry = lsb(capsys, "run", nightly.config, "--dry-run", "--json")
    assert (dry.json["carried"], dry.json["parent"], dry.json["prompts_to_learn"]) == (committed, first.name, [])
    assert nightly.files() == files
    answer = lsb(capsys, "run", nightly.config, "--json")
    assert (answer.code, answer.json["carried"]) == (0, committed), answer.err
    assert answer.json["counts"] == {"ok": PICTURES, "quarantined": 1}
    second = Path(answer.json["run"])
    assert (lsb(capsys, "verify", second).code, lsb(capsys, "verify", first).code) == (0, 11)
    assert {path: data for path, data in log_entries(nightly.store).items() if first in path.parents} == entries
    # Whoever finishes the first night measures and publishes it, and the name stays with the second.
    finished = lsb(capsys, "rerun", first, "--json")
    assert (finished.code, finished.json["snapshot"]) == (0, 1), finished.err
    assert lsb(capsys, "verify", first).code == 0
    names = sorted((nightly.store / "jobs" / "tiny" / "log").iterdir())
    assert [json.loads(path.read_text())["run"] for path in names] == [second.name]


@pytest.mark.long  # its parts: tests/integration/test_parents.py
@pytest.mark.usefixtures("server")
def test_stages_go_on_with_the_planned_run_though_a_file_was_moved(
    job: Job, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    staged = job.changed("staged", budget={"max_failed_fraction": 0.2}, evaluate={"sample": 2})
    assert lsb(capsys, "ingest", staged.config).code == 0
    assert lsb(capsys, "plan", staged.config).code == 0
    (planned,) = (staged.store / "runs").iterdir()
    (job.source / "group-0" / "02.png").rename(job.source / "moved.png")
    translated = lsb(capsys, "translate", staged.config, "--json")
    assert (translated.code, Path(translated.json["run"])) == (0, planned), translated.err
    assert f"has changed since run {planned.name} was planned" in caplog.text
    assert lsb(capsys, "evaluate", staged.config).code == 0
    published = lsb(capsys, "publish", staged.config, "--json")
    assert (published.code, Path(published.json["run"])) == (0, planned), published.err
    assert published.json["counts"] == {"ok": PICTURES - 2, "quarantined": 1, "failed": 1}
    assert list((staged.store / "runs").iterdir()) == [planned]
    # Other settings are another run, which nobody has planned.
    other = lsb(capsys, "translate", staged.changed("other", bridge__tau=0.7).config)
    assert (other.code, "has not been planned yet" in other.complaint) == (2, True)
    # The next whole command takes the file where it is now.
    answer = lsb(capsys, "run", staged.config, "--json")
    assert (answer.json["translated"], answer.json["carried"]) == (1, PICTURES - 2)


@pytest.mark.long  # its parts: unit/jobs/test_vanished.py
@pytest.mark.usefixtures("server")
def test_a_planned_run_waits_for_a_source_that_is_half_there(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    for stage in ("ingest", "optimise", "plan"):
        assert lsb(capsys, stage, job.config).code == 0
    away = job.source.with_name("away")
    for name in ("group-0", "group-1"):
        (job.source / name).rename(away.with_name(f"away-{name}"))
    (run,) = (job.store / "runs").iterdir()
    before = job.files()
    for resume in ([], ["--resume", run.name]):
        answer = lsb(capsys, "translate", job.config, *resume)
        assert answer.code == 4
        assert f"10 of the 12 records of run {run.name} are no longer at {job.source}" in answer.complaint
    gone = {name for name in before if name not in job.files()}
    assert not gone
    assert not list(job.store.glob("runs/*/shards"))

    for name in ("group-0", "group-1"):
        away.with_name(f"away-{name}").rename(job.source / name)
    assert lsb(capsys, "translate", job.config).code == 0
    for path in job.source.iterdir():
        path.rename(away.with_name(f"away-{path.name}"))
    (job.source / "other.png").write_bytes(away.with_name("away-copy.png").read_bytes())
    for stage in ("translate", "publish"):  # nothing of it is pending
        answer = lsb(capsys, stage, job.config, "--resume", run.name)
        assert answer.code == 0, answer.err


@pytest.mark.long  # its parts: unit/jobs/test_vanished.py
@pytest.mark.usefixtures("server")
def test_what_has_vanished_may_be_accepted(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    for stage in ("ingest", "optimise", "plan"):
        assert lsb(capsys, stage, job.config).code == 0
    for name in ("group-0", "group-1"):
        shutil.rmtree(job.source / name)
    answer = lsb(
        capsys, "translate", job.changed("lax", budget={"max_failed_fraction": 1}).config, "--accept-vanished", "--json"
    )
    assert (answer.code, answer.json["translated"]) == (0, 1), answer.err
