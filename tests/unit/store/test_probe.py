from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lsb.errors import AlreadyExistsError, StoreError
from lsb.store.local import LocalStore
from lsb.store.probe import RACERS, prove_conditional_create
from lsb.store.store import Data


class Careless(LocalStore):
    """Ignores the condition."""

    def create(self, key: str, data: Data) -> None:
        self.write(key, data)


class LooksFirst(LocalStore):
    """Looks whether the key is taken, then writes: enough for one writer at a time, not for several."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.alone: str | None = None  # the key that is created twice by one writer
        self.looked = threading.Barrier(RACERS)

    def create(self, key: str, data: Data) -> None:
        self.alone = self.alone or key
        if self.exists(key):
            raise AlreadyExistsError("taken", key=key)
        if key != self.alone:
            self.looked.wait()
        self.write(key, data)


def test_a_store_that_ignores_the_condition_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"does not honour conditional creation \(2 writers created one object\)"):
        prove_conditional_create(Careless(tmp_path))


def test_a_store_that_looks_before_it_writes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=rf"\({RACERS} writers created one object\)"):
        prove_conditional_create(LooksFirst(tmp_path))
