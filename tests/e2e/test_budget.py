"""A run that loses more records than it may: it stops, publishes what there is, and goes on with a larger budget."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lsb.jobs.budget import LEAST
from lsb.translation.model import Made, Model
from tests.e2e.jobs import Job, log_entries, lsb
from tests.ledger import Inverter, make_images

PLANNED = 260  # more than the shards of two workers beyond what is judged at the least
SHARD = 20


class Careless(Inverter):
    """In place of the process with the model: fails on three images of ten."""

    def __init__(self, *built: Any, **options: Any) -> None:
        super().__init__(batch=8)

    def translate(
        self, images: Sequence[Image.Image], digests: Sequence[str] | None = None, *, batch: int | None = None
    ) -> list[Image.Image]:
        for digest in digests or ():
            if int(digest[:8], 16) % 10 < 3:
                raise RuntimeError(f"cannot bear {digest}")
        return super().translate(images, digests)

    def score(self, *batch: Sequence[Any]) -> Any:
        raise RuntimeError("measures nothing")

    def make(self, *question: Any, batch: int) -> list[Made]:
        return Model(self, self).make(*question, batch=batch)

    def close(self) -> None:
        pass


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_it_stops_publishes_and_goes_on_with_a_larger_budget(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr("lsb.jobs.stock.ModelProcess", Careless)
    settings: dict[str, Any] = {
        "source__path": str(make_images(tmp_path / "noise", PLANNED)),
        "execution": {"batch": 8, "shard_size": SHARD, "device": "cpu", "workers": workers},
        "evaluate": {"sample": 2},
    }
    strict = job.changed("strict", **settings, budget__max_failed_fraction=0.1)

    answer = lsb(capsys, "run", strict.config)
    assert answer.code == 4, answer.err
    assert "budget.max_failed_fraction allows 10.0%" in answer.complaint
    (run,) = (strict.store / "runs").iterdir()
    found = lsb(capsys, "status", run, "--json").json
    done = PLANNED - found["records"]["pending"]
    # It stops as soon as it may judge; a shard under way beside it commits as well.
    assert LEAST <= done <= LEAST + workers * SHARD
    assert "usable records failed" in found["stopped"]
    assert found["records"]["failed"] > 0.2 * done
    (page,) = run.glob("snapshots/00000000/report/index.html")
    assert "Stopped before the end" in page.read_text()
    assert f"<b>{PLANNED - done}</b> <span>pending" in page.read_text()
    assert lsb(capsys, "verify", run).code == 11

    before = log_entries(strict.store)
    again = lsb(capsys, "run", strict.config)
    assert (again.code, again.complaint) == (4, answer.complaint)
    assert log_entries(strict.store) == before
    assert len(list(run.glob("snapshots/log/*.json"))) == 1

    lenient = strict.changed("lenient", budget__max_failed_fraction=0.5)
    answer = lsb(capsys, "run", lenient.config, "--json")
    assert answer.code == 0, answer.err
    assert sum(answer.json["counts"].values()) == PLANNED
    assert answer.json["translated"] == answer.json["counts"]["ok"] - found["records"]["ok"]
    assert before.items() <= log_entries(lenient.store).items()
    found = lsb(capsys, "status", run, "--json").json
    assert (found["records"]["pending"], found["stopped"]) == (0, None)
    assert lsb(capsys, "verify", run).code == 0


@pytest.mark.long  # its parts: unit/jobs/test_budget.py
@pytest.mark.usefixtures("server")
def test_a_night_without_a_single_picture_is_published_and_leaves_the_name(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lsb.jobs.stock.ModelProcess", Careless)
    assert lsb(capsys, "run", job.config).code in (0, 4)
    (good,) = (job.store / "runs").iterdir()
    pointers = tmp_path / "pointers"
    pointers.mkdir()
    for number in range(3):
        (pointers / f"{number}.png").write_text(f"version https://git-lfs.github.com/spec/v1\nsize {number}\n")
    answer = lsb(capsys, "run", job.changed("night", source__path=str(pointers)).config, "--accept-vanished")
    assert answer.code == 4
    assert "none of 3 records could be translated" in answer.complaint
    (night,) = set((job.store / "runs").iterdir()) - {good}
    assert lsb(capsys, "verify", night).code == 0
    assert len(list(night.glob("snapshots/*/report/index.html"))) == 1
    entries = [json.loads(path.read_text()) for path in sorted((job.store / "jobs/tiny/log").iterdir())]
    assert [entry["run"] for entry in entries] == [good.name]
