"""What one image's record is called and how its identity is made.

Everything that is hashed is hashed here: bytes with SHA-256, structures as RFC 8785 canonical JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from io import BufferedRandom
from typing import Any

import rfc8785

RECORD_ID_HEX = 32


class Status(StrEnum):
    """What became of a record. `ok` and `quarantined` are final; `failed` is ours and may be run again.

    `erased` is what a view says of an `ok` row whose image somebody asked to be deleted; no shard ever has it.
    """

    OK = "ok"
    QUARANTINED = "quarantined"
    FAILED = "failed"
    ERASED = "erased"


def has_output(counts: Mapping[str, int]) -> bool:
    """Whether a run with these counts by status made, or carries, a picture; one that was erased since counts too."""
    return bool(counts.get(Status.OK.value) or counts.get(Status.ERASED.value))


class Action(StrEnum):
    """What the plan wants done with a record."""

    TRANSLATE = "translate"
    CARRY = "carry"
    QUARANTINE = "quarantine"


def sha256(data: bytes) -> str:
    """SHA-256 of `data`, 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(file: BufferedRandom) -> str:
    """The same of all that an open file holds."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """RFC 8785 canonical JSON. Integers above 2^53 are refused by the RFC: seeds are strings."""
    if _is_plain(value):  # of which the standard library makes the canonical form too, and many times faster
        return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    return rfc8785.dumps(value)


def _is_plain(value: Any) -> bool:
    """Texts in objects and lists, with names in ASCII and small whole numbers."""
    if type(value) is dict:
        others = [item for item in value.values() if type(item) is not str]
        return {*map(type, value)} <= {str} and "".join(value).isascii() and all(map(_is_plain, others))
    if type(value) is list:
        return all(map(_is_plain, value))
    return type(value) is str or value is None or type(value) is bool or (type(value) is int and abs(value) < 1 << 53)


def digest_of(value: Any) -> str:
    """SHA-256 of a structure's canonical JSON."""
    return sha256(canonical_json(value))


def key_of(name: str) -> str:
    """A source's name as its record's key: itself, but each byte that is not UTF-8 as `//x` and two hex digits.

    Args:
        name: relative path with slashes, bytes that are not UTF-8 as lone surrogates (PEP 383). No path that a listing
            gives has two slashes in a row, so that two names never get one key.
    """
    escaped = (f"//x{ord(c) - 0xDC00:02x}" if "\udc80" <= c <= "\udcff" else c for c in name)
    return name if name.isascii() else "".join(escaped)


def record_id(key: str) -> str:
    """Identity of a source image: the first 32 hex digits of SHA-256 of its key."""
    return sha256(key.encode())[:RECORD_ID_HEX]


def dataset_version(records: Iterable[tuple[str, str | None]]) -> str:
    """Version of a data set: SHA-256 of its sorted (record id, source digest) pairs."""
    return version_of_sorted([sorted([rid, digest or ""] for rid, digest in records)])


def version_of_sorted(chunks: Iterable[Sequence[Sequence[str]]]) -> str:
    """The same of pairs that come in order, some at a time."""
    digest = hashlib.sha256(b"[")
    between = b""
    for pairs in chunks:
        if pairs:
            # Of strings in lists the standard library makes the canonical form too, and many times faster.
            text = json.dumps(pairs, ensure_ascii=False, separators=(",", ":"))
            digest.update(between + text[1:-1].encode())
            between = b","
    digest.update(b"]")
    return digest.hexdigest()
