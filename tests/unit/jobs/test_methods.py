"""Every method from the job to the page, through the same ledger."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from lsb.audit import verify
from lsb.audit.replay import Bench, replay
from lsb.bridge.methods import METHODS, name_of
from lsb.config.job import JobConfig
from lsb.errors import FrozenSettingsError
from lsb.jobs.dry_run import dry_run
from lsb.jobs.job import check_same_transform, config_of, run_spec
from lsb.jobs.lineage import learned_with, negative_of_job, planned_as, prompts_of_job
from lsb.ledger.carrying import read_manifest, reference
from lsb.ledger.dataset import Dataset
from lsb.ledger.publish import Snapshot, publish
from lsb.ledger.run import Run
from lsb.ledger.transform import method_of
from lsb.models.stable_diffusion import StableDiffusion
from lsb.pictures.ingest import ingest
from lsb.pictures.sources import Source, open_sources
from lsb.store.local import LocalStore
from lsb.translation.builder import run_engine, run_frames
from lsb.translation.equipment import Equipment
from lsb.translation.execution import describe
from lsb.translation.model import Model
from lsb.translation.shard import run_shard
from lsb.views.page_contents import page_of
from lsb.views.trace import trace
from tests.ledger import make_images, picture

BATCH = 2
JOBS: dict[str, dict[str, Any]] = {
    "lsb": {"bridge": {"tau": 0.6, "nfe": 2}},
    "sdedit": {"method": {"name": "sdedit", "nfe": 2, "sigma": 0.7}},
    "ddib": {"method": {"name": "ddib", "nfe": 2, "guidance": 2, "against": "negative"}, "negative": "blurry"},
    "cyclediffusion": {"method": {"name": "cyclediffusion", "nfe": 2, "guidance": 2}},
    "flowedit": {"method": {"name": "flowedit", "nfe": 3, "n_avg": 2, "n_min": 1, "target_guidance": 2}},
}


@dataclass
class Workshop:
    """One store, one folder of three pictures and one model for the jobs of all methods."""

    place: Path
    model: Path
    backbone: StableDiffusion

    def config(self, name: str) -> JobConfig:
        settings = dict(JOBS[name])
        prompts = {"source": {"text": "a flat icon"}, "target": {"text": "a 3d icon"}}
        if "negative" in settings:
            prompts["negative"] = settings.pop("negative")
        return JobConfig.model_validate(
            {
                "name": name,
                "store": str(self.place / "store"),
                "model": str(self.model),
                "source": {"domain": "flat", "path": str(self.place / "images")},
                "prompts": prompts,
                "execution": {"device": "cpu", "batch": BATCH},
                **settings,
            }
        )

    @cached_property
    def store(self) -> LocalStore:
        return LocalStore(self.place / "store")

    @cached_property
    def sources(self) -> Source:
        return open_sources(str(make_images(self.place / "images", 3)))

    @cached_property
    def dataset(self) -> Dataset:
        return ingest(self.sources, "flat", self.store)

    def planned(self, config: JobConfig) -> Run:
        prompts = prompts_of_job(self.store, config, self.backbone.identity)
        negative = negative_of_job(self.store, config)
        return planned_as(
            self.store, run_spec(config, self.dataset, *prompts, self.backbone.identity, negative=negative)
        )

    def published(self, run: Run) -> Snapshot:
        bench = self.bench(run)
        own = Equipment(Model(bench.translator), self.sources, bench.conditions, bench.frame)
        run_shard(self.store, run, "00000", own)
        return publish(self.store, run, {}, page_of(self.store, run, None, self.sources))

    def bench(self, run: Run) -> Bench:
        return Bench(
            run_engine(self.store, run, self.backbone, BATCH),
            run_frames(run, self.backbone.canvas),
            describe("cpu", "float32", BATCH, 1),
        )


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, tiny_backbone: StableDiffusion) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("methods"), tiny_folder, tiny_backbone)


def test_every_method_has_a_job_here() -> None:
    assert JOBS.keys() == METHODS.keys()


@pytest.mark.parametrize("name", JOBS)
def test_a_run_of_every_method_is_verified_replayed_traced_and_shown(workshop: Workshop, name: str) -> None:
    config, store = workshop.config(name), workshop.store
    run = workshop.planned(config)
    snapshot = workshop.published(run)

    assert verify(store, run.id).exit_code == 0
    replayed = replay(store, run, workshop.sources, lambda row: workshop.bench(run), 3)
    assert [result.same for result in replayed] == [True] * 3

    rows = read_manifest(store, reference(snapshot)).to_pylist()
    method = config.method_settings
    assert {(row["method"], row["nfe"]) for row in rows} == {(name, method.nfe)}
    assert {row["tau"] for row in rows} == {getattr(method, "tau", None)}
    (found,) = trace(store, run.id, rows[0]["output_key"])
    assert found.settings["method"] == ("lsb" if name == "lsb" else method.model_dump(mode="json"))
    assert found.prompts.keys() == {"source", "target"} | ({"negative"} if config.prompts.negative else set())

    page = store.read(snapshot.report_key).decode()
    assert f">{name}<" in page
    assert all(f">{method.section}.{field}<" in page for field in type(method).model_fields)


@pytest.mark.parametrize("name", JOBS)
def test_neither_order_nor_company_changes_a_bit(workshop: Workshop, name: str) -> None:
    engine = run_engine(workshop.store, workshop.planned(workshop.config(name)), workshop.backbone, BATCH)
    images, digests = [picture(index, (32, 32)) for index in range(3)], [str(index) * 64 for index in range(3)]
    whole = engine.translate(images, digests)
    assert engine.translate(images[::-1], digests[::-1])[::-1] == whole
    assert engine.translate(images[1:2], digests[1:2]) == whole[1:2]


@pytest.mark.parametrize("name", JOBS)
def test_what_is_frozen_of_a_method_is_what_the_job_says(workshop: Workshop, name: str) -> None:
    config = workshop.config(name)
    run = workshop.planned(config)
    assert method_of(run.transform) == config.method_settings
    assert name_of(method_of(run.transform)) == name
    assert config_of(run, workshop.store).model_dump() == config.model_dump()
    assert learned_with(run) is not None
    check_same_transform(run, config, workshop.backbone.identity)
    plan = dry_run(config)
    assert (plan.run, plan.method, plan.forwards_per_image) == (run.id, name, config.method_settings.forwards)


def test_another_method_is_another_run_and_is_refused_by_its_name(workshop: Workshop) -> None:
    run = workshop.planned(workshop.config("sdedit"))
    other = workshop.config("lsb").model_copy(update={"name": "sdedit"})
    with pytest.raises(FrozenSettingsError) as caught:
        check_same_transform(run, other, workshop.backbone.identity)
    assert caught.value.fields == ["transform.method"]
    stronger = JobConfig.model_validate(
        workshop.config("sdedit").model_dump() | {"method": {"name": "sdedit", "nfe": 2, "sigma": 0.8}}
    )
    with pytest.raises(FrozenSettingsError, match=r"transform\.method\.sigma is 0\.7, asked for 0\.8"):
        check_same_transform(run, stronger, workshop.backbone.identity)


def test_another_negative_prompt_makes_other_pictures(workshop: Workshop) -> None:
    config = workshop.config("ddib")
    run = workshop.planned(config)
    without = config.model_copy(update={"prompts": config.prompts.model_copy(update={"negative": ""})})
    other = workshop.planned(without)
    assert (set(run.prompts) - set(other.prompts), run.id != other.id) == ({"negative"}, True)
    pixels = [
        {row["pixels_sha256"] for row in read_manifest(workshop.store, reference(workshop.published(each))).to_pylist()}
        for each in (run, other)
    ]
    assert pixels[0].isdisjoint(pixels[1])
    with pytest.raises(FrozenSettingsError, match=r"transform\.prompts\.negative"):
        check_same_transform(run, without, workshop.backbone.identity)
