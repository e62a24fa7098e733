"""The one interface through which everything is read and written.

A store is a flat set of objects under keys with slashes. Two ways to write: `write` replaces, `create` succeeds for
exactly one of many writers. Every claim of the ledger rests on `create`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedRandom
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from lsb.errors import StoreError, UsageError
from lsb.redaction import holds_secret

if TYPE_CHECKING:
    from lsb.store.s3 import S3Store

_KEY = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)


@dataclass(frozen=True, order=True, slots=True)
class Entry:
    """One object of a listing. `etag` changes whenever the bytes may have; `modified` is the store's own clock (s)."""

    key: str
    size: int
    etag: str
    modified: float


Data = bytes | BufferedRandom  # of an object: its bytes, or an open file that holds them from its beginning to its end
Entries = list[Entry]
Names = list[str]


class Store(Protocol):
    """Objects under one root. Keys that are written are ASCII letters, digits, `.`, `_`, `-` and slashes."""

    uri: str

    def read(self, key: str) -> bytes:
        """The object's bytes; NotFoundError if there is none, StoreError if it cannot be read."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Put an object, whole or not at all, replacing what was there."""
        ...

    def create(self, key: str, data: Data) -> None:
        """Put an object unless the key is taken: of many writers exactly one succeeds.

        Raises:
            AlreadyExistsError: somebody was first. After a lost answer that may have been this very call.
        """
        ...

    def exists(self, key: str) -> bool: ...

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens if there is none."""
        ...

    def check(self) -> None:
        """Prove that the store can be written and honours `create`; StoreError otherwise."""
        ...

    def list(self, prefix: str = "") -> Entries:
        """Every object whose key starts with the folder `prefix`, recursively, in key order; `.tmp` only if named."""
        ...

    def folders(self, beginning: str) -> Names:
        """Every folder whose path begins with this text and has no slash after it, in order; nothing below is read.

        `runs/a-` gives `runs/a-1` and `runs/a-2`. On a file system there may be empty ones among them.
        """
        ...


@runtime_checkable
class ReadsRanges(Protocol):
    """A store that can read some bytes of an object without the others. Of others objects are read whole."""

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start` on, or fewer where the object ends; errors as for `Store.read`."""
        ...


def read_range(store: Store, key: str, start: int, length: int) -> bytes:
    """Some bytes of an object, as `ReadsRanges.read_range` has them, of any store."""
    if isinstance(store, ReadsRanges):
        return store.read_range(key, start, length)
    return store.read(key)[start : start + length]


@runtime_checkable
class ReadsPieces(Protocol):
    """A store that can read an object without holding all of it. Of others objects are read whole."""

    def read_pieces(self, key: str) -> Iterator[bytes]:
        """The object's bytes, a piece behind the other; errors as for `Store.read`.

        Of one that is replaced meanwhile they may be some of each: whoever knows its digest notices.
        """
        ...


def read_pieces(store: Store, key: str) -> Iterator[bytes]:
    """An object, as `ReadsPieces.read_pieces` has it, of any store."""
    return store.read_pieces(key) if isinstance(store, ReadsPieces) else iter((store.read(key),))


def contents(data: Data) -> bytes:
    """The bytes of an object, as `Store.create` is given them."""
    if isinstance(data, bytes):
        return data
    data.seek(0)
    return data.read()


def size_of(data: Data) -> int:
    """How many they are."""
    return len(data) if isinstance(data, bytes) else data.seek(0, os.SEEK_END)


def part_of(data: Data, start: int, length: int) -> bytes:
    """Some of them, or fewer where they end."""
    return data[start : start + length] if isinstance(data, bytes) else os.pread(data.fileno(), length, start)


def validate_key(key: str) -> str:
    """`key` itself if an object may be written there.

    Raises:
        StoreError: empty, absolute, a `.` or `..` part, or a character outside the allowed ones.
    """
    if not _KEY.fullmatch(key):
        raise StoreError(f"key {key!r} is not allowed: use letters, digits, '.', '_', '-' between slashes", key=key)
    return validate_path(key)


def validate_path(key: str) -> str:
    """`key` itself if an object may be read there: any relative path without empty, `.` or `..` parts."""
    if any(part in ("", ".", "..") for part in key.split("/")) or "\0" in key:
        raise StoreError(f"key {key!r} is not allowed: it must be relative, without '.' and '..' parts", key=key)
    return key


def folders_of(keys: Iterable[str], beginning: str) -> set[str]:
    """What `Store.folders` gives where these are all keys."""
    start = len(beginning)
    return {key[: key.index("/", start)] for key in keys if key.startswith(beginning) and "/" in key[start:]}


def scheme_of(uri: str) -> str:
    """The scheme in lower case, empty for a path."""
    found = _SCHEME.match(uri)
    return found[1].lower() if found else ""


def open_store(uri: str, *, create: bool = False, largest: int | None = None) -> Store:
    """The store at a path, a `file://` URI or `s3://bucket/prefix`.

    Args:
        create: make the folder if it is missing. A bucket is never made.
        largest: bytes; no object that is larger is read.

    Raises:
        NotFoundError: no such folder and `create` is off.
        StoreError: it exists but is no folder, cannot be made, or is a bucket that cannot be listed.
        UsageError: a scheme that is not supported, or a URI with credentials or a signed query in it.
    """
    from lsb.store.kinds import STORES
    from lsb.store.untouched import looking, unchanged

    if holds_secret(uri):
        raise UsageError("a store's URI must not hold credentials or a signed query; they come from the environment")
    scheme = scheme_of(uri)
    if scheme not in STORES:
        allowed = " or ".join(f"{name}://" for name in STORES if name)
        raise UsageError(f"{scheme}:// is an unsupported scheme of a store; use a path, {allowed}")
    store: Store = unchanged(STORES[scheme](uri, create=create and not looking(), largest=largest))
    return store


def open_s3(uri: str, *, create: bool = False, largest: int | None = None) -> S3Store:
    """The store at `s3://bucket` or `s3://bucket/prefix`; errors as for `open_store`."""
    try:
        from lsb.store.s3 import S3Store
    except ModuleNotFoundError as error:
        raise StoreError(f"store {uri!r} needs the package s3fs; pip install 'lsb[s3]'") from error
    return S3Store.open(uri, largest=largest)
