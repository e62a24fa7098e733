from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lsb.config.job import JobConfig
from lsb.errors import FrozenSettingsError, ModelError, PromptError
from lsb.jobs.job import check_resumed, check_same_transform, run_spec
from lsb.jobs.loading import backbone_for, load_model
from lsb.jobs.stock import Stock
from lsb.ledger.run import Run, create_run
from lsb.models.load import identify
from lsb.pictures.encoding import encode
from lsb.pictures.ingest import ingest
from lsb.pictures.sources import open_sources
from lsb.prompts.finding import StoredPrompt, find_prompt
from lsb.store.local import LocalStore
from lsb.translation.engine import Engine
from tests.ledger import picture
from tests.tiny import tiny_model


def settings(place: Path, model: Path, **changes: Any) -> JobConfig:
    """A job's configuration; `a__b` names a nested setting."""
    raw: dict[str, Any] = {
        "name": "job",
        "store": str(place / "store"),
        "model": str(model),
        "source": {"domain": "noise", "path": str(place / "images")},
        "prompts": {
            "source": {"domain": "noise", "text": "a flat icon"},
            "target": {"domain": "clean", "images": str(place / "images"), "token": "<clean>", "initial": "icon"},
        },
        "learning": {"steps": 1, "batch": 2, "validate_every": 1},
        "bridge": {"tau": 0.6, "nfe": 2},
        "seed": "7",
        "execution": {"device": "cpu"},
    }
    for path, value in changes.items():
        *folders, last = path.split("__")
        part = raw
        for folder in folders:
            part = part.setdefault(folder, {})
        part[last] = value
    return JobConfig.model_validate(raw)


@pytest.fixture
def planned(tmp_path: Path, tiny_folder: Path) -> Run:
    """A run of `settings`, one of whose prompts is learned."""
    for index in range(3):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / f"{index}.png").write_bytes(encode(picture(index), "png"))
    config, store = settings(tmp_path, tiny_folder), LocalStore(tmp_path / "store")
    identity = identify(str(tiny_folder))

    def prompt(side: Any) -> StoredPrompt:
        found = find_prompt(store, config.prompt_request(side), identity)
        return found if isinstance(found, StoredPrompt) else found.learn(backbone_for(config))

    dataset = ingest(open_sources(config.source.path), "noise", store)
    return create_run(store, run_spec(config, dataset, prompt("source"), prompt("target"), identity))


def test_what_fixes_the_pixels_is_the_runs_whatever_the_caller_says(
    tmp_path: Path, tiny_folder: Path, planned: Run
) -> None:
    other = settings(
        tmp_path, tiny_folder, bridge__tau=0.9, bridge__nfe=4, seed="8", execution__dtype="bfloat16", execution__batch=3
    )
    threads = torch.get_num_threads()
    try:
        translator = load_model(other, planned.id, "cpu", threads + 1).translator
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert isinstance(translator, Engine)
    assert (translator.settings.tau, translator.settings.nfe, translator.seed) == (0.6, 2, "7")
    assert (translator.backbone.dtype, translator.batch) == ("float32", 3)
    assert (translator.source.id, translator.target.id) == tuple(
        planned.transform["prompts"][side] for side in ("source", "target")
    )
    assert backbone_for(other, planned).dtype == "float32"


def test_another_model_is_refused_before_it_is_used(tmp_path: Path, planned: Run) -> None:
    other = settings(tmp_path, tiny_model(tmp_path / "other", seed=1))
    with pytest.raises(ModelError, match=f"is not the model of run {planned.id}.*put the run's model back"):
        load_model(other, planned.id, "cpu", 1)
    with pytest.raises(ModelError, match="is not the model of run"):
        backbone_for(other, planned)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"bridge__tau": 0.7}, "transform.bridge.tau"),
        ({"seed": "8"}, "transform.seed"),
        ({"execution__dtype": "float16"}, "transform.dtype"),
        ({"output": {"format": "webp"}}, "transform.encoder"),
        ({"prompts__source__text": "an icon"}, "transform.prompts.source"),
        ({"prompts__target__initial": "picture"}, "prompts.target.initial"),
        ({"learning__steps": 2}, "learning.steps"),
        ({"name": "another"}, "job"),
        ({"source__domain": "other"}, "dataset.name"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_every_setting_that_would_not_be_used_is_refused_by_name(
    tmp_path: Path, tiny_folder: Path, planned: Run, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(FrozenSettingsError) as caught:
        check_same_transform(planned, settings(tmp_path, tiny_folder, **changes), identify(str(tiny_folder)))
    assert field in caught.value.fields


def test_where_folders_lie_and_how_the_work_is_done_may_change(tmp_path: Path, tiny_folder: Path, planned: Run) -> None:
    identity = identify(str(tiny_folder))
    moved = settings(
        tmp_path, tiny_folder, source__path="/moved", prompts__target__images="/moved/too", execution__batch=1
    )
    check_resumed(planned, moved, identity)
    larger = settings(tmp_path, tiny_folder, execution__shard_size=7)
    check_same_transform(planned, larger, identity)
    with pytest.raises(FrozenSettingsError) as caught:
        check_resumed(planned, larger, identity)
    assert caught.value.fields == ["plan.shard_size"]


def test_a_prompts_file_that_is_gone_is_missed_only_where_it_is_another(
    tmp_path: Path, tiny_folder: Path, planned: Run
) -> None:
    gone = settings(
        tmp_path, tiny_folder, prompts__source={"domain": "noise", "file": str(tmp_path / "gone.safetensors")}
    )
    identity = identify(str(tiny_folder))
    check_same_transform(replace(planned, config=gone.model_dump(mode="json")), gone, identity)
    with pytest.raises(PromptError, match="gone"):
        check_same_transform(planned, gone, identity)


def test_the_workers_of_a_run_share_its_truths(
    tmp_path: Path, tiny_folder: Path, planned: Run, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "truths").mkdir()
    truth = str(tmp_path / "truths")
    stock = Stock(settings(tmp_path, tiny_folder, evaluate__truth=truth, execution__workers=2), planned)
    with stock.lend() as one, stock.lend() as other:
        (tmp_path / "truths").rmdir()
        assert one.truths.find("a.png") is other.truths.find("a.png") is None
    stock.close()
    assert len([said for said in caplog.messages if "nothing is compared with a truth" in said]) == 1
