"""Every setting of a job, from the descriptions of its fields. The page `docs/configuration.md` is made of them:
`python -m lsb.config.reference > docs/configuration.md`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lsb.config.job import JobConfig
from lsb.fields import range_in_words

_HEAD = """\
# Settings of a job

<!-- Made by `make reference` from the descriptions of the fields; change them there. -->

A job is a YAML file; `lsb init` writes one. Settings without a default are required. A relative path is relative to the
file, and a leading `~` is a home directory. Secrets come from the environment, never from here. Standard deviations and
vectors have the model's own units; other numbers have the unit that stands with them, or none.
"""
_KINDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}


@dataclass(frozen=True)
class Setting:
    """One field.

    Attributes:
        allowed: what may stand there, in words.
        default: as it would stand in a file; None where there is none.
        summary: the first sentence of the description.
    """

    name: str
    description: str
    allowed: str
    default: str | None

    @property
    def summary(self) -> str:
        return self.description.partition(". ")[0].rstrip(".")


@dataclass(frozen=True)
class Section:
    """The settings that stand together.

    Attributes:
        places: names before theirs, each empty or with a dot at its end; two where two parts of a job have the same.
        choice: the name by which these settings are chosen, where there are others that could stand there.
    """

    places: tuple[str, ...]
    about: str
    settings: tuple[Setting, ...]
    choice: str = ""

    @property
    def heading(self) -> str:
        """The section's title: where its settings stand."""
        if self.choice:
            return f"`{self.places[0].removesuffix('.')}: {{name: {self.choice}}}`"
        return ", ".join(f"`{place.removesuffix('.')}`" for place in self.places if place) or "The job"


def sections(model: type[BaseModel] = JobConfig, place: str = "") -> Iterator[Section]:
    """A job's settings in the order in which they are declared; those at its top come first."""
    yield Section((place,), about(model), settings_of(model))
    inner: dict[type[BaseModel], list[str]] = {}
    for name, field in model.model_fields.items():
        if (kind := model_of(field)) is not None:
            inner.setdefault(kind, []).append(f"{place}{name}.")
    for kind, places in inner.items():
        for section in sections(kind, places[0]):
            yield replace(section, places=(*section.places, *places[1:]))
        field = model.model_fields[places[0].removesuffix(".").rpartition(".")[2]]
        for other in choices_of(field):
            if other is not kind:
                settings = tuple(setting for setting in settings_of(other) if setting.name != "name")
                yield Section((places[0],), about(other), settings, choice=other.model_fields["name"].default)


def settings_of(model: type[BaseModel]) -> tuple[Setting, ...]:
    """Those fields of a model that are no models themselves."""
    schemas = model.model_json_schema()["properties"]
    return tuple(
        Setting(
            name,
            field.description or "",
            _allowed(schemas[name]),
            None if field.is_required() else in_yaml(field.default),
        )
        for name, field in model.model_fields.items()
        if model_of(field) is None
    )


def page() -> str:
    """The reference, in Markdown."""
    parts = [_HEAD]
    for section in sections():
        if not section.settings:
            continue
        parts += [
            f"## {section.heading}\n",
            section.about + "\n",
            "| setting | what it is | allowed | default |",
            "|---|---|---|---|",
        ]
        for setting in section.settings:
            default = "required" if setting.default is None else f"`{setting.default}`"
            cells = (f"`{setting.name}`", setting.description, setting.allowed, default)
            parts.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        parts.append("")
    return "\n".join(parts)


def in_yaml(value: Any) -> str:
    """A value as it stands in a file, on one line."""
    value = list(value) if isinstance(value, tuple) else value
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf)
    return text.removesuffix("...\n").strip()


def model_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model whose settings stand below a field, if any do; the one by default where there is a choice."""
    kind = type(field.default) if choices_of(field) else field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def choices_of(field: FieldInfo) -> tuple[type[BaseModel], ...]:
    """The models that may stand below a field, where a name chooses among several."""
    return get_args(field.annotation) if field.discriminator else ()


def about(model: type[BaseModel]) -> str:
    """What a model's docstring says of it."""
    return " ".join((model.__doc__ or "").partition("Raises:")[0].split())


def _allowed(schema: dict[str, Any]) -> str:
    """What a schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join("null" if kind["type"] == "null" else _allowed(kind) for kind in schema["anyOf"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        return f"list ({_allowed(schema['items'])})"
    kind = f"text like `{schema['pattern']}`" if "pattern" in schema else _KINDS[schema["type"]]
    return f"{kind} {range_in_words(schema)}".rstrip()


if __name__ == "__main__":
    sys.stdout.write(page())
