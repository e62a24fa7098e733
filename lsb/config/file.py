"""A YAML file of settings, read so that nobody has to guess what it says.

Every value stays the text that stands there, and whoever wants a number or a switch makes it from that text: as a seed
042 is 042, never 34. What a reader could overlook is refused with its place: a name given twice, anchors, `${...}`.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lsb.errors import ConfigError

LARGEST = 256 << 10  # bytes; a job's file has a few thousand
DEEPEST = 20

_NULL, _TEXT = "tag:yaml.org,2002:null", "tag:yaml.org,2002:str"
_PLAIN = {_TEXT, *(f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool"))}

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class SettingsFile:
    """What a file says: `values` are mappings and lists of texts and None, `lines` says where each of them begins."""

    path: Path
    values: dict[str, Any]
    lines: dict[Place, int]

    def at(self, place: Place) -> str:
        """The file and the line, for a message about the value at `place` or, where that is absent, around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return f"{self.path}, line {self.lines[place]}" if place else str(self.path)

    def texts(self) -> Iterator[tuple[Place, str]]:
        """Every text with its place."""
        return _texts(self.values, ())


def named(place: Place) -> str:
    """A place as people write it: `prompts.source.text`."""
    return ".".join(map(str, place))


def read_settings(path: Path) -> SettingsFile:
    """Read a file.

    Raises:
        ConfigError: it cannot be read, is no mapping in YAML, or leaves open what is meant; one line says where.
    """
    text = text_of(path)
    try:
        node = yaml.compose(text, Loader=Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{where}: not valid YAML: {reason}", field="") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = f"character {chr(error.character)!r}" if isinstance(error.character, int) else "a character"
        raise ConfigError(f"{path}, line {line}: {character} is not allowed in YAML", field="") from error
    if node is None:
        raise ConfigError(f"{path} is empty; it must hold the settings of a job", field="")
    if not isinstance(node, yaml.MappingNode):
        kind = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
        raise ConfigError(f"{path} must hold a mapping of settings, not {kind}", field="")
    lines: dict[Place, int] = {}
    values = _value(path, node, (), lines)
    found = SettingsFile(path, values, lines)
    for place, value in found.texts():
        if "${" in value:
            raise ConfigError(
                f"{found.at(place)}: {named(place)}: ${{...}} is not filled in here; write the value itself",
                field=named(place),
            )
    return found


def text_of(path: Path) -> str:
    """What stands in a file; ConfigError if it cannot be read, or is no text."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise ConfigError(f"{path} is {kind}; give the job's YAML file", field="")
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read configuration {path}: {reason}; check the path", field="") from error
    if len(data) > LARGEST:
        raise ConfigError(f"{path} has more than {LARGEST >> 10} KiB; that is no job's file", field="")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8; save the file as UTF-8", field="") from error


class Loader(yaml.SafeLoader):
    """Takes `null`, `~` and nothing for None, and every other plain value for text."""

    yaml_implicit_resolvers = {  # noqa: RUF012  the name and the type are PyYAML's
        first: [(tag, pattern) for tag, pattern in resolvers if tag == _NULL]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()
        if getattr(event, "anchor", None) is not None:
            problem = "anchors and aliases (&name, *name) are not read; write the value out"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        if self.depth == DEEPEST:
            problem = f"nested more than {DEEPEST} deep"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def _value(path: Path, node: yaml.Node, place: Place, lines: dict[Place, int]) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(place, line)
    if isinstance(node, yaml.ScalarNode) and node.tag in (_NULL, *_PLAIN):
        return None if node.tag == _NULL else node.value
    if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
        return [_value(path, item, (*place, index), lines) for index, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode) or node.tag != "tag:yaml.org,2002:map":
        raise ConfigError(f"{path}, line {line}: {named(place)}: the tag {node.tag} is not read", field=named(place))
    values: dict[str, Any] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{path}, line {line}: the name of a setting must be a word", field=named(place))
        inner = (*place, key.value)
        if key.value in values:
            raise ConfigError(
                f"{path}, line {line}: {named(inner)} is given twice, first in line {lines[inner]}; keep one",
                field=named(inner),
            )
        lines[inner] = line
        values[key.value] = _value(path, value, inner, lines)
    return values


def _texts(value: Any, place: Place) -> Iterator[tuple[Place, str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict | list):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _texts(item, (*place, name))
