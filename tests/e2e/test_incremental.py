"""The same job again after new data: through the command, with the tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.jobs import PICTURES, SIZE, Job, lsb


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
