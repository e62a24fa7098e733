"""deployments/compose.yaml as Docker Compose reads it: with variables in place of their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from tests.prefect_parts import REPOSITORY

COMPOSE = REPOSITORY / "deployments" / "compose.yaml"
_VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>\w+)(:-(?P<default>[^}]*)|:\?[^}]*)\}")


def defaults() -> dict[str, str | None]:
    """Every variable that the file names, None for those that must be given."""
    return {found["name"]: found["default"] for found in _VARIABLE.finditer(COMPOSE.read_text())}


def filled_in(given: Mapping[str, str]) -> dict[str, Any]:
    """The whole file; ValueError if something must be given and is not."""

    def value(found: re.Match[str]) -> str:
        answer = given.get(found["name"]) or found["default"]
        if answer is None:
            raise ValueError(f"{found['name']} must be given")
        return answer

    read: dict[str, Any] = yaml.safe_load(_VARIABLE.sub(value, COMPOSE.read_text()))
    return read


def environment(service: str, given: Mapping[str, str]) -> dict[str, str]:
    """A service's environment."""
    return {name: str(value) for name, value in filled_in(given)["services"][service].get("environment", {}).items()}
