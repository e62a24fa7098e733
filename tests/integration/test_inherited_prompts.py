"""Learned prompts over many nights: those of the runs before, until they are learned anew."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lsb.config.job import JobConfig
from lsb.jobs.job import run_spec as run_spec_of
from lsb.jobs.lineage import planned_as, prompt_of_job
from lsb.ledger.log.snapshots import current_run
from lsb.ledger.run import RunSpec, create_run
from lsb.models.load import load_backbone
from lsb.pictures.ingest import ingest
from lsb.prompts.finding import StoredPrompt
from lsb.prompts.settings import Side
from tests.integration.pipeline import Pipeline
from tests.tiny import tiny_model

pytestmark = pytest.mark.usefixtures("exact_clock")


class Nights:
    """A job whose target prompt is learned from the folder that it translates; files are added to that every night."""

    def __init__(self, place: Path, **learning: Any) -> None:
        self.job = Pipeline(place)
        self.backbone = load_backbone(str(tiny_model(place / "model")), device="cpu")
        self.learned = 0
        self.config = JobConfig.model_validate(
            {
                "name": "nightly",
                "store": self.job.store.uri,
                "model": str(place / "model"),
                "source": {"domain": "noise", "path": str(self.job.folder)},
                "geometry": {"fit": "letterbox"},  # noise alone teaches nothing, white beside it does
                "prompts": {
                    "source": {"text": "a flat icon"},
                    "target": {"images": str(self.job.folder), "token": "<3d>", "initial": "icon"},
                },
                "learning": {"steps": 1, "batch": 2, "validate_every": 1, **learning},
                "execution": {"shard_size": 6},
            }
        )

    def spec(self, *, refit: bool = False, **planned_with: Any) -> RunSpec:
        """What tonight's run is to be, by the steps of `lsb run`; `planned_with` changes what `run.json` keeps."""
        store, config = self.job.store, self.config

        def prompt(side: Side) -> StoredPrompt:
            found = prompt_of_job(store, config, side, self.backbone.identity, refit=refit)
            if isinstance(found, StoredPrompt):
                return found
            self.learned += 1
            return found.learn(self.backbone)

        dataset = ingest(self.job.sources, "noise", store)
        spec = run_spec_of(config, dataset, prompt("source"), prompt("target"), self.backbone.identity)
        return replace(spec, config={**(spec.config or {}), **planned_with})


def test_three_nights_each_cut_off_each_with_new_files_and_a_learned_prompt(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    job, runs = nights.job, []
    for night in range(3):
        job.add(70 + night, 80 + night)
        runs.append(planned_as(job.store, nights.spec()))
        job.cut_off(runs[-1], batches=2)
        assert (job.translated(), runs[-1].plan["carried"]) == (4 * (night + 1), 4 * night)
    assert (nights.learned, len({run.transform_id for run in runs})) == (1, 1)
    assert (runs[2].parent or {})["run"] == runs[1].id
    job.finish(runs[2])
    assert job.translated() == 8 + 6
    origins = Counter(row["carried_from"] for row in job.rows(runs[2]).values())
    assert origins == {runs[0].id: 4, runs[1].id: 4, None: 4 + 2 + 1}  # what the last night made, and bad.png
    assert [job.verdict(run) for run in runs] == [11, 11, 0]
    assert current_run(job.store, "nightly") == runs[2].id


def test_prompts_learned_anew_are_those_of_the_nights_after(tmp_path: Path) -> None:
    nights = Nights(tmp_path, steps=8, learning_rate=0.1)
    first = planned_as(nights.job.store, nights.spec())
    nights.job.finish(first)
    nights.job.add(70)
    anew = planned_as(nights.job.store, nights.spec(refit=True))
    assert (nights.learned, anew.transform_id != first.transform_id, anew.parent) == (2, True, None)
    nights.job.cut_off(anew)
    nights.job.add(71)
    third = planned_as(nights.job.store, nights.spec())
    assert (nights.learned, third.transform_id, (third.parent or {})["run"]) == (2, anew.transform_id, anew.id)


@pytest.mark.parametrize(
    ("changed", "learned"),
    [
        ({"later": {"setting": 1}, "budget": {"another": 2}}, 1),  # of a version that knows more
        ({"learning": {"steps": 1, "batch": 2, "validate_every": 1}, "evaluate": {}}, 1),  # of one that knew less
        ({"learning": {"steps": 1, "batch": 2, "validate_every": 1, "patience": 9, "sigma_max": 3}}, 1),  # not said now
        ({"learning": {"steps": 2, "batch": 2, "validate_every": 1}}, 2),
        ({"seed": "1"}, 2),
    ],
)
def test_learned_prompts_are_inherited_across_versions_of_the_settings(
    tmp_path: Path, changed: dict[str, Any], learned: int
) -> None:
    nights = Nights(tmp_path)
    create_run(nights.job.store, nights.spec(**changed))
    nights.job.add(70)
    nights.spec()
    assert nights.learned == learned
