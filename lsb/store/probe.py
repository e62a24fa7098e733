"""Find out at the start whether a store honours the condition of `create`; every claim of the ledger rests on it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING

from lsb.errors import AlreadyExistsError, StoreError
from lsb.store.temporary import probe_file

if TYPE_CHECKING:
    from lsb.store.store import Store

RACERS = 4
ROUNDS = 2


def prove_conditional_create(store: Store) -> None:
    """Create an object twice, and let threads race for others: each must have exactly one winner.

    Raises:
        StoreError: the store cannot be written, or two writers were told that they had created the same object.
    """
    for racers in (1, *[RACERS] * ROUNDS):
        key = probe_file()
        try:
            winners = _race(store, key, racers)
            if racers == 1:
                winners += _race(store, key, racers)
        finally:
            store.delete(key)
        if winners != 1:
            raise StoreError(
                f"{store.uri} does not honour conditional creation ({winners} writers created one object), so that two "
                "workers could both commit a shard; use a store or file system that does"
            )


def _race(store: Store, key: str, racers: int) -> int:
    """How many of so many threads are told that they created `key`."""
    start = Barrier(racers)

    def create(number: int) -> bool:
        start.wait()
        try:
            store.create(key, b"probe %d" % number)
        except AlreadyExistsError:
            return False
        return True

    with ThreadPoolExecutor(racers) as pool:
        return sum(pool.map(create, range(racers)))
