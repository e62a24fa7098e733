"""A store for a dry run: reads what is there, keeps what is written in memory."""

from __future__ import annotations

import hashlib
import time

from lsb.errors import AlreadyExistsError, NotFoundError
from lsb.store.store import Data, Entries, Entry, Names, Store, contents, folders_of, validate_key


class ScratchStore:
    """Another store with everything written on top of it forgotten at the end."""

    def __init__(self, under: Store | None) -> None:
        self.uri = under.uri if under else "memory://"
        self._under = under
        self._written: dict[str, bytes] = {}
        self._deleted: set[str] = set()

    def read(self, key: str) -> bytes:
        if key in self._written:
            return self._written[key]
        if self._under is None or key in self._deleted:
            raise NotFoundError(f"no object {key} in {self.uri}", key=key)
        return self._under.read(key)

    def write(self, key: str, data: bytes) -> None:
        self._written[validate_key(key)] = data
        self._deleted.discard(key)

    def create(self, key: str, data: Data) -> None:
        if self.exists(key):
            raise AlreadyExistsError(f"{key} exists in {self.uri}; read it", key=key)
        self.write(key, contents(data))

    def exists(self, key: str) -> bool:
        if key in self._written:
            return True
        return self._under is not None and key not in self._deleted and self._under.exists(key)

    def delete(self, key: str) -> None:
        self._written.pop(key, None)
        self._deleted.add(key)

    def check(self) -> None:
        """A dry run needs no proof that the store can be written."""

    def list(self, prefix: str = "") -> Entries:
        under = self._under.list(prefix) if self._under else []
        folder = prefix.rstrip("/") + "/" if prefix else ""
        mine = [
            Entry(key, len(data), hashlib.sha256(data).hexdigest(), time.time())
            for key, data in self._written.items()
            if key.startswith(folder)
        ]
        kept = [entry for entry in under if entry.key not in self._written and entry.key not in self._deleted]
        return sorted([*kept, *mine])

    def folders(self, beginning: str) -> Names:
        under = self._under.folders(beginning) if self._under else []
        return sorted({*under, *folders_of(self._written, beginning)})
