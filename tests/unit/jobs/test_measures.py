from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lsb.config.job import EvaluateConfig, JobConfig
from lsb.jobs.measures import evaluation_settings, still_hold, unmeasured
from lsb.records import sha256


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of one picture."""
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    return tmp_path


def config(folder: Path, **evaluate: Any) -> JobConfig:
    given = {"target": str(folder), "truth": str(folder), **evaluate}
    return JobConfig.model_validate(
        {
            "name": "job",
            "store": "store",
            "model": "model",
            "source": {"domain": "flat", "path": "flat"},
            "prompts": {"source": {"text": "a"}, "target": {"text": "b"}},
            "evaluate": given,
        }
    )


def old(job: JobConfig, targets: int, truths: int) -> dict[str, Any]:
    """Measures as they were before they kept a digest of what they were compared with."""
    return {"settings": evaluation_settings(job), "sample": {"targets": targets, "truths": truths}, "rows": []}


@pytest.mark.parametrize(
    ("targets", "truths", "sources", "hold"),
    [
        (1, 1, ["a.jpg"], True),
        (1, 5, ["a.jpg"], True),  # some may be unreadable: nothing shows that they were others
        (0, 1, ["a.jpg"], False),
        (1, 0, ["a.jpg"], False),
        (1, 0, ["b.jpg"], True),
    ],
)
def test_old_measures_hold_unless_they_found_nothing_where_there_is_something(
    folder: Path, targets: int, truths: int, sources: list[str], hold: bool
) -> None:
    job = config(folder)
    assert still_hold(old(job, targets, truths), job, lambda: sources) is hold


def test_what_was_not_measured_holds_as_long_as_nobody_asks_for_measures(folder: Path) -> None:
    job, off = config(folder), config(folder, measure=False)
    assert not still_hold(unmeasured(job, "out of memory"), job, list)
    assert still_hold(unmeasured(off, "evaluate.measure is false"), off, list)
    assert not still_hold(unmeasured(off, "evaluate.measure is false"), job, list)
    assert not still_hold(old(job, 1, 1), off, list)


def test_measures_hold_while_the_folders_are_away(folder: Path) -> None:
    job = config(folder)
    measured = {**old(job, 1, 1), "compared_with": {"target": "0" * 64, "truth": "0" * 64}}
    assert not still_hold(measured, job, list)
    (folder / "a.png").unlink()
    folder.rmdir()
    assert still_hold(measured, job, list)


def test_measuring_is_on_unless_it_is_switched_off_and_leaves_no_trace() -> None:
    assert EvaluateConfig().measure
    assert evaluation_settings(config(Path("x"))) == {"target": "x", "truth": "x", "sample": 10_000}


def test_measures_by_other_weights_than_those_that_lie_there_now_do_not_hold(folder: Path) -> None:
    weights = folder / "tower"
    weights.mkdir()
    (weights / "config.json").write_text('{"image_size": 32}')
    (weights / "model.safetensors").write_bytes(b"one")
    job = config(folder, features={"weights": str(weights)})
    measured = {**old(job, 1, 1), "extractor": {"id": "tower", "digest": sha256(b"one")}}
    assert still_hold(measured, job, list)
    assert not still_hold(measured, config(folder), list)
    (weights / "model.safetensors").write_bytes(b"two")
    assert not still_hold(measured, job, list)
