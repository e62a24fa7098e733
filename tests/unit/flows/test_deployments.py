"""Prefect ignores keys that it does not know, so these files are held to the known ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.utilities.importtools import import_object

from lsb.config import JobConfig

FOLDER = Path(__file__).parents[3] / "deployments"
KEYS = {
    "name", "description", "tags", "version", "entrypoint", "enforce_parameter_schema", "parameters",
    "concurrency_limit", "schedules", "work_pool", "triggers",
}  # fmt: skip
SCHEDULE_KEYS = {"cron", "timezone", "slug", "active", "parameters", "day_or", "max_scheduled_runs"}


def deployments() -> list[dict[str, Any]]:
    read = yaml.safe_load((FOLDER / "prefect.yaml").read_text())
    assert read.keys() <= {"name", "prefect-version", "build", "push", "pull", "deployments"}
    found: list[dict[str, Any]] = read["deployments"]
    return found


@pytest.mark.parametrize("deployment", deployments(), ids=lambda deployment: deployment["name"])
class TestDeployment:
    def test_every_key_is_one_that_prefect_reads(self, deployment: dict[str, Any]) -> None:
        assert deployment.keys() <= KEYS
        assert deployment["concurrency_limit"].keys() == {"limit", "collision_strategy"}
        assert deployment["concurrency_limit"]["collision_strategy"] in ("CANCEL_NEW", "ENQUEUE")
        assert deployment["work_pool"].keys() <= {"name", "work_queue_name", "job_variables"}
        for schedule in deployment["schedules"]:
            assert {"cron", "timezone", "slug"} <= schedule.keys() <= SCHEDULE_KEYS

    def test_the_entry_point_is_a_flow_that_takes_the_parameters(self, deployment: dict[str, Any]) -> None:
        module, _, name = deployment["entrypoint"].rpartition(":")
        flow = import_object(f"{module.removesuffix('.py').replace('/', '.')}.{name}")
        assert (FOLDER.parent / module).is_file()
        assert deployment["parameters"].keys() <= set(flow.parameters.properties)
        assert flow.validate_parameters(deployment["parameters"])["config"].name

    def test_paths_are_absolute(self, deployment: dict[str, Any]) -> None:
        config = JobConfig.model_validate(deployment["parameters"]["config"])
        for path in (config.store, config.model, config.source.path):
            assert path.startswith("/") or "://" in path


def test_the_cluster_job_reads_credentials_from_a_secret_only() -> None:
    job = yaml.safe_load((FOLDER / "kubernetes" / "job.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert "env" not in container
    assert container["envFrom"] == [{"secretRef": {"name": "lsb-store"}}]
