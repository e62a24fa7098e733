"""Real code of the ledger under a scheduler: one store request of one actor at a time, with faults in between.

An actor is a thread that runs what a worker, a publisher or a clean-up runs. It stops before every request that others
can notice, and goes on when it is told to. A tape of numbers says who is next and what happens to the request, so that
the same tape gives the same course of events.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from lsb.errors import AlreadyExistsError, NotFoundError, StoreBusyError
from lsb.records import sha256
from lsb.store.store import Data, Entries, Entry, Names, contents, folders_of


class Fate(StrEnum):
    """What becomes of a request."""

    DONE = "done"
    ANSWER_LOST = "answer lost"  # it takes effect, and its sender hears nothing
    LOST = "lost"
    LATE = "late"  # its sender hears nothing, and it takes effect at some time later
    FATAL = "fatal"  # its sender dies just before


class Death(BaseException):
    """Not an Exception: nothing may catch it, as nothing catches SIGKILL."""


@dataclass
class MemoryStore:
    """Objects in memory, with a clock that counts the changes."""

    objects: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    uri: str = "memory://"
    conditional: bool = True  # False breaks `create`: it replaces what is there

    def read(self, key: str) -> bytes:
        if key not in self.objects:
            raise NotFoundError(f"no object {key}", key=key)
        return self.objects[key][0]

    def write(self, key: str, data: bytes) -> None:
        self.objects[key] = (data, float(len(self.objects)))

    def create(self, key: str, data: Data) -> None:
        if self.conditional and key in self.objects:
            raise AlreadyExistsError(f"{key} exists", key=key)
        self.write(key, contents(data))

    def exists(self, key: str) -> bool:
        return key in self.objects

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def check(self) -> None:
        """There is nothing to prove."""

    def list(self, prefix: str = "") -> Entries:
        folder = f"{prefix}/" if prefix else ""
        hidden = "" if prefix else ".tmp/"
        return sorted(
            Entry(key, len(data), sha256(data), modified)
            for key, (data, modified) in list(self.objects.items())
            if key.startswith(folder) and not (hidden and key.startswith(hidden))
        )

    def folders(self, beginning: str) -> Names:
        return sorted(folders_of(list(self.objects), beginning))


class Actor:
    """A thread that does something with the world's store, request by request."""

    def __init__(self, world: World, name: str, act: Callable[[View], Any]) -> None:
        self.world = world
        self.name = name
        self.ended = False
        self.result: Any = None  # what the act returned, or the error that ended it
        self._act = act
        self._fate = Fate.DONE
        self._may_go, self._waits = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self._waits.acquire()

    def step(self, fate: Fate) -> None:
        """Let the request it stands before happen, and everything after it up to the next one."""
        self._fate = fate
        self._may_go.release()
        self._waits.acquire()
        if self.ended:
            self._thread.join()

    def before(self, what: str) -> Fate:
        """Called in the actor's thread: wait for one's turn."""
        self._waits.release()
        self._may_go.acquire()
        self.world.course.append(f"{self.name}: {what}: {self._fate}")
        if self._fate == Fate.FATAL:
            raise Death
        return self._fate

    def _run(self) -> None:
        try:
            self.before("begins")
            self.result = self._act(View(self))
        except (Exception, Death) as error:  # noqa: BLE001 told by `result`
            self.result = error
        self.ended = True
        self._waits.release()


class View:
    """The world's store as one actor sees it."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self._store = actor.world.store
        self.uri = self._store.uri

    def __getattr__(self, name: str) -> Any:  # what does not change and cannot be deleted needs no turn
        return getattr(self._store, name)

    def list(self, prefix: str = "") -> Entries:
        self._actor.before(f"list {prefix}")
        return self._store.list(prefix)

    def folders(self, beginning: str) -> Names:
        self._actor.before(f"folders {beginning}")
        return self._store.folders(beginning)

    def write(self, key: str, data: bytes) -> None:
        self._change(f"write {key}", lambda: self._store.write(key, data))

    def create(self, key: str, data: Data) -> None:
        whole = contents(data)  # it may arrive when whoever sent it has closed its file
        self._change(f"create {key}", lambda: self._store.create(key, whole))

    def delete(self, key: str) -> None:
        self._change(f"delete {key}", lambda: self._store.delete(key))

    def _change(self, what: str, change: Callable[[], None]) -> None:
        fate = self._actor.before(what)
        if fate == Fate.LATE:
            self._actor.world.late.append(change)
        elif fate != Fate.LOST:
            change()
            self._actor.world.changed()
        if fate != Fate.DONE:
            raise StoreBusyError("no answer")


@dataclass
class World:
    """A store, who works on it, and what has happened so far."""

    store: MemoryStore
    invariant: Callable[[MemoryStore], None]
    actors: list[Actor] = field(default_factory=list)
    late: list[Callable[[], None]] = field(default_factory=list)
    course: list[str] = field(default_factory=list)
    broken: AssertionError | None = None

    def changed(self) -> None:
        """Check after a change what must hold at every moment. Runs in the thread of whoever changed something."""
        try:
            self.invariant(self.store)
        except AssertionError as error:
            self.broken = self.broken or error

    def add(self, name: str, act: Callable[[View], Any]) -> Actor:
        actor = Actor(self, name, act)
        self.actors.append(actor)
        return actor

    def play(self, tape: Iterator[int], faults: int) -> None:
        """Until every actor has ended. When the tape ends there are no more faults, and each has its turn."""
        turn = 0
        while alive := [actor for actor in self.actors if not actor.ended]:
            number = next(tape, None)
            fate = Fate.DONE
            if number is None:
                turn += 1
                number = turn
            else:
                kind = number // 8
                if faults > 0 and 1 <= kind <= 4:
                    fate = list(Fate)[kind]
                    faults -= 1
                elif kind == 5 and self.late:
                    self._deliver()
                    continue
            alive[number % len(alive)].step(fate)
            if self.broken:
                break
        while self.late and not self.broken:
            self._deliver()
        self.abandon()

    def abandon(self) -> None:
        """End every thread."""
        for actor in self.actors:
            while not actor.ended:
                actor.step(Fate.FATAL)

    def _deliver(self) -> None:
        self.course.append("a late request takes effect")
        try:
            self.late.pop(0)()
        except AlreadyExistsError:
            return
        self.changed()
