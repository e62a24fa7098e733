"""A folder of this machine as a store.

Objects are built in `.tmp` under the root and appear under their name in one step: `write` renames, `create` links,
which the file system refuses if the name is taken. File and folder are synced before either returns.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from operator import attrgetter
from pathlib import Path

from lsb.errors import AlreadyExistsError, NotFoundError, StoreError
from lsb.storage.layout import TEMPORARY
from lsb.storage.probe import prove_conditional_create
from lsb.storage.store import Entries, Entry, validate_key, validate_path


class LocalStore:
    """Store on a local file system. Links to files are followed, links to folders are not."""

    def __init__(self, root: Path) -> None:
        """Open `root`, making it if it is missing; StoreError if it is no folder or cannot be made."""
        self.root = Path(os.path.abspath(root))
        self.uri = str(self.root)
        if self.root.exists() and not self.root.is_dir():
            raise StoreError(f"{self.root} is not a folder; give a folder")
        try:
            _make_folder(self.root)
        except OSError as error:
            raise StoreError(f"cannot make {self.root}: {error.strerror}; give a folder that can be written") from error

    def read(self, key: str) -> bytes:
        with self._one_line("read", key):
            return self._path(validate_path(key)).read_bytes()

    def write(self, key: str, data: bytes) -> None:
        path = self._path(validate_key(key))
        with self._one_line("write", key), self._built(data) as temporary:
            _place(path, lambda: os.replace(temporary, path))

    def create(self, key: str, data: bytes) -> None:
        path = self._path(validate_key(key))
        with self._one_line("create", key), self._built(data) as temporary:
            try:
                _place(path, lambda: os.link(temporary, path))
            except FileExistsError as error:
                raise AlreadyExistsError(f"{key} exists in {self.uri}; read it", key=key) from error

    def exists(self, key: str) -> bool:
        return self._path(validate_path(key)).is_file()

    def delete(self, key: str) -> None:
        with self._one_line("delete", key):
            path = self._path(validate_key(key))
            path.unlink(missing_ok=True)
        if path.parent != self.root / TEMPORARY:
            with suppress(OSError):  # folders that are empty now go too, up to one that is not
                for folder in path.relative_to(self.root).parents[:-1]:
                    (self.root / folder).rmdir()

    def check(self) -> None:
        prove_conditional_create(self)

    def list(self, prefix: str = "") -> Entries:
        folder = prefix.rstrip("/")
        top = self._path(validate_path(folder)) if folder else self.root
        entries = []
        with self._one_line("list", prefix):
            for place, folders, names in os.walk(top, onerror=_fail):
                if place == self.uri and TEMPORARY in folders:
                    folders.remove(TEMPORARY)
                # Strings, not paths: there may be a million files.
                within = os.path.relpath(place, self.uri).replace(os.sep, "/")
                start = "" if within == "." else within + "/"
                for name in names:
                    with suppress(FileNotFoundError):  # deleted meanwhile, or a link to nowhere
                        stat = os.stat(os.path.join(place, name))
                        etag = f"{stat.st_mtime_ns:x}-{stat.st_size:x}"
                        entries.append(Entry(start + name, stat.st_size, etag, stat.st_mtime))
        return sorted(entries, key=attrgetter("key"))

    def _path(self, key: str) -> Path:
        return self.root / key

    @contextmanager
    def _built(self, data: bytes) -> Iterator[Path]:
        """A synced temporary file with `data`, gone afterwards."""
        folder = self.root / TEMPORARY
        _make_folder(folder)
        temporary = folder / secrets.token_hex(16)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    @contextmanager
    def _one_line(self, verb: str, key: str) -> Iterator[None]:
        place = f"{key} in {self.uri}" if key else self.uri
        try:
            yield
        except FileNotFoundError as error:
            raise NotFoundError(f"no object {place}", key=key) from error
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise StoreError(f"cannot {verb} {place}: {reason}; check path, permissions and space", key=key) from error


def _place(path: Path, name: Callable[[], None]) -> None:
    """Give a file its name. The folder is made again if the last file in it was deleted in between."""
    for last in (False, False, True):
        try:
            _make_folder(path.parent)
            name()
            _sync_folder(path.parent)
        except FileNotFoundError:
            if last:
                raise
        else:
            return


def _fail(error: OSError) -> None:
    # A prefix without objects is an empty listing; anything else must not pass for one.
    if not isinstance(error, FileNotFoundError):
        raise error


def _make_folder(path: Path) -> None:
    """`mkdir -p` whose every new folder survives a power cut."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    path.mkdir(exist_ok=True)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
