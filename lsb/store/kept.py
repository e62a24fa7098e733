"""Objects that are read several times, kept in a file meanwhile so that a store far away is asked for each once."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

from lsb.isolation import nameless_file
from lsb.store.store import scheme_of

KEPT_BYTES = 1 << 30  # of which the rest is read again


class Reads(Protocol):
    """What is needed of a store."""

    @property
    def uri(self) -> str: ...

    def read(self, key: str) -> bytes: ...


class KeptReads:
    """Reads objects of stores; up to KEPT_BYTES of them once. A folder of this machine is as fast the second time.

    What is kept lies in a temporary file without a name. May be shared by threads.
    """

    def __init__(self) -> None:
        self._file = nameless_file()
        # Once nobody holds this: a read that is still under way must not write into another file of that number.
        weakref.finalize(self, os.close, self._file)
        self._places: dict[tuple[str, str], tuple[int, int]] = {}  # of an object: where it begins, and its length
        self._lock = threading.Lock()
        self._end = 0

    def read(self, store: Reads, key: str) -> bytes:
        """The bytes that the store gave for the key at first; errors as the store's."""
        place = self._places.get((store.uri, key))
        if place is not None:
            return os.pread(self._file, place[1], place[0])
        data = store.read(key)
        if scheme_of(store.uri):
            self._keep((store.uri, key), data)
        return data

    def _keep(self, name: tuple[str, str], data: bytes) -> None:
        with self._lock:
            if name in self._places or self._end + len(data) > KEPT_BYTES:
                return
            try:
                written = os.pwrite(self._file, data, self._end)
            except OSError:  # it is a help, no more
                return
            if written == len(data):
                self._places[name] = self._end, len(data)
                self._end += len(data)
