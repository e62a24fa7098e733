"""`lsb listen`: whether a model hears words, with the tiny one, which hears what chance made of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from lsb.cli.main import run_command
from lsb.config.job import JobConfig
from lsb.errors import UsageError
from lsb.jobs.hearing import PICTURES, hear
from lsb.models.prompt import Prompt
from lsb.models.stable_diffusion import StableDiffusion
from lsb.views.prompts_shown import heard_in_words


@pytest.fixture
def job(tmp_path: Path, tiny_folder: Path) -> Path:
    for look, count in (("flat", PICTURES + 1), ("3d", 3)):
        (tmp_path / look).mkdir()
        for number in range(count):
            Image.new("RGB", (24, 20), (10 * number, 90, 40)).save(tmp_path / look / f"{number}.png")
    (tmp_path / "3d" / "broken.png").write_bytes(b"no picture")
    settings = {
        "name": "tiny",
        "store": "store",
        "model": str(tiny_folder),
        "source": {"domain": "flat", "path": "flat"},
        "prompts": {"source": {"text": "a flat icon"}, "target": {"domain": "3d", "text": "a 3d icon"}},
        "evaluate": {"target": "3d"},
        "execution": {"device": "cpu"},
    }
    (tmp_path / "job.yaml").write_text(json.dumps(settings))
    return tmp_path / "job.yaml"


def test_it_is_heard_on_pictures_of_both_looks_and_nothing_is_written(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(job.parent.rglob("*"))
    assert run_command(["listen", str(job), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    looks = said["looks"]
    is_heard = all(look["clear"] for look in looks)
    assert said["next"] == (f"lsb tune {job}" if is_heard else f"lsb listen {job}, with other words in it")
    assert [(look["look"], look["pictures"]) for look in looks] == [("flat", PICTURES), ("3d", 3)]
    for look in looks:
        assert look["sigmas"][0] == pytest.approx(2.3 / 2 * 8 / 64 / 4, abs=1e-3)
        assert all(loss > 0 for loss in look["loss"])
        assert len(look["rise"]) == len(look["sigmas"])
        assert ("not clear from" in heard_in_words(look)) != look["clear"]
    assert sorted(job.parent.rglob("*")) == before


def test_the_same_words_make_no_difference(job: Path, tiny_backbone: StableDiffusion) -> None:
    config = JobConfig.model_validate(json.loads(job.read_text()), context={"folder": job.parent})
    for look in hear(config, tiny_backbone, (Prompt("an icon"), Prompt("an icon")), str(job.parent / "3d")):
        assert (set(look.rise), look.clear, look.matters_from) == ({0.0}, False, None)


def test_one_picture_is_too_few(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        (job.parent / "3d" / f"{number}.png").unlink()
    assert run_command(["listen", str(job)]) == UsageError.exit_code
    assert "fewer than 2 pictures can be read in" in capsys.readouterr().err
