"""Where copies of the loop run, in a job's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lsb.config.job import RUNNER_SETTINGS, ExecutionConfig, job_of
from lsb.errors import ConfigError
from lsb.jobs.job import run_spec
from lsb.ledger.run import run_id
from lsb.pictures.sources import open_sources
from lsb.prompts.finding import StoredPrompt
from lsb.store.local import LocalStore
from tests.ledger import make_images
from tests.ledger import run_spec as frozen
from tests.unit.jobs.work.fleet import config_over


def test_what_stands_at_its_default_leaves_no_trace() -> None:
    assert ExecutionConfig().model_dump().keys().isdisjoint(RUNNER_SETTINGS)
    said = ExecutionConfig(runner="local", parallel=1, server_patience=600)
    assert said.model_dump_json() == ExecutionConfig().model_dump_json()
    pool = ExecutionConfig(runner="prefect", pool="gpus", parallel=3)
    assert ExecutionConfig.model_validate(pool.model_dump(mode="json")) == pool


def test_a_runner_is_no_part_of_what_fixes_a_run(tmp_path: Path) -> None:
    store, images = LocalStore(tmp_path / "store"), make_images(tmp_path / "images", 2)
    spec = frozen(store, open_sources(str(images)))
    prompt = StoredPrompt("noise", "0" * 64, "prompts/noise")

    def name(**settings: Any) -> str:
        config = config_over(store, images, **settings)
        return run_id(run_spec(config, spec.dataset, prompt, prompt, spec.model))

    elsewhere = {"runner": "ray", "parallel": 8, "ray": {"address": "head:6379"}, "server_patience": 5}
    assert name(execution=elsewhere) == name()
    assert name(execution={"shard_size": 7}) != name()


@pytest.mark.parametrize(
    ("execution", "words"),
    [
        ({"runner": "prefect"}, "runner prefect needs execution.pool"),
        ({"runner": "ray"}, "runner ray needs execution.ray.address"),
        ({"runner": "ray", "ray": {"address": "head"}}, "host:port"),
        ({"pool": "gpus"}, "execution.pool is for runner prefect, and the runner is local"),
        ({"runner": "prefect", "pool": "gpus", "ray": {"num_gpus": 2}}, "execution.ray is for runner ray"),
        ({"parallel": 0}, "greater than or equal to 1"),
        ({"runner": "dask"}, "'local', 'prefect' or 'ray'"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, execution: dict[str, Any], words: str) -> None:
    text = {"text": "a word"}
    settings = {
        "name": "invert",
        "store": str(tmp_path / "store"),
        "model": "/nowhere",
        "source": {"domain": "noise", "path": str(tmp_path)},
        "prompts": {"source": text, "target": {"domain": "other", **text}},
        "execution": execution,
    }
    with pytest.raises(ConfigError, match=words):
        job_of(settings)
