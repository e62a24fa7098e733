"""What becomes of a run whose pictures cannot all be measured, and of measures that no longer say what is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lsb.translation.model import Made, Model
from tests.e2e.jobs import Job, lsb
from tests.ledger import Inverter, make_images

COUNT = 6

pytestmark = pytest.mark.usefixtures("server")


class Standby(Inverter):
    """In place of the process with the model."""

    def __init__(self, *built: Any, **options: Any) -> None:
        super().__init__(batch=4)

    def score(self, *batch: Any) -> Any:
        raise RuntimeError("measures nothing")

    def make(self, *question: Any, batch: int) -> list[Made]:
        return Model(self, self).make(*question, batch=batch)

    def close(self) -> None:
        pass


@pytest.fixture
def small(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job of six pictures with a truth for each."""
    monkeypatch.setattr("lsb.jobs.stock.ModelProcess", Standby)
    source, truth = make_images(tmp_path / "noise", COUNT), make_images(tmp_path / "truth", COUNT)
    folders = {"source__path": str(source), "evaluate": {"truth": str(truth), "target": str(truth)}}
    changed = job.changed("small", **folders)
    return Job(changed.config, changed.store, source)


def run_of(job: Job) -> Path:
    (run,) = (job.store / "runs").iterdir()
    return run


def published(job: Job) -> list[dict[str, Any]]:
    """The measures of all snapshots, in order."""
    return [json.loads(path.read_text()) for path in sorted(run_of(job).glob("snapshots/*/metrics.json"))]


def page(job: Job) -> str:
    return sorted(run_of(job).glob("snapshots/*/report/index.html"))[-1].read_text()


