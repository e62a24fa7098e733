"""Texts of errors made fit for a manifest: one line, short, without paths of the machine and without secrets."""

from __future__ import annotations

import re

LIMIT = 200

_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")
_QUERY = re.compile(r"(?<=\?)[^\s'\"]*=[^\s'\"]*")
_ASSIGNED = re.compile(r"(?i)\b(\w*(?:secret|token|passw(?:or)?d|api[_-]?key|access[_-]?key)\w*)(['\"]?\s*[=:]\s*)\S+")
_KEY_ID = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bhf_[A-Za-z0-9]{16,}\b")
_QUOTED_PATH = re.compile(r"(['\"])(?:file://)?(?:/|[A-Za-z]:\\)[^'\"]*\1")
_PATH = re.compile(r"(?<![\w:/.<>])(?:file://)?(?:/[^\s'\",;:()]+|[A-Za-z]:\\[^\s'\",;]+)")


def redact(text: str) -> str:
    """At most 200 characters of `text` on one line; absolute paths become `<path>`, secrets `<secret>`."""
    line = " ".join(text.split())
    line = _CREDENTIALS.sub("<secret>@", line)
    line = _QUERY.sub("<secret>", line)
    line = _ASSIGNED.sub(r"\1\2<secret>", line)
    line = _KEY_ID.sub("<secret>", line)
    line = _QUOTED_PATH.sub("<path>", line)
    line = _PATH.sub("<path>", line)
    return line if len(line) <= LIMIT else line[: LIMIT - 1] + "…"
