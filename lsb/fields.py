"""What the settings of all rooms are made of: their base, and fields whose values mean what they say.

What becomes of a relative path is said by the context that settings are validated in: with `{"folder": path}` it is
relative to that folder, with `{"folder": None}` it is refused, without one it stays as it is. URIs and hub ids stay.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo

from lsb.redaction import holds_secret

_VARIABLE = re.compile(r"\$[A-Za-z_]")


def _location(value: str) -> str:
    """A path, URI or hub id that means what it says; a leading `~` is replaced."""
    if not value.strip() or not value.isprintable():
        raise ValueError("must be a path or a URI, without control characters")
    if holds_secret(value):
        raise ValueError("a URI must not hold credentials or a signed query; they come from the environment")
    if _VARIABLE.match(value):
        raise ValueError("variables are not filled in here; write the path itself, or ./ before a name that begins so")
    if not value.startswith("~"):
        return value
    expanded = os.path.expanduser(value)
    if expanded.startswith("~"):
        raise ValueError("no such home directory; write ./ before a name that begins with ~")
    return expanded


def _anchored(value: str, info: ValidationInfo) -> str:
    context = info.context or {}
    if "folder" not in context or "://" in value:
        return value
    if context["folder"] is not None:
        return os.path.normpath(os.path.join(context["folder"], value))
    return _absolute(value)


def _absolute(value: str) -> str:
    if not os.path.isabs(value) and "://" not in value:
        raise ValueError(f"{value} is relative; give an absolute path or a URI")
    return value


def _anchored_model(value: str, info: ValidationInfo) -> str:
    """A hub id (`owner/name`) is told from a path by whether the path exists."""
    if value.startswith((".", "/")):
        return _anchored(value, info)
    if (info.context or {}).get("folder") is None:
        return value
    path = _anchored(value, info)
    return path if os.path.exists(path) else value


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
Location = Annotated[str, AfterValidator(_location), AfterValidator(_anchored)]
Absolute = Annotated[str, AfterValidator(_location), AfterValidator(_absolute)]
ModelLocation = Annotated[str, AfterValidator(_location), AfterValidator(_anchored_model)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Seconds = Annotated[float, Field(gt=0, le=10**8)]
Hours = Annotated[float, Field(gt=0, le=10**8)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# The types of pydantic's errors where a number has the right type and no more.
RANGE_ERRORS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"}


def range_in_words(schema: Mapping[str, Any]) -> str:
    """What a number may be, from its JSON schema: `above 0`, `at least 2`, `within (0, 1]`; empty if anything."""
    numbers = (kind for kind in schema.get("anyOf", ()) if kind["type"] in ("integer", "number"))
    schema = {**schema, **next(numbers, {})}
    low, high = (
        schema.get("minimum", schema.get("exclusiveMinimum")),
        schema.get("maximum", schema.get("exclusiveMaximum")),
    )
    if low is None or high is None:
        bounds = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
        return "".join(f"{word} {schema[name]:g}" for name, word in bounds.items() if name in schema)
    return f"within {'[' if 'minimum' in schema else '('}{low}, {high}{']' if 'maximum' in schema else ')'}"
