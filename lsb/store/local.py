"""A folder of this machine as a store.

Objects are built in `.tmp` under the root and appear under their name in one step: `write` renames, `create` links,
which the file system refuses if the name is taken. File and folder are synced before either returns, the folder where
the file system can.

Whatever changes the store goes through no folder that is a link: nothing outside the root is ever written or deleted,
even if somebody else who may write there puts links in place of folders at the worst moment. What is read may lie
behind links, as pictures often do.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from operator import attrgetter
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from lsb.errors import AlreadyExistsError, NotFoundError, StoreError
from lsb.store.folders import NoExclusiveNameError, folder, make_root, name_exclusively, sync
from lsb.store.probe import prove_conditional_create
from lsb.store.store import Data, Entries, Entry, Names, size_of, validate_key, validate_path
from lsb.store.temporary import TEMPORARY, temporary_name
from lsb.store.usage import count

logger = logging.getLogger(__name__)

PIECE = 1 << 20  # bytes of a file at a time


class LocalStore:
    """Store on a local file system. Reading follows links to files; listing no links to folders; writing none."""

    def __init__(self, root: Path, *, largest: int | None = None) -> None:
        """Open `root`, making it if it is missing; StoreError if it is no folder or cannot be made.

        Args:
            largest: bytes; no file that is larger is read.
        """
        self.largest = largest
        self.root = Path(os.path.abspath(root))
        self.uri = str(self.root)
        try:
            make_root(self.root)
        except (NotADirectoryError, FileExistsError) as error:
            raise StoreError(f"{self.root} is not a folder; give a folder") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise StoreError(f"cannot make {self.root}: {reason}; give a folder that can be written") from error

    def read(self, key: str) -> bytes:
        with self._one_line("read", key):
            data = _contents(self.root / validate_path(key), self.largest)
        count(0, read=len(data))
        return data

    def beginning(self, entry: Entry, length: int) -> bytes:
        """The first `length` bytes of a file, or all; errors as for `read`."""
        with self._one_line("read", entry.key), _file(self.root / validate_path(entry.key)) as file:
            data = file.read(length)
        count(0, read=len(data))
        return data

    def read_range(self, key: str, start: int, length: int) -> bytes:
        with self._one_line("read", key), _file(self.root / validate_path(key)) as file:
            file.seek(start)
            data = file.read(length)
        count(0, read=len(data))
        return data

    def read_pieces(self, key: str) -> Iterator[bytes]:
        if self.largest is not None:
            yield self.read(key)
            return
        with self._one_line("read", key), _file(self.root / validate_path(key)) as file:
            while data := file.read(PIECE):
                count(0, read=len(data))
                yield data

    def write(self, key: str, data: bytes) -> None:
        validate_key(key)
        with self._one_line("write", key), self._built(data) as (built, temporary):
            self._place(key, lambda place, name: os.replace(temporary, name, src_dir_fd=built, dst_dir_fd=place))
        count(0, written=len(data))

    def create(self, key: str, data: Data) -> None:
        validate_key(key)
        with self._one_line("create", key), self._built(data) as (built, temporary):
            try:
                self._place(key, lambda place, name: name_exclusively(built, temporary, place, name))
            except FileExistsError as error:
                raise AlreadyExistsError(f"{key} exists in {self.uri}; read it", key=key) from error
            except NoExclusiveNameError as error:
                raise StoreError(
                    f"the file system at {self.uri} has neither hard links ({error.strerror}) nor a rename that spares "
                    "what is there, so that two workers could both commit a shard; put the store on another, or on S3"
                ) from error
        count(0, written=size_of(data))

    def exists(self, key: str) -> bool:
        path = self.root / validate_path(key)
        try:
            with self._one_line("look for", key):
                return stat.S_ISREG(os.stat(path).st_mode)
        except NotFoundError:
            return False

    def delete(self, key: str) -> None:
        *parts, name = validate_key(key).split("/")
        with self._one_line("delete", key), suppress(FileNotFoundError), folder(self.root, parts) as place:
            os.unlink(name, dir_fd=place)
        if parts != [TEMPORARY]:
            with suppress(OSError):  # folders that are empty now go too, up to one that is not
                while parts:
                    name = parts.pop()
                    with folder(self.root, parts) as place:
                        os.rmdir(name, dir_fd=place)

    def check(self) -> None:
        prove_conditional_create(self)
        with self._one_line("write", ""), folder(self.root, [TEMPORARY]) as place:
            if not sync(place):
                logger.warning(
                    "the file system at %s cannot sync folders: after a power cut, files written just before it may be "
                    "missing; run `lsb verify` then",
                    self.uri,
                )

    def list(self, prefix: str = "") -> Entries:
        within = prefix.rstrip("/")
        top = self.root / validate_path(within) if within else self.root
        entries = []
        with self._one_line("list", prefix):
            for place, folders, names in os.walk(top, onerror=_fail):
                if place == self.uri and TEMPORARY in folders:
                    folders.remove(TEMPORARY)
                if within == TEMPORARY:
                    folders.clear()  # lsb makes none there, and what others put there must not be in the way
                # Strings, not paths: there may be a million files.
                below = os.path.relpath(place, self.uri).replace(os.sep, "/")
                start = "" if below == "." else below + "/"
                for name in names:
                    if found := _stat(os.path.join(place, name)):
                        etag = f"{found.st_mtime_ns:x}-{found.st_size:x}"
                        entries.append(Entry(start + name, found.st_size, etag, found.st_mtime))
        return sorted(entries, key=attrgetter("key"))

    def folders(self, beginning: str) -> Names:
        above, slash, start = beginning.rpartition("/")
        top = self.root / validate_path(above) if above else self.root
        try:
            with self._one_line("list", above), os.scandir(top) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except NotFoundError:  # a folder that is not there holds none
            return []
        return sorted(above + slash + name for name in names if name.startswith(start))

    @contextmanager
    def _built(self, data: Data) -> Iterator[tuple[int, str]]:
        """A synced temporary file with `data`, by its folder and its name there, gone afterwards."""
        name = temporary_name()
        with folder(self.root, [TEMPORARY], make=True) as place:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(name, flags, 0o666, dir_fd=place)
            try:
                with open(descriptor, "wb") as file:
                    if isinstance(data, bytes):
                        file.write(data)
                    else:
                        data.seek(0)
                        shutil.copyfileobj(data, file, PIECE)
                    file.flush()
                    os.fsync(file.fileno())
                yield place, name
            finally:
                with suppress(OSError):
                    os.unlink(name, dir_fd=place)

    def _place(self, key: str, give: Callable[[int, str], None]) -> None:
        """Give a file its name. The folder is made again if the last file in it was deleted in between."""
        *parts, name = key.split("/")
        for last in (False, False, True):
            try:
                with folder(self.root, parts, make=True) as place:
                    give(place, name)
                    sync(place)
            except FileNotFoundError:
                if last:
                    raise
            else:
                return

    @contextmanager
    def _one_line(self, verb: str, key: str) -> Iterator[None]:
        place = f"{key} in {self.uri}" if key else self.uri
        count()
        try:
            yield
        except FileNotFoundError as error:
            raise NotFoundError(f"no object {place}", key=key) from error
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise StoreError(f"cannot {verb} {place}: {reason}; check path, permissions and space", key=key) from error


def open_folder(uri: str, *, create: bool = False, largest: int | None = None) -> LocalStore:
    """The store at a path or a `file://` URI; arguments and errors as for `lsb.store.store.open_store`."""
    path = Path(unquote(urlsplit(uri).path)) if uri[:7].lower() == "file://" else Path(uri)
    try:
        path.stat()
    except FileNotFoundError as error:
        if not create:
            raise NotFoundError(f"no folder at {path}; check the path", key="") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StoreError(f"cannot use {path} as a folder: {reason}; check the path and its permissions") from error
    return LocalStore(path, largest=largest)


@contextmanager
def _file(path: Path) -> Iterator[IO[bytes]]:
    """A file, open. Opening a pipe could wait for ever, and some devices do something when they are opened."""
    _demand_file(os.stat(path).st_mode)
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        _demand_file(os.fstat(file.fileno()).st_mode)
        yield file


def _contents(path: Path, largest: int | None) -> bytes:
    with _file(path) as file:
        if largest is None:
            return file.read()
        size = os.fstat(file.fileno()).st_size
        if size > largest:
            raise OSError(errno.EFBIG, f"it has more than {largest >> 20} MiB")
        data = file.read(size)
        if file.read(1):
            raise OSError(errno.EAGAIN, "it grows while it is read")
        return data


def _demand_file(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is no file but a pipe, a socket or a device")


def _stat(path: str) -> os.stat_result | None:
    """What there is of a file; None if it was deleted meanwhile or is a link that leads to nothing."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None
    except OSError:
        if os.path.islink(path):
            return None
        raise


def _fail(error: OSError) -> None:
    # A prefix without objects is an empty listing; anything else must not pass for one.
    if not isinstance(error, FileNotFoundError):
        raise error
