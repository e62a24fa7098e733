"""Where pictures are read from: folders and buckets of somebody else's, with anything in them.

A listing shows the files that are pictures by their names, or, where a name has no suffix, by their first bytes, and
counts by kind what it leaves out. Nothing that is no regular file is ever opened, and no file is read beyond MAX_BYTES.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import attrgetter
from pathlib import PurePosixPath
from typing import Protocol, runtime_checkable

from lsb.errors import NotFoundError, SourceError, StoreError, UsageError
from lsb.pictures.choice import BY_PATTERN, Choice
from lsb.pictures.codecs.formats import HEAD_BYTES, SUFFIXES, format_of
from lsb.pictures.listed import Files, SourceFile
from lsb.redaction import holds_secret
from lsb.store.kinds import STORES
from lsb.store.store import Entries, Entry, open_store, scheme_of
from lsb.store.untouched import unread

MAX_BYTES = 1 << 30
NO_SUFFIX, OTHER_SUFFIXES = "without a suffix", "of other suffixes"
LINKS_TO_NOWHERE, LINKS_ELSEWHERE = "links to nowhere", "links to folders elsewhere"
LINKS_AGAIN = "links to folders that are read already"
SPECIAL = "pipes, sockets and devices"
UNREADABLE = "not readable"
TOO_LONG = "of too long paths"
KINDS = 20  # suffixes that are counted one by one

_SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")
_ODD = {errno.EACCES: UNREADABLE, errno.EPERM: UNREADABLE, errno.ENAMETOOLONG: TOO_LONG, errno.ELOOP: LINKS_TO_NOWHERE}
_ALWAYS = float("-inf")
_REQUESTS = 8  # at a time, for the first bytes of objects
_SLASH = "/"


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


@runtime_checkable
class ShowsBeginnings(Source, Protocol):
    """A source that can read the first bytes of a file without the others. Of other sources files without a suffix are
    left out."""

    def beginning(self, entry: Entry, length: int) -> bytes:
        """The first `length` bytes of a file of the listing, or all; errors as for `read`."""
        ...


def _in_store(uri: str) -> Source:
    sources: Source = unread(open_store(uri, largest=MAX_BYTES))
    return sources


# By the scheme of a URI.
SOURCES: dict[str, Callable[[str], Source]] = {
    **dict.fromkeys(STORES, _in_store),
}


@dataclass(frozen=True)
class Listing:
    """What a source holds.

    Attributes:
        files: pictures by their names, in key order.
        left_out: how many entries of each kind are not among them.
        since: when the listing began, in seconds.
        one_time: whether several files have the same times, all of them: then no time shows that one is another file.
    """

    files: Files
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


def list_sources(sources: Source, choice: Choice = Choice()) -> Listing:
    """The pictures of a source. Links to files are followed; links to folders once, if the folder lies within the
    source or `choice` says so, and does not hold the link itself.

    Left out and counted are files that are no pictures by their suffix, or, without one, by their first bytes; what
    `choice` excludes, a folder as one; links that lead nowhere, elsewhere, or to what is read already; pipes, sockets
    and devices; what may not be looked at; and what has too long a path.

    Raises:
        SourceError: the source cannot be listed, or lists a file twice.
    """
    since = time.time()
    left_out: list[str] = []
    try:
        looked_at = LOOKS.get(scheme_of(sources.uri), _objects)(sources, choice)
        files = Files(_pictures(looked_at, left_out))
    except StoreError as error:
        if error.transient:
            raise
        raise SourceError(f"cannot list the images at {sources.uri}: {error}") from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SourceError(f"cannot list the images at {sources.uri}: {reason}; check path and permissions") from error
    if files.twice is not None:
        raise SourceError(f"{sources.uri} holds {files.twice!r} twice; rename one of them")
    one_time = files.one_time and files[0].changed != _ALWAYS
    return Listing(files, _counts(left_out), since, one_time)


def _pictures(looked_at: Iterable[SourceFile | str], left_out: list[str]) -> Iterator[SourceFile]:
    """The pictures among what was looked at; of the rest the kinds go to `left_out`."""
    for found in looked_at:
        if isinstance(found, str):
            left_out.append(found)
        else:
            yield found


def described(left_out: Mapping[str, int]) -> str:
    """What is left out in words, the most frequent first, such as `2 .heic, 1 hidden`; empty if nothing is."""
    return ", ".join(f"{number} {kind}" for kind, number in sorted(left_out.items(), key=lambda item: (-item[1], item)))


@dataclass(frozen=True)
class _Folder:
    """A folder that is to be looked into: its path below the source, and the folders on the way to it."""

    within: str  # empty, or with a slash at its end
    above: frozenset[tuple[int, int]]  # device and inode, its own among them


def _walk(source: Source, choice: Choice) -> Iterator[SourceFile | str]:
    """Each picture of a folder of this machine, and the kind of each entry that is none."""
    root = os.path.realpath(source.uri)
    top = os.stat(root)
    waiting = [_Folder("", frozenset({(top.st_dev, top.st_ino)}))]
    linked: set[tuple[int, int]] = set()
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(os.path.join(source.uri, folder.within)) as scan:
                entries = sorted(scan, key=attrgetter("name"))
        except OSError as error:
            if not folder.within:
                raise
            yield from _kind_of(error)
            continue
        for entry in entries:
            key = folder.within + entry.name
            if kind := choice.left_out(entry.name, key):
                yield kind
                continue
            try:
                found = entry.stat()
            except FileNotFoundError:
                if entry.is_symlink():  # otherwise deleted meanwhile
                    yield LINKS_TO_NOWHERE
                continue
            except OSError as error:
                yield from _kind_of(error)
                continue
            if not stat.S_ISDIR(found.st_mode):
                yield from _look_at(source, key, found)
                continue
            itself = (found.st_dev, found.st_ino)
            if entry.is_symlink():
                if choice.links != "all" and not _lies_in(os.path.realpath(entry.path), root):
                    yield LINKS_ELSEWHERE
                    continue
                if itself in folder.above or itself in linked:
                    yield LINKS_AGAIN
                    continue
                linked.add(itself)
            waiting.append(_Folder(key + _SLASH, folder.above | {itself}))


def _lies_in(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def _look_at(source: Source, key: str, found: os.stat_result) -> Iterator[SourceFile | str]:
    """What is not a folder."""
    if not stat.S_ISREG(found.st_mode):
        yield SPECIAL
        return
    file = SourceFile(
        key,
        found.st_size,
        f"{found.st_mtime_ns:x}-{found.st_size:x}",
        found.st_mtime,
        f"{found.st_mtime_ns:x}-{found.st_ctime_ns:x}-{found.st_ino:x}",
        max(found.st_mtime, found.st_ctime),
    )
    kind = _kind_by_name(key)
    yield (_by_beginning(source, file) if kind == NO_SUFFIX else kind) or file


def _kind_of(error: OSError) -> Iterator[str]:
    """What is said of an entry at which one may not look. Whatever else goes wrong is the source's fault, not its."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):  # it has just gone, or become something else
        return
    if error.errno not in _ODD:
        raise error
    yield _ODD[error.errno]


