"""Pictures in memory that two processes share, so that no pipe between them carries their pixels.

It holds those of one message, in either direction: who answers has taken the question out of it before.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.reduction import DupFd
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class Placed:
    """A picture that lies in the memory."""

    mode: str
    size: tuple[int, int]
    start: int
    end: int


class SharedPixels:
    """Memory for the pictures of one message. Given to a process that is started, that has it as well."""

    def __init__(self, descriptor: int | None = None) -> None:
        """`descriptor`: of the file that is the memory, by default one without a name."""
        self._descriptor = _nameless_file() if descriptor is None else descriptor
        self._memory: mmap.mmap | None = None

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _received, (DupFd(self._descriptor),)

    def put(self, values: Iterable[Any]) -> list[Any]:
        """The same with pictures replaced by where they lie now, in place of what lay there before."""
        placed: list[Any] = []
        pieces: dict[int, tuple[Placed, bytes]] = {}  # a picture that is there twice lies there once
        end = 0
        for value in values:
            if not isinstance(value, Image.Image):
                placed.append(value)
                continue
            if id(value) not in pieces:
                data = value.tobytes()
                pieces[id(value)] = Placed(value.mode, value.size, end, end + len(data)), data
                end += len(data)
            placed.append(pieces[id(value)][0])
        memory = self._mapped(end)
        for place, data in pieces.values():
            memory[place.start : place.end] = data
        return placed

    def get(self, values: Sequence[Any]) -> list[Any]:
        """The same with pictures of their own."""
        end = max((value.end for value in values if isinstance(value, Placed)), default=0)
        with memoryview(self._mapped(end)) as memory:
            return [_taken(value, memory) if isinstance(value, Placed) else value for value in values]

    def close(self) -> None:
        """Give the memory back, as far as this process has it."""
        if self._memory is not None:
            self._memory.close()
        os.close(self._descriptor)

    def _mapped(self, size: int) -> mmap.mmap:
        size = max(size, mmap.PAGESIZE)  # an empty file cannot be mapped
        if self._memory is None or len(self._memory) < size:
            if self._memory is not None:
                self._memory.close()
            if os.fstat(self._descriptor).st_size < size:
                os.ftruncate(self._descriptor, size)
            self._memory = mmap.mmap(self._descriptor, size)
        return self._memory


def _taken(place: Placed, memory: memoryview) -> Image.Image:
    with memory[place.start : place.end] as data:
        return Image.frombytes(place.mode, place.size, data)


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("lsb-pixels")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _received(descriptor: Any) -> SharedPixels:
    return SharedPixels(descriptor.detach())
