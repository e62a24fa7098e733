"""Who works on which shard of a run: advice, so that several workers share the shards.

Nobody's correctness depends on a lease. Two may hold one of the same shard, somebody may work without, and all of them
may be deleted at any time: that costs double work and nothing else, since only the shard's log says what is done.

A lease is one small object that its worker alone writes. It is taken by creating the shard's next number, which of many
exactly one can do; renewed by writing it again; and given back by a second object beside it, so that nobody needs the
right to delete. A lease that was not renewed for GONE_SECONDS, or whose worker is known to have ended, counts as given
back. How old it is says the store's own clock, compared with that of what this worker has written or seen last.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from lsb.errors import AlreadyExistsError, LsbError, NotFoundError, StoreBusyError, StoreError
from lsb.ledger import layout
from lsb.ledger.worker import Worker, worker_of
from lsb.records import canonical_json
from lsb.redaction import redact
from lsb.store.store import Entry, Store

logger = logging.getLogger(__name__)

SCHEMA = "lsb.lease/1"
RENEWED_SECONDS = 20.0
GONE_SECONDS = 90.0


@dataclass(frozen=True)
class Lease:
    """The newest lease of a shard, as a listing shows it."""

    shard: str
    number: int
    key: str
    renewed: float  # the store's clock, in seconds
    given_back: bool


@dataclass(frozen=True)
class Content:
    """What a lease says. `seconds`: for how long it was held when it was written."""

    worker: Worker
    seconds: float


def newest(entries: list[Entry]) -> dict[str, Lease]:
    """Each shard's newest lease in a listing of the leases' folder."""
    found: dict[str, Lease] = {}
    for entry in entries:
        place = layout.lease_of(entry.key)
        if place is None:
            continue
        shard, number, back = place
        before = found.get(shard)
        if before is not None and number < before.number:
            continue
        lease = Lease(shard, number, entry.key.replace("-back.json", ".json"), entry.modified, back)
        if before is not None and number == before.number:
            renewed = max(lease.renewed, before.renewed)
            lease = replace(lease, renewed=renewed, given_back=back or before.given_back)
        found[shard] = lease
    return found


def read_lease(store: Store, key: str) -> Content | None:
    """What a lease says; None if it is gone or not what a worker of this version writes."""
    try:
        document = json.loads(store.read(key))
        return Content(worker_of(document), float(document["seconds"])) if document["schema"] == SCHEMA else None
    except NotFoundError:
        return None
    except StoreError as error:
        if error.transient:
            raise
        return None
    except (ValueError, KeyError, TypeError):
        return None


class Leases:
    """The leases of a run, as one worker sees and holds them. In any thread."""

    def __init__(self, store: Store, run_id: str, worker: Worker, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds that pass, from any beginning; it is never compared with another machine's."""
        self._store = store
        self._run_id = run_id
        self._worker = worker
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[str, tuple[str, float]] = {}  # shard -> key and when it was taken
        self._written: dict[str, float] = {}  # key -> when the last writing of it had ended
        self._ahead: float | None = None  # by what the store's clock is ahead of ours, at the least
        self._workers: dict[str, Worker | None] = {}

    def look(self) -> dict[str, Lease]:
        """Each shard's newest lease; shards without one are absent."""
        entries = self._store.list(layout.leases_folder(self._run_id))
        now = self._clock()
        with self._lock:
            # What somebody wrote was written before it was listed, and what we wrote before the writing had ended.
            ahead = [entry.modified - self._written.get(entry.key, now) for entry in entries]
            self._ahead = max([*ahead, *([] if self._ahead is None else [self._ahead])], default=None)
        return newest(entries)

    def age(self, lease: Lease) -> float:
        """Seconds since a lease was renewed, by the store's clock, at the least."""
        with self._lock:
            return 0.0 if self._ahead is None else max(0.0, self._clock() + self._ahead - lease.renewed)

    def is_free(self, lease: Lease) -> bool:
        """Whether somebody may take the shard after this lease."""
        if lease.given_back or self.age(lease) > GONE_SECONDS:
            return True
        worker = self.worker_of(lease)
        if worker is not None and worker.name == self._worker.name:
            return not self.holds(lease)
        return worker is not None and worker.has_ended()

    def holds(self, lease: Lease) -> bool:
        """Whether this worker holds this very lease."""
        with self._lock:
            return self._held.get(lease.shard, ("", 0.0))[0] == lease.key

    def held(self) -> list[str]:
        """The shards that this worker holds."""
        with self._lock:
            return [*self._held]

    def worker_of(self, lease: Lease) -> Worker | None:
        """Who took a lease; None if that cannot be read."""
        if lease.key not in self._workers:
            content = read_lease(self._store, lease.key)
            if content is None:  # another look may show more
                return None
            self._workers[lease.key] = content.worker
        return self._workers[lease.key]

    def take(self, shard: str, after: Lease | None) -> bool:
        """Take a shard; whether nobody else was first.

        Args:
            after: the newest lease of it that is known, which must be free.
        """
        key = layout.lease_file(self._run_id, shard, 0 if after is None else after.number + 1)
        data = self._document(0.0)
        try:
            self._store.create(key, data)
        except AlreadyExistsError:
            if not self._reads(key, data):  # after a lost answer it may be our own
                return False
        except StoreBusyError:
            return False
        with self._lock:
            self._written[key] = self._clock()
            self._held[shard] = (key, self._clock())
        return True

    def renew(self) -> None:
        """Make all that are held young again. What cannot be written now may be written the next time."""
        with self._lock:
            held = [*self._held.values()]
        for key, since in held:
            with self._lock:
                self._written.pop(key, None)  # until it has ended nobody knows when it was
            try:
                self._store.write(key, self._document(self._clock() - since))
            except StoreError as error:
                logger.info("a lease was not renewed: %s", redact(str(error)))
                continue
            with self._lock:
                self._written[key] = self._clock()

    def give_back(self, shard: str) -> None:
        """Let others take a shard that is held. If that cannot be written they wait until the lease is old."""
        with self._lock:
            held = self._held.pop(shard, None)
        if held is None:  # at the end of all, another thread has just done it
            return
        key, since = held
        place = layout.lease_of(key)
        assert place is not None
        try:
            back = layout.lease_file(self._run_id, shard, place[1], back=True)
            self._store.write(back, self._document(self._clock() - since))
        except StoreError as error:
            logger.info("a lease was not given back: %s", redact(str(error)))

    @contextmanager
    def kept(self, beat: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Inside, what is held is renewed; at the end it is given back.

        Args:
            beat: is called after each renewal, in the thread that renews.
        """
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(RENEWED_SECONDS):
                self.renew()
                try:
                    beat()
                except LsbError as error:  # such as a damaged log, which whoever takes the next shard reports
                    logger.info("others were not looked at: %s", redact(str(error)))

        thread = threading.Thread(target=renew, name="leases", daemon=True)
        thread.start()
        waited_for = True
        try:
            yield
        except BaseException as error:
            waited_for = isinstance(error, Exception)  # whoever wants an end at once does not wait for the store
            raise
        finally:
            ended.set()
            if waited_for:
                thread.join()
                for shard in self.held():
                    self.give_back(shard)

    def _reads(self, key: str, data: bytes) -> bool:
        try:
            return self._store.read(key) == data
        except StoreError as error:
            if error.transient:
                raise
            return False

    def _document(self, seconds: float) -> bytes:
        worker = self._worker
        process = {"machine": worker.machine, "id": worker.process, "started": worker.started}
        return canonical_json(
            {"schema": SCHEMA, "worker": worker.name, "process": process, "seconds": round(seconds, 3)}
        )