def test_a_source_that_vanishes_after_it_was_translated_costs_its_place_in_the_measures(
    small: Job, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, changed = small.source / "even" / "0000.png", small.source / "odd" / "0001.png"

    def vanish(self: Standby) -> None:
        gone.unlink(missing_ok=True)
        changed.write_bytes((small.source / "odd" / "0003.png").read_bytes())

    monkeypatch.setattr(Standby, "close", vanish)
    answer = lsb(capsys, "run", small.config, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["counts"] == {"ok": COUNT}
    (measures,) = published(small)
    assert measures["sample"]["left_out"]["sources"] == 2
    assert (measures["sample"]["images"], measures["sample"]["truths"]) == (COUNT - 2, COUNT - 2)
    assert lsb(capsys, "verify", run_of(small)).code == 0
    again = lsb(capsys, "rerun", run_of(small), "--json")
    assert (again.code, again.json["snapshot"]) == (0, 0), again.err
    after = lsb(capsys, "run", small.config, "--json")
    assert (after.code, after.json["carried"], after.json["translated"]) == (0, COUNT - 2, 1), after.err


@pytest.mark.long  # its parts: unit/jobs/test_measures.py
def test_measuring_that_fails_for_good_is_published_as_such_and_tried_again(
    small: Job, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any, **more: Any) -> Any:
        raise RuntimeError("no kernel for /usr/lib/x.so on this device")

    with monkeypatch.context() as broken:
        broken.setattr("lsb.metrics.evaluation.evaluate", fail)
        answer = lsb(capsys, "run", small.config, "--json")
        assert answer.code == 0, answer.err
        why = "measuring failed: RuntimeError: no kernel for <path> on this device"
        assert answer.json["unmeasured"] == why
        assert (published(small)[0]["unmeasured"], published(small)[0]["rows"]) == (why, [])
        assert "This run was not measured: measuring failed: RuntimeError: no kernel for &lt;path&gt;" in page(small)
        assert lsb(capsys, "verify", run_of(small)).code == 0
        assert lsb(capsys, "evaluate", small.config).code == 1  # who asks for nothing else is told
        assert lsb(capsys, "run", small.config, "--json").json["snapshot"] == 0
    mended = lsb(capsys, "run", small.config, "--json")
    assert (mended.code, mended.json["snapshot"], mended.json["unmeasured"]) == (0, 1, None), mended.err
    assert published(small)[1]["sample"]["truths"] == COUNT


@pytest.mark.long  # its parts: unit/jobs/test_measures.py
def test_measuring_can_be_switched_off(
    small: Job, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any, **more: Any) -> Any:
        raise AssertionError("measured all the same")

    monkeypatch.setattr("lsb.metrics.evaluation.evaluate", refuse)
    monkeypatch.setattr(Standby, "score", refuse)
    off = small.changed("off", evaluate__measure=False)
    answer = lsb(capsys, "run", off.config, "--json")
    assert (answer.code, answer.json["unmeasured"]) == (0, "evaluate.measure is false"), answer.err
    assert published(small)[0]["settings"]["measure"] is False
    assert "This run was not measured: evaluate.measure is false." in page(small)
    assert lsb(capsys, "run", off.config, "--json").json["snapshot"] == 0
    assert lsb(capsys, "evaluate", off.config, "--json").json["unmeasured"] == "evaluate.measure is false"
    assert "evaluate.measure is false" in lsb(capsys, "evaluate", off.config).out
    monkeypatch.undo()
    monkeypatch.setattr("lsb.jobs.stock.ModelProcess", Standby)
    on = lsb(capsys, "run", small.config, "--json")
    assert (on.json["run"], on.json["snapshot"], on.json["translated"]) == (answer.json["run"], 1, 0), on.err
    assert "measure" not in published(small)[1]["settings"]


@pytest.mark.long  # its parts: unit/jobs/test_measures.py
def test_pictures_that_are_gone_for_good_keep_no_run_from_being_published(
    small: Job, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def vanish(self: Standby) -> None:
        for name in ("noise", "truth"):
            (tmp_path / name).rename(tmp_path / f"{name}-away")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Standby, "close", vanish)
        away = lsb(capsys, "run", small.config, "--json")
    assert (away.code, published(small)) == (3, [])
    off = small.changed("off", evaluate__measure=False)
    answer = lsb(capsys, "publish", off.config, "--resume", run_of(small).name, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["counts"] == {"ok": COUNT}
    assert f"The {COUNT} smallest record ids" in page(small)
    assert lsb(capsys, "verify", run_of(small)).code == 0


@pytest.mark.long  # its parts: unit/jobs/test_measures.py
def test_truths_that_are_mended_are_measured_again(small: Job, capsys: pytest.CaptureFixture[str]) -> None:
    truth = small.source.parent / "truth"
    for picture in truth.rglob("*.png"):
        picture.with_suffix(".txt").write_text("a caption")
        picture.rename(picture.with_suffix(".off"))
    first = lsb(capsys, "run", small.config, "--json")
    assert first.code == 0, first.err
    assert f"without truth {COUNT}" in first.err
    assert published(small)[0]["sample"]["truths"] == 0
    assert lsb(capsys, "run", small.config, "--json").json["snapshot"] == 0
    for picture in truth.rglob("*.off"):
        picture.rename(picture.with_suffix(".png"))
    assert lsb(capsys, "publish", small.config, "--json").json["snapshot"] == 1
    assert published(small)[1]["sample"]["truths"] == COUNT  # whatever captions lie beside them
    assert published(small)[1]["rows"][0]["psnr"]["value"] is not None
    assert lsb(capsys, "run", small.config, "--json").json["snapshot"] == 1
    for picture in truth.rglob("*.txt"):
        picture.unlink()
    assert lsb(capsys, "run", small.config, "--json").json["snapshot"] == 1


@pytest.mark.parametrize("folder", ["truth", "target"])
def test_a_folder_to_compare_with_that_is_not_there_is_named_before_anything_is_done(
    small: Job, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    answer = lsb(capsys, "run", small.changed("wrong", **{f"evaluate__{folder}": "/nowhere/to/be/found"}).config)
    assert answer.code == 3
    assert "/nowhere/to/be/found" in answer.complaint
    assert not small.store.exists()
