"""Settings changed in the text of a job's file; all else in it, comments too, stays as it stands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from lsb.config.file import Loader
from lsb.config.reference import in_yaml

Span = tuple[int, int]
Change = tuple[int, int, str]  # what replaces the characters from one place to another


def with_settings(text: str, section: str, values: Mapping[str, Any]) -> str:
    """The text of a job's file with other values in one of its sections, such as `bridge`, which is made if need be.

    What stands there behind a `#`, as in a job's first file, gives its line to the value.

    What comes out is to be read before it is used: not all that YAML can say is seen through here.
    """
    root = _root(text)
    found = _value_of(root, section)
    if isinstance(found, yaml.MappingNode) and found.value:
        if not found.flow_style:
            return _set(text, found, values, _lines_of(text, root, section))
        return _set(text, found, values)
    header = re.search(rf"^#({re.escape(section)}:)[ \t]*(#.*)?$", text, re.MULTILINE)
    if found is None and header is not None and not root.flow_style:
        return _shown(text[: header.start()] + text[header.start(1) :], header.start(), values)
    return _set(text, root, {section: dict(values)})


def without_section(text: str, section: str) -> str:
    """The text of a job's file without a section; its comments stay."""
    root = _root(text)
    for place, (key, value) in enumerate(root.value):
        if key.value == section:
            first, last = key.start_mark.index, _end(value)
            if root.flow_style and place + 1 < len(root.value):
                last = root.value[place + 1][0].start_mark.index
            elif not root.flow_style:
                last = text.find("\n", last) + 1 or len(text)
            return text[:first] + text[last:]
    return text


def _root(text: str) -> yaml.MappingNode:
    node = yaml.compose(text, Loader=Loader)
    assert isinstance(node, yaml.MappingNode)
    return node


def _set(text: str, mapping: yaml.MappingNode, values: Mapping[str, Any], lines: Span = (0, 0)) -> str:
    """The text with these values in a mapping that is not empty, whose commented settings stand between `lines`."""
    changes, new = list[Change](), list[str]()
    indent = " " * mapping.value[0][0].start_mark.column
    for name, value in values.items():
        found = _value_of(mapping, name)
        if found is not None:
            changes.append((found.start_mark.index, _end(found), in_yaml(value)))
        elif (commented := _commented(text, lines, indent, name)) is not None:
            changes.append((*commented, f"{indent}{name}: {in_yaml(value)}"))
        else:
            new.append(f"{name}: {in_yaml(value)}")
    if new:
        changes.append(_added(text, mapping, new))
    return _replaced(text, changes)


def _shown(text: str, header: int, values: Mapping[str, Any]) -> str:
    """The text with values in a section of which only the header is no comment."""
    if "\n" not in text[header:]:
        text += "\n"
    lines = _lines_below(text, header)
    changes = list[Change]()
    for name, value in values.items():
        line = f"  {name}: {in_yaml(value)}"
        span = _commented(text, lines, "  ", name)
        changes.append((lines[0], lines[0], f"{line}\n") if span is None else (*span, line))
    return _replaced(text, changes)


def _replaced(text: str, changes: Iterable[Change]) -> str:
    for first, last, written in sorted(changes, reverse=True):
        text = text[:first] + written + text[last:]
    return text


def _lines_of(text: str, root: yaml.MappingNode, section: str) -> Span:
    key = next(key for key, _ in root.value if key.value == section)
    return _lines_below(text, key.start_mark.index)


def _lines_below(text: str, header: int) -> Span:
    """From the line below a section's header up to the next section or setting of the job, commented or not."""
    first = text.find("\n", header) + 1 or len(text)
    following = re.compile(r"^#?[^\s#]", re.MULTILINE).search(text, first)
    return first, following.start() if following else len(text)


def _commented(text: str, lines: Span, indent: str, name: str) -> Span | None:
    """Where a setting stands behind a `#`, without the comment at its line's end. Words after it make it a remark."""
    value = r"""(?:"[^"]*"|'[^']*'|\[.*?\]|\{.*?\}|[^\s#]+)"""
    pattern = rf"^#{indent}{re.escape(name)}:(?: +{value})?(?=\s*$|\s+#)"
    found = re.compile(pattern, re.MULTILINE).search(text, *lines)
    return found.span() if found else None


def _added(text: str, mapping: yaml.MappingNode, lines: list[str]) -> Change:
    if mapping.flow_style:
        end = mapping.end_mark.index - 1
        separator = " " if text[:end].rstrip().endswith(",") else ", "
        return end, end, separator + ", ".join(lines)
    first = mapping.value[0][0].start_mark
    if first.column:
        indent = " " * first.column
        return first.index, first.index, "".join(f"{line}\n{indent}" for line in lines)
    return len(text), len(text), ("" if text.endswith("\n") else "\n") + "".join(f"{line}\n" for line in lines)


def _value_of(mapping: yaml.MappingNode, name: str) -> yaml.Node | None:
    return next((value for key, value in mapping.value if key.value == name), None)


def _end(node: yaml.Node) -> int:
    """Where a node's text ends. A mapping in lines says that it ends where the next thing begins."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    end: int = node.end_mark.index
    return end
