"""Texts of others, such as errors and names of files, made fit to be kept and shown: without secrets, and inert."""

from __future__ import annotations

import re

LIMIT = 200

_CREDENTIALS = re.compile(r"(?<=://)(?:[^/\s]*|[^/\s:@]+:(?!\d+/)\S*?)@")  # a password may hold slashes
_QUERY = re.compile(r"(?<=\?)[^\s'\"]*=[^\s'\"]*")
_WORDS = r"\w*(?:secret|passw(?:or)?d|api[_-]?key|access[_-]?key)\w*"
_ASSIGNED = re.compile(rf"(?i)\b({_WORDS}|\w*token\w*(?=['\"]?\s*=))(['\"]?\s*[=:]\s*)\S+")
_TOKEN = re.compile(r"(?i)\b(\w*token\w*)(['\"]?\s*:\s*)\S+")
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|$)", re.DOTALL)
_KEY_ID = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bhf_[A-Za-z0-9]{16,}\b")
_WHOLE_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")  # a folder may be called hf_something
_QUOTED_PATH = re.compile(r"(['\"])(?:file://)?(?:/|[A-Za-z]:\\)[^'\"]*\1")
_PATH = re.compile(r"(?<![\w:/.<>])(?:file://)?(?:/[^\s'\",;:()]+|[A-Za-z]:\\[^\s'\",;]+)")


def redact(text: str, about: str | None = None) -> str:
    """At most 200 characters of `text` on one line, fit for a manifest.

    Absolute paths become `<path>`, secrets `<secret>`, and what is not printed is made visible.

    Args:
        about: a file's key. Where `text` names it and nothing is left of it, as of a part of a path, it comes first.
    """
    line = _TOKEN.sub(r"\1\2<secret>", without_secrets(" ".join(text.split())))
    line = _QUOTED_PATH.sub("<path>", line)
    line = visible(_PATH.sub("<path>", line))
    line = line if len(line) <= LIMIT else line[: LIMIT - 1] + "…"
    if not about or visible(about) in line or not (about in text or repr(about)[1:-1] in text):
        return line
    return f"{shortened(about)}: {line}"


def shortened(text: str, limit: int = LIMIT) -> str:
    """`visible(text)`, of which the middle is left out where it is longer than `limit` characters."""
    line = visible(text)
    return line if len(line) <= limit else f"{line[: limit // 2]}…{line[len(line) - (limit - limit // 2) + 1 :]}"


def visible(text: str) -> str:
    """`text` with an escape such as `\\x1b` for every character that is not printed.

    These are control characters, line ends, marks that turn the direction of writing, and bytes that are no text.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def without_secrets(text: str) -> str:
    """`text` with `<secret>` in place of what looks like a password, a key or a signed query; paths stay.

    A `token:` stays as well: it is a setting of ours, and no secret.
    """
    text = _PRIVATE_KEY.sub("<secret>", text)
    text = _CREDENTIALS.sub("<secret>@", text)
    text = _QUERY.sub("<secret>", text)
    text = _ASSIGNED.sub(r"\1\2<secret>", text)
    return _KEY_ID.sub("<secret>", text)


def holds_secret(location: str) -> bool:
    """Whether a path, a URI or a hub id has a user's name, a password, a query or a key in it."""
    if "://" not in location:
        return _WHOLE_TOKEN.search(location) is not None
    return bool(_CREDENTIALS.search(location) or _QUERY.search(location) or _KEY_ID.search(location))
