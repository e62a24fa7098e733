"""One search at a time in a folder."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lsb.errors import UsageError

LOCK = "lock"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only one who searches in a folder, which is made. However the other ends, the folder is free again.

    Raises:
        UsageError: somebody else does, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("ab")
    except OSError as error:
        raise UsageError(
            f"cannot keep what is tried in {folder}: {error.strerror}; put the job where you may write"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"another `lsb tune` is at work on this job, in {folder}; wait for its end, or tune a copy of the job"
            ) from error
        except OSError:  # a file system without locks: two would only do each other's work again
            pass
        yield
