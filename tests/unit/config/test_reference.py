"""Every setting is described, and the page about them says what the fields say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from flows.translate import translate_dataset
from lsb.config.job import JobConfig
from lsb.config.reference import page, sections
from lsb.fields import range_in_words

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"
UNITS = re.compile(
    r"\b(seconds|images|records|workers|steps|looks|vectors|evaluations|fraction|share|factor|time|units)\b",
    re.IGNORECASE,
)


def form() -> dict[str, Any]:
    """The schema that Prefect makes its form from: models by their names."""
    parameters = translate_dataset.parameters.model_dump()
    assert parameters["properties"]["config"]["$ref"] == "#/definitions/JobConfig"
    return dict(parameters["definitions"])


def fields() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each field of the form that is no model itself."""
    for model, schema in form().items():
        for name, field in schema["properties"].items():
            if "$ref" not in field and "discriminator" not in field:
                yield f"{model}.{name}", field


def test_the_page_says_what_the_fields_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make reference`"


def test_no_setting_is_missing_from_the_page() -> None:
    def leaves(settings: BaseModel, place: str = "") -> Iterator[str]:
        for name, value in settings:
            if isinstance(value, BaseModel):
                yield from leaves(value, f"{place}{name}.")
            else:
                yield f"{place}{name}"

    prompts = {"source": {"text": "a"}, "target": {"text": "b"}}
    job = {"name": "a", "store": "/a", "model": "/b", "source": {"domain": "a", "path": "/c"}, "prompts": prompts}
    always = [part for part in sections() if not part.choice]
    named = [place + setting.name for part in always for place in part.places for setting in part.settings]
    assert sorted(named) == sorted(leaves(JobConfig.model_validate(job)))


def test_the_form_describes_every_field() -> None:
    assert {"JobConfig", "BridgeSettings", "LearningConfig", "RunOptions"} <= form().keys()
    for model, schema in form().items():
        assert schema.get("description"), model
    for name, field in fields():
        assert field.get("description", "").endswith("."), name


def test_the_form_knows_every_number_s_range_and_says_its_unit() -> None:
    numbers = {
        name: field
        for name, field in fields()
        if {"integer", "number"} & {kind.get("type") for kind in field.get("anyOf", [field])}
    }
    assert {"BridgeSettings.tau", "BridgeSettings.partial", "ExecutionConfig.batch"} <= numbers.keys()
    for name, field in numbers.items():
        assert range_in_words(field), name
        assert UNITS.search(field["description"]), name


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"minimum": 2}, "at least 2"),
        ({"exclusiveMinimum": 0}, "above 0"),
        ({"maximum": 1}, "at most 1"),
        ({"exclusiveMaximum": 0.5}, "below 0.5"),
        ({"exclusiveMinimum": 0, "maximum": 1}, "within (0, 1]"),
        ({"minimum": 0, "exclusiveMaximum": 1}, "within [0, 1)"),
        ({"anyOf": [{"type": "number", "minimum": 1}, {"type": "null"}]}, "at least 1"),
        ({"type": "number"}, ""),
    ],
)
def test_ranges_in_words(schema: dict[str, Any], words: str) -> None:
    assert range_in_words(schema) == words
