"""Where pictures are read from: folders and buckets of somebody else's, with anything in them.

A listing shows the files that are pictures by their names, and counts by kind what it leaves out. Nothing that is no
regular file is ever opened, and no file is read beyond MAX_BYTES.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from pathlib import PurePosixPath
from typing import Protocol

from lsb.errors import SourceError, StoreError, UsageError
from lsb.pictures.images import SUFFIXES
from lsb.redaction import holds_secret
from lsb.store.kinds import STORES
from lsb.store.store import Entries, Entry, open_store, scheme_of

MAX_BYTES = 1 << 30
HIDDEN = "hidden"
NO_SUFFIX, OTHER_SUFFIXES = "without a suffix", "of other suffixes"
LINKS_TO_NOWHERE, LINKS_TO_FOLDERS = "links to nowhere", "links to folders"
SPECIAL = "pipes, sockets and devices"
UNREADABLE = "not readable"
TOO_LONG = "of too long paths"
KINDS = 20  # suffixes that are counted one by one

_SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")
_ODD = {errno.EACCES: UNREADABLE, errno.EPERM: UNREADABLE, errno.ENAMETOOLONG: TOO_LONG, errno.ELOOP: LINKS_TO_NOWHERE}
_ALWAYS = float("-inf")


class Source(Protocol):
    """Files that are read and never written. A store is one, too."""

    @property
    def uri(self) -> str:
        """By which it is opened again, and named in messages."""
        ...

    def list(self) -> Entries:
        """Every file once; StoreError if it cannot be listed. An etag changes whenever the file's bytes may have."""
        ...

    def read(self, key: str) -> bytes:
        """The bytes of a file of the listing.

        Raises:
            NotFoundError: it is not there any more.
            StoreError: it cannot be read; with `key` set if it is this file's fault alone.
            StoreBusyError: nothing can be read, now.
        """
        ...


def _in_store(uri: str) -> Source:
    return open_store(uri, largest=MAX_BYTES)


# By the scheme of a URI.
SOURCES: dict[str, Callable[[str], Source]] = {
    **dict.fromkeys(STORES, _in_store),
}


@dataclass(frozen=True, order=True)
class SourceFile(Entry):
    """A file of a listing.

    Attributes:
        stamp: another one whenever the source can tell that the bytes may be others.
        changed: when the file changed last by its own times, in seconds; minus infinity where the stamp is made of the
            bytes, so that no time is needed.
    """

    stamp: str
    changed: float


@dataclass(frozen=True)
class Listing:
    """What a source holds.

    Attributes:
        files: pictures by their names, in key order.
        left_out: how many entries of each kind are not among them.
        since: when the listing began, in seconds.
        one_time: whether several files have the same times, all of them: then no time shows that one is another file.
    """

    files: list[SourceFile]
    left_out: dict[str, int]
    since: float
    one_time: bool


def open_sources(uri: str) -> Source:
    """The images at `uri`, such as a folder.

    Raises:
        SourceError: missing or not readable.
        UsageError: a scheme that is not supported, or a URI with credentials or a signed query in it.
    """
    if holds_secret(uri):
        raise UsageError("the URI of images must not hold credentials or a signed query")
    scheme = scheme_of(uri)
    if scheme not in SOURCES:
        allowed = ", ".join(f"{name}://" for name in SOURCES if name)
        raise UsageError(f"{scheme}:// is an unsupported scheme of images; use a path, {allowed}")
    try:
        return SOURCES[scheme](uri)
    except StoreError as error:
        if error.transient:
            raise
        raise SourceError(f"cannot use the images at {uri}: {error}") from error


def list_sources(sources: Source) -> Listing:
    """The pictures of a source. Links to files are followed, links to folders are not.

    Left out and counted are files without a picture's suffix, by suffix; what has a name that begins with a dot, a
    folder as one; links that lead nowhere or to folders; pipes, sockets and devices; what may not be looked at; and
    what has too long a path.

    Raises:
        SourceError: the source cannot be listed, or lists a file twice.
    """
    since = time.time()
    try:
        seen = list(LOOKS.get(scheme_of(sources.uri), _objects)(sources))
    except StoreError as error:
        if error.transient:
            raise
        raise SourceError(f"cannot list the images at {sources.uri}: {error}") from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SourceError(f"cannot list the images at {sources.uri}: {reason}; check path and permissions") from error
    files = sorted((found for found in seen if isinstance(found, SourceFile)), key=attrgetter("key"))
    for file, other in pairwise(files):
        if file.key == other.key:
            raise SourceError(f"{sources.uri} holds {file.key!r} twice; rename one of them")
    times = {(file.modified, file.changed) for file in files}
    one_time = len(files) > 1 and len(times) == 1 and files[0].changed != _ALWAYS
    return Listing(files, _counts(found for found in seen if isinstance(found, str)), since, one_time)


