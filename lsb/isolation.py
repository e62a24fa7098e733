"""What others must not get into our hands: modules in the working folder, what lies in folders and files of our own."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path

from lsb.errors import ResourceError, TemporaryFileError


def isolate_children(environment: MutableMapping[str, str] = os.environ) -> None:
    """Keep the working folder off the import path of every Python started from now on.

    `python -c` and `python -m` put it first, and so do the helper processes of `multiprocessing` (fork server, resource
    tracker, spawned children): a `signal.py` there would run. The variable reaches all of them.
    """
    environment["PYTHONSAFEPATH"] = "1"


def private_folder(path: Path, instead: str) -> Path:
    """A folder that is ours alone (mode 700), made if it is missing.

    Args:
        instead: what to set in order to use another, for the message.

    Raises:
        ResourceError: it cannot be made; or what is there is a link, no folder, somebody else's, or one to which others
            can write, so that its files may not be ours.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.lstat()
    except OSError as error:
        raise ResourceError(f"cannot make the folder {path}: {error.strerror}; {instead}") from error
    if not stat.S_ISDIR(found.st_mode):
        reason = "is no folder"
    elif found.st_uid != os.geteuid():
        reason = "belongs to another user"
    elif found.st_mode & 0o022:
        reason = "can be written to by other users (to keep it: chmod 700, once you know all that is in it)"
    else:
        if found.st_mode & 0o055:
            path.chmod(0o700)
        return path
    raise ResourceError(f"{path} {reason}, so what lies in it is not trusted; {instead}")


@contextmanager
def temporary_files() -> Iterator[None]:
    """Where temporary files are made and written.

    Raises:
        TemporaryFileError: there is no folder for them, or no room in it.
    """
    try:
        yield
    except OSError as error:
        where = f" in {tempfile.tempdir}" if tempfile.tempdir else ""
        raise TemporaryFileError(
            f"cannot write a temporary file{where}: {error.strerror}; make room there, or set TMPDIR to another folder"
        ) from error


@contextmanager
def temporary_file() -> Iterator[BufferedRandom]:
    """A new file that nobody else can open, gone afterwards; errors as above."""
    with temporary_files():
        file = tempfile.TemporaryFile()  # noqa: SIM115 closed below
    try:
        yield file
    finally:
        with suppress(OSError):  # it writes what is left, for which there may still be no room
            file.close()


def nameless_file() -> int:
    """The descriptor of such a file, gone once it is closed."""
    with temporary_files():
        descriptor, path = tempfile.mkstemp()
        os.unlink(path)
        return descriptor