def _objects(source: Source, choice: Choice) -> Iterator[SourceFile | str]:
    """The same of what a listing of objects shows."""
    left_out: dict[str, str] = {}
    nameless = []
    for entry in source.list():
        parts = entry.key.split(_SLASH)
        if end := choice.excluded(parts):
            path = _SLASH.join(parts[:end])
            left_out[path] = choice.left_out(parts[end - 1], path) or BY_PATTERN
        elif (kind := _kind_by_name(entry.key)) == NO_SUFFIX:
            nameless.append(entry)
        else:
            yield kind or _object(entry)
    yield from left_out.values()
    with ThreadPoolExecutor(_REQUESTS) as threads:
        yield from threads.map(lambda entry: _by_beginning(source, entry) or _object(entry), nameless)


def _object(entry: Entry) -> SourceFile:
    stamp = f"{entry.etag}-{entry.modified}"
    return SourceFile(entry.key, entry.size, entry.etag, entry.modified, stamp, _ALWAYS)


# By the scheme of a source's URI, where more can be seen than its own `list` shows: a path has none.
LOOKS: dict[str, Callable[[Source, Choice], Iterator[SourceFile | str]]] = {"": _walk}


def _by_beginning(source: Source, entry: Entry) -> str | None:
    """The kind of a file without a suffix; None if it is a picture."""
    if not isinstance(source, ShowsBeginnings):
        return NO_SUFFIX
    try:
        return None if format_of(source.beginning(entry, HEAD_BYTES)) else NO_SUFFIX
    except StoreError as error:
        if error.transient or not error.of_object:
            raise
        return NO_SUFFIX if isinstance(error, NotFoundError) else UNREADABLE


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