def described(left_out: Mapping[str, int]) -> str:
    """What is left out in words, the most frequent first, such as `2 .heic, 1 hidden`; empty if nothing is."""
    return ", ".join(f"{number} {kind}" for kind, number in sorted(left_out.items(), key=lambda item: (-item[1], item)))


def _walk(folder: Source) -> Iterator[SourceFile | str]:
    """Each picture of a folder of this machine, and the kind of each entry that is none."""
    root = folder.uri
    waiting = [""]
    while waiting:
        within = waiting.pop()
        try:
            with os.scandir(os.path.join(root, within)) as scan:
                entries = list(scan)
        except OSError as error:
            if not within:
                raise
            yield from _kind_of(error)
            continue
        for entry in entries:
            if entry.name.startswith("."):
                yield HIDDEN
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(f"{within}{entry.name}/")
            else:
                yield from _look_at(entry, within + entry.name)


def _look_at(entry: os.DirEntry[str], key: str) -> Iterator[SourceFile | str]:
    try:
        found = entry.stat()
    except FileNotFoundError:
        if entry.is_symlink():  # otherwise deleted meanwhile
            yield LINKS_TO_NOWHERE
        return
    except OSError as error:
        yield from _kind_of(error)
        return
    if stat.S_ISDIR(found.st_mode):
        yield LINKS_TO_FOLDERS
    elif not stat.S_ISREG(found.st_mode):
        yield SPECIAL
    elif kind := _kind_by_name(key):
        yield kind
    else:
        yield SourceFile(
            key,
            found.st_size,
            f"{found.st_mtime_ns:x}-{found.st_size:x}",
            found.st_mtime,
            f"{found.st_mtime_ns:x}-{found.st_ctime_ns:x}-{found.st_ino:x}",
            max(found.st_mtime, found.st_ctime),
        )


def _kind_of(error: OSError) -> Iterator[str]:
    """What is said of an entry at which one may not look. Whatever else goes wrong is the source's fault, not its."""
    if isinstance(error, FileNotFoundError):
        return
    if error.errno not in _ODD:
        raise error
    yield _ODD[error.errno]


def _objects(source: Source) -> Iterator[SourceFile | str]:
    """The same of what a listing of objects shows."""
    hidden = set()
    for entry in source.list():
        parts = entry.key.split("/")
        dotted = next((place for place, part in enumerate(parts) if part.startswith(".")), None)
        if dotted is not None:
            hidden.add(tuple(parts[: dotted + 1]))
        elif kind := _kind_by_name(entry.key):
            yield kind
        else:
            stamp = f"{entry.etag}-{entry.modified}"
            yield SourceFile(entry.key, entry.size, entry.etag, entry.modified, stamp, _ALWAYS)
    yield from (HIDDEN for _ in hidden)


# By the scheme of a source's URI, where more can be seen than its own `list` shows: a path has none.
LOOKS: dict[str, Callable[[Source], Iterator[SourceFile | str]]] = {"": _walk}


def _kind_by_name(key: str) -> str | None:
    """The kind of what is no picture by its name; None if it is one."""
    suffix = PurePosixPath(key).suffix.lower()
    if suffix in SUFFIXES:
        return None
    if not suffix:
        return NO_SUFFIX
    return suffix if _SUFFIX.fullmatch(suffix) else OTHER_SUFFIXES


def _counts(kinds: Iterable[str]) -> dict[str, int]:
    """How many of each; of the suffixes only the most frequent one by one."""
    counts: Counter[str] = Counter(kinds)
    for suffix, number in [item for item in counts.most_common() if item[0].startswith(".")][KINDS:]:
        del counts[suffix]
        counts[OTHER_SUFFIXES] += number
    return dict(sorted(counts.items()))
