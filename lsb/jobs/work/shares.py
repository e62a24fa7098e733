"""Which shard a worker does next, where several are at work on a run.

A worker takes a shard that nobody has had; then those that were given back or whose holder is gone, after a look into
their logs whether anything of them is left. While all that is left is held by others it waits, and looks again: one
listing shows all leases. So a worker ends when everything is committed, or was tried by itself.

A look costs as much as there are leases. Of many it serves for several shards: whether one that nobody had then is
still free, its lease says when it is taken.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from lsb.jobs.rerun import Share, Todo
from lsb.jobs.retries import retried
from lsb.ledger.leases import Lease, Leases

logger = logging.getLogger(__name__)

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.25, 5.0
LOOKED_INTO = 64  # shards whose logs are read at a time
LEASES_A_TAKING = 128  # of a look, for each time that somebody tries to take a shard by it


class Taken(NamedTuple):
    """A shard, and what of it is to be done."""

    shard: str
    share: Share


class Shares:
    """What of a run is left for one worker, be it one of several threads."""

    def __init__(
        self,
        todo: Todo,
        leases: Leases,
        *,
        left: Callable[[Todo], Todo],
        stop: Callable[[], bool],
        look: Callable[[Mapping[str, Lease]], None] = lambda leases: None,
        elsewhere: Callable[[int], None] = lambda records: None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """
        Args:
            left: what of some of it nobody has dealt with, by the shards' logs.
            look: is told each shard's newest lease whenever they are looked at.
            elsewhere: is told how many records others have dealt with.
        """
        # In an order of this worker's own, so that not all of them knock at the first.
        self._todo = {shard: todo[shard] for shard in random.sample(sorted(todo), len(todo))}
        self._leases = leases
        self._left = left
        self._stop = stop
        self._look = look
        self._elsewhere = elsewhere
        self._pause = pause
        self._lock = threading.Lock()
        self._unleased: list[str] = []  # of what is to do, those that nobody had at the last look, in reverse
        self._takings = 0  # for which the last look still serves

    def take(self) -> Taken | None:
        """The next shard, leased; None where there is nothing left to do, or the worker is to stop.

        Raises:
            StoreError: the store cannot be read or written, also after a while.
        """
        wait = FIRST_WAIT_SECONDS
        while not self._stop():
            with self._lock:
                if not self._todo:
                    return None
                taken = retried(self._try)
            if taken is not None or not self._todo:
                return taken
            self._wait(wait)
            wait = min(1.5 * wait, LONGEST_WAIT_SECONDS)
        return None

    def give_back(self, shard: str) -> None:
        """Let others have a shard, whatever became of it."""
        self._leases.give_back(shard)

    def watch(self) -> None:
        """Look at what others do, while this worker has a shard."""
        self._takings = 0
        self._look(self._leases.look())

    def _try(self) -> Taken | None:
        """A shard that nobody holds; None if there is none now, or none at all any more."""
        if taken := self._by_last_look():
            return taken
        leases = self._leases.look()
        self._look(leases)
        if self._stop():
            return None
        self._unleased = [shard for shard in self._todo if shard not in leases][::-1]
        self._takings = max(1, len(leases) // LEASES_A_TAKING)
        while self._unleased:
            if taken := self._by_last_look():
                return taken
            self._takings = 1  # somebody was quicker, maybe everywhere: the leases that are free come last
        free = [shard for shard, lease in leases.items() if shard in self._todo and self._leases.is_free(lease)]
        random.shuffle(free)
        for start in range(0, len(free), LOOKED_INTO):
            some = {shard: self._todo[shard] for shard in free[start : start + LOOKED_INTO]}
            left = self._left(some)
            for shard, share in some.items():
                self._elsewhere(share.records - (left[shard].records if shard in left else 0))
                if shard in left:
                    self._todo[shard] = left[shard]
                else:
                    del self._todo[shard]
            for shard in left:
                if self._leases.take(shard, leases[shard]):
                    return Taken(shard, self._todo.pop(shard))
        if self._todo:
            self._tell(leases)
        return None

    def _by_last_look(self) -> Taken | None:
        """A shard that nobody had at the last look, nor has now; None once another look is due."""
        while self._unleased and self._takings > 0:
            self._takings -= 1
            shard = self._unleased.pop()
            if self._leases.take(shard, None):
                return Taken(shard, self._todo.pop(shard))
        return None

    def _tell(self, leases: Mapping[str, Lease]) -> None:
        held = [leases[shard] for shard in self._todo if shard in leases]
        if held:
            worker = self._leases.worker_of(held[0])
            name = worker.name if worker else "somebody"
            logger.info("waiting for %d shards that others hold, such as %s (%s)", len(held), held[0].shard, name)

    def _wait(self, seconds: float) -> None:
        step = FIRST_WAIT_SECONDS
        while seconds > 0 and not self._stop():
            self._pause(min(step, seconds))
            seconds -= step
