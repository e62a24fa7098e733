"""deployments/prefect.yaml and automations.yaml, as far as Prefect's own models tell. On a server: tests/e2e."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prefect.cli.deploy._models import DeploymentConfig, PrefectYamlModel, WorkPoolConfig
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.events.schemas.automations import AutomationCore, EventTrigger
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from flows.work import FLOW
from tests.prefect_parts import AUTOMATIONS_FILE, DEPLOYMENT_FILE

WRITTEN = yaml.safe_load(DEPLOYMENT_FILE.read_text())
DEPLOYMENTS: dict[str, dict[str, Any]] = {one["name"]: one for one in WRITTEN["deployments"]}
AUTOMATIONS: list[dict[str, Any]] = yaml.safe_load(AUTOMATIONS_FILE.read_text())["automations"]


def form(name: str) -> dict[str, Any]:
    """The schema of a deployment's parameters, as Prefect makes its form of it."""
    flow = load_flow_from_entrypoint(DEPLOYMENTS[name]["entrypoint"], use_placeholder_flow=False)
    return parameter_schema(flow).model_dump_for_openapi()


def fields(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of every part of a form; one that is a part is described by either."""
    definitions = schema.get("definitions", {})
    for part, what in [("", schema), *definitions.items()]:
        for name, field in what.get("properties", {}).items():
            whole = definitions.get(field.get("$ref", "").rpartition("/")[2], {})
            yield f"{part}.{name}", {**whole, **field}


def test_prefect_knows_every_key() -> None:
    """It ignores those that it does not know."""
    assert WRITTEN.keys() - {"prefect-version", "definitions"} <= PrefectYamlModel.model_fields.keys()
    for deployment in DEPLOYMENTS.values():
        assert deployment.keys() <= DeploymentConfig.model_fields.keys()
        assert deployment["work_pool"].keys() <= WorkPoolConfig.model_fields.keys()
        for schedule in deployment["schedules"]:
            assert schedule.keys() <= {*DeploymentScheduleCreate.model_fields, "cron", "timezone", "day_or"}
            assert schedule.keys() >= {"slug", "cron", "timezone", "active"}


def test_all_of_a_data_set_wait_in_one_queue_and_no_limit_can_stay_taken() -> None:
    scheduled = [deployment for deployment in DEPLOYMENTS.values() if deployment["schedules"]]
    assert {deployment["work_pool"]["work_queue_name"] for deployment in scheduled} == {"icons"}
    assert not any("concurrency_limit" in deployment for deployment in DEPLOYMENTS.values())
    assert all(deployment["tags"] == ["lsb", "icons"] for deployment in scheduled)
    assert "prefect work-queue create icons --pool lsb --limit 1" in DEPLOYMENT_FILE.read_text()


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_form_describes_each_field_and_takes_what_is_written(name: str) -> None:
    schema = form(name)
    assert {place for place, field in fields(schema) if not field.get("description")} == set()
    validate(DEPLOYMENTS[name]["parameters"], schema, raise_on_error=True)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *(
            ("nightly", {"config": {**DEPLOYMENTS["nightly"]["parameters"]["config"], **change}})
            for change in (
                {"execution": {"batch": 0}},
                {"execution": {"shard_sise": 10}},
                {"execution": {"dtype": "float8"}},
                {"budget": {"max_failed_fraction": 2}},
                {"name": "Not A Name"},
                {"bridge": {"tau": "wide"}},
                {"bridge": {"tau": 0}},
                {"learning": {"validation_fraction": 1}},
                {"store": None},
            )
        ),
        ("nightly", {"options": {"rereed": True}}),
        ("nightly", {"retries": -1}),
        ("rerun-failures", {"job": "Not A Name"}),
        ("rerun-failures", {"selection": {"code": ["source_missing"]}}),
        ("clean-up", {"older_than": 1}),
        ("verification", {"sample": -1}),
    ],
    ids=json.dumps,
)
def test_what_cannot_be_is_refused_when_it_is_submitted(name: str, change: dict[str, Any]) -> None:
    errors = validate({**DEPLOYMENTS[name]["parameters"], **change}, form(name))
    assert [error.json_path.split(".")[1] for error in errors] == list(change)


def test_copies_of_the_loop_have_a_queue_that_no_scheduled_run_waits_in() -> None:
    work = DEPLOYMENTS["work"]
    assert (work["work_pool"]["work_queue_name"], work["schedules"]) == ("work", [])
    assert load_flow_from_entrypoint(work["entrypoint"], use_placeholder_flow=False).name == FLOW


def test_paths_are_absolute() -> None:
    config = DEPLOYMENTS["nightly"]["parameters"]["config"]
    prompts = [config["prompts"][side]["images"] for side in ("source", "target")]
    stores = [deployment["parameters"].get("store", config["store"]) for deployment in DEPLOYMENTS.values()]
    for path in (*stores, config["model"], config["source"]["path"], *prompts):
        assert path.startswith("/") or "://" in path
    assert set(stores) == {config["store"]}


@pytest.mark.parametrize("written", AUTOMATIONS, ids=lambda written: written["name"])
def test_an_automation_has_no_key_that_prefect_ignores_and_watches_ours_alone(written: dict[str, Any]) -> None:
    read = AutomationCore.model_validate(written)
    assert written.keys() <= AutomationCore.model_fields.keys()
    assert written["trigger"].keys() <= EventTrigger.model_fields.keys()
    for action, kept in zip(written["actions"], read.actions, strict=True):
        assert action.keys() <= type(kept).model_fields.keys()
    assert (
        written["trigger"]["match_related"]["prefect.resource.id"] == f"prefect.tag.{DEPLOYMENTS['nightly']['tags'][0]}"
    )
