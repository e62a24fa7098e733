"""Folders of a local store, entered one by one by what they are and not by where their path leads.

A folder that is open stays the one that was entered, whatever anybody puts in its place meanwhile, and none that is a
link is entered at all. So what is written, renamed or deleted lies below the root, even where somebody else may write.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# What file systems answer that cannot sync a folder: CIFS, FUSE and some of NFS do. A disk that fails says EIO.
_CANNOT_SYNC = frozenset(
    {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM, errno.ENOTTY}
)
# What they answer that have no hard links, such as exFAT and SMB, or refuse them for files of other users.
_CANNOT_LINK = frozenset({errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_RENAME_NOREPLACE = 1  # Linux: <linux/fs.h>


class NoExclusiveNameError(OSError):
    """The file system can neither link a file nor rename one without replacing another."""


@contextmanager
def folder(root: Path, parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
    """An open folder below `root`, which itself may be reached through links.

    Args:
        make: make the folders that are missing.

    Raises:
        OSError: as the system says; ELOOP with words of ours where a folder is a link.
    """
    descriptor = os.open(root, _OPEN)
    try:
        for part in parts:
            below = _enter(descriptor, part, make=make)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def _enter(descriptor: int, name: str, *, make: bool) -> int:
    try:
        return os.open(name, _OPEN | os.O_NOFOLLOW, dir_fd=descriptor)
    except FileNotFoundError:
        if not make:
            raise
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and _is_link(descriptor, name):
            reason = f"the folder {name} there is a link, and lsb goes through none below a store's root"
            raise OSError(errno.ELOOP, reason) from error
        raise
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=descriptor)
    sync(descriptor)
    return _enter(descriptor, name, make=False)


def _is_link(descriptor: int, name: str) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode)


def make_root(path: Path) -> None:
    """`mkdir -p` whose every new folder survives a power cut."""
    if path.is_dir():
        return
    make_root(path.parent)
    path.mkdir(exist_ok=True)
    try:
        descriptor = os.open(path.parent, _OPEN)
    except PermissionError:  # may be entered, not read
        return
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync(descriptor: int) -> bool:
    """Let the names in an open folder survive a power cut; False where the file system has no way to."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in _CANNOT_SYNC:
            return False
        raise
    return True


def name_exclusively(folder: int, name: str, target_folder: int, target: str) -> None:
    """Give a file a name that no other file has, or that was free until now: of many who try, one succeeds.

    By a hard link. Where there are none, by a rename that the system refuses if the name is taken: it is as whole and
    as exclusive. Creating the file under its final name and then filling it would be neither.

    Raises:
        FileExistsError: the name is taken.
        NoExclusiveNameError: there is neither of the two.
    """
    try:
        os.link(name, target, src_dir_fd=folder, dst_dir_fd=target_folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        _rename_exclusively(folder, name, target_folder, target, refused=error)


def _rename_exclusively(folder: int, name: str, target_folder: int, target: str, *, refused: OSError) -> None:
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        number = errno.ENOSYS
    else:
        if rename(folder, os.fsencode(name), target_folder, os.fsencode(target), ctypes.c_uint(_RENAME_NOREPLACE)) == 0:
            return
        number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
        raise NoExclusiveNameError(refused.errno, refused.strerror) from refused
    raise OSError(number, os.strerror(number), target)  # FileExistsError and the like, by the number
