from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsb.errors import StoreBusyError, TamperedError
from lsb.ledger import leases as module
from lsb.ledger.layout import lease_file, leases_folder
from lsb.ledger.leases import GONE_SECONDS, Lease, Leases, newest, read_lease
from lsb.ledger.worker import Worker, at_work, worker_of
from lsb.store.store import open_store
from tests.interleaving import Fate, MemoryStore, View, World

RUN = "flat-0123456789ab"
SHARD = "00003"


@dataclass
class Clocked(MemoryStore):
    """Its clock is far from everybody's and goes when it is told to."""

    now: float = 1_000_000.0

    def write(self, key: str, data: bytes) -> None:
        self.objects[key] = (data, self.now)


class Clock:
    """Somebody's own clock, which goes as the store's does, unless he sleeps."""

    def __init__(self, store: Clocked, beginning: float) -> None:
        self.store, self.ahead = store, beginning - store.now

    def __call__(self) -> float:
        return self.store.now + self.ahead


@pytest.fixture
def store() -> Clocked:
    return Clocked()


def somebody(store: Clocked, name: str, beginning: float = 0.0) -> Leases:
    """A worker of another machine, of whom nobody knows whether he has ended."""
    return Leases(store, RUN, Worker(name, None, 1, None), Clock(store, beginning))


def test_a_shard_has_one_holder_until_it_is_given_back(store: Clocked) -> None:
    ann, bob = somebody(store, "ann"), somebody(store, "bob", 7e5)
    assert ann.look() == {}
    assert ann.take(SHARD, None)
    assert not bob.take(SHARD, None)
    (lease,) = bob.look().values()
    assert (lease.shard, lease.number, lease.given_back) == (SHARD, 0, False)
    assert not bob.is_free(lease)
    assert bob.worker_of(lease) == Worker("ann", None, 1, None)
    store.now += 5
    ann.give_back(SHARD)
    assert ann.held() == []
    (lease,) = bob.look().values()
    assert bob.is_free(lease)
    assert bob.take(SHARD, lease)
    (lease,) = ann.look().values()
    assert (lease.number, ann.is_free(lease)) == (1, False)
    content = read_lease(store, lease_file(RUN, SHARD, 0, back=True))
    assert content is not None
    assert (content.worker.name, content.seconds) == ("ann", 5.0)


def test_one_that_is_not_renewed_is_free_after_a_while_by_the_stores_clock(store: Clocked) -> None:
    ann, bob = somebody(store, "ann", 3e9), somebody(store, "bob", -3e9)
    ann.take(SHARD, None)
    bob.take("00004", None)
    for _ in range(10):
        store.now += module.RENEWED_SECONDS
        ann.renew()
        assert not bob.is_free(bob.look()[SHARD])
    store.now += GONE_SECONDS
    assert not bob.is_free(bob.look()[SHARD])
    store.now += 1
    assert bob.is_free(bob.look()[SHARD])
    assert bob.take(SHARD, bob.look()[SHARD])
    ann.renew()  # somebody who was stopped wakes up: he renews his own lease, and takes nobody's
    ann.give_back(SHARD)
    lease = ann.look()[SHARD]
    assert (lease.number, lease.given_back) == (1, False)
    assert bob.holds(lease)


def test_who_has_never_written_waits_as_long_as_he_has_seen_that_nothing_happens(store: Clocked) -> None:
    """He cannot know what time it is on the store's clock, only that it goes on."""
    somebody(store, "ann").take(SHARD, None)
    store.now += 10 * GONE_SECONDS
    bob = somebody(store, "bob", 55.0)
    assert not bob.is_free(bob.look()[SHARD])
    store.now += GONE_SECONDS + 1
    assert bob.is_free(bob.look()[SHARD])


def test_whose_process_has_ended_on_this_machine_holds_nothing(store: Clocked) -> None:
    program = (
        "import json; from lsb.ledger.worker import at_work\nwith at_work() as worker: print(json.dumps(vars(worker)))"
    )
    ended = Worker(**json.loads(subprocess.check_output([sys.executable, "-P", "-c", program])))
    Leases(store, RUN, ended).take(SHARD, None)
    with at_work() as here, at_work() as there:
        ours, others = Leases(store, RUN, here), Leases(store, RUN, there)
        lease = ours.look()[SHARD]
        if ended.machine is None:
            pytest.fail("this system does not tell machines and processes apart")
        assert worker_of(json.loads(store.read(lease.key))) == ended
        assert ours.is_free(lease)
        assert ours.take(SHARD, lease)
        assert not others.is_free(others.look()[SHARD])
        assert not ended.machine or here.name.rpartition("-")[0].endswith(str(os.getpid()))
    with at_work() as later:  # and a call of this process that has ended
        leases = Leases(store, RUN, later)
        assert leases.is_free(leases.look()[SHARD])


def test_an_answer_that_is_lost_costs_no_lease(store: Clocked, monkeypatch: pytest.MonkeyPatch) -> None:
    ann, bob = somebody(store, "ann"), somebody(store, "bob")
    create = store.create

    def lost(key: str, data: bytes) -> None:
        create(key, data)
        create(key, data)  # as a client does that has heard nothing

    monkeypatch.setattr(store, "create", lost)
    assert ann.take(SHARD, None)

    def unheard(key: str, data: bytes) -> None:
        create(key, data)
        raise StoreBusyError("no answer")

    monkeypatch.setattr(store, "create", unheard)
    assert not ann.take("00004", None)
    monkeypatch.setattr(store, "create", create)
    lease = ann.look()["00004"]
    assert not bob.is_free(lease)
    assert ann.is_free(lease)
    assert ann.take("00004", lease)


def test_leases_that_cannot_be_read_are_free_when_they_are_old(store: Clocked) -> None:
    store.write(lease_file(RUN, SHARD, 2), b"\xff not json")
    store.write(f"{leases_folder(RUN)}/notes.txt", b"of somebody")
    store.write(lease_file(RUN, "00004", 0), b'{"schema": "lsb.lease/9"}')
    ann = somebody(store, "ann")
    found = ann.look()
    assert sorted(found) == [SHARD, "00004"]
    assert not any(map(ann.is_free, found.values()))
    store.now += GONE_SECONDS + 1
    assert all(map(ann.is_free, ann.look().values()))


def test_it_is_renewed_while_it_is_kept_and_given_back_at_the_end(
    store: Clocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEWED_SECONDS", 0.001)
    ann, beats = somebody(store, "ann"), threading.Semaphore(0)

    def work(error: type[BaseException]) -> None:
        with ann.kept(beats.release):
            assert ann.take(SHARD, ann.look().get(SHARD))
            store.now += 3
            while ann.look()[SHARD].renewed != store.now:
                assert beats.acquire(timeout=600)
            raise error

    with pytest.raises(ZeroDivisionError):
        work(ZeroDivisionError)
    assert ann.look()[SHARD].given_back
    with pytest.raises(KeyboardInterrupt):  # whoever wants an end at once is not kept waiting
        work(KeyboardInterrupt)
    assert not ann.look()[SHARD].given_back


def test_what_others_have_damaged_ends_no_renewal(store: Clocked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RENEWED_SECONDS", 0.001)
    ann, beats = somebody(store, "ann"), threading.Semaphore(0)

    def look() -> None:
        beats.release()
        raise TamperedError("a log is not what was written")

    with ann.kept(look):
        assert ann.take(SHARD, None)
        assert [beats.acquire(timeout=600) for _ in range(3)] == [True] * 3


def test_what_two_threads_give_back_at_the_end_is_given_back_once(store: Clocked) -> None:
    ann = somebody(store, "ann")
    assert ann.take(SHARD, None)
    ann.give_back(SHARD)
    store.now += 1
    ann.give_back(SHARD)
    assert ann.look()[SHARD].renewed == store.now - 1


def test_on_every_kind_of_store(store_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GONE_SECONDS", 1e9)
    place = open_store(store_uri, create=True)
    ann, bob = (Leases(place, RUN, Worker(name, None, 1, None)) for name in ("ann", "bob"))
    assert ann.take(SHARD, None)
    assert not bob.take(SHARD, None)
    ann.renew()
    lease = bob.look()[SHARD]
    assert not bob.is_free(lease)
    assert 0 <= ann.age(lease) < 1e6  # of a clock of its own
    ann.give_back(SHARD)
    assert bob.is_free(bob.look()[SHARD])
    assert bob.take(SHARD, bob.look()[SHARD])
    assert not ann.take(SHARD, lease)


def test_the_newest_counts_in_whichever_order_they_are_listed(store: Clocked) -> None:
    for number, back in ((0, False), (0, True), (1, False), (1, True), (2, False)):
        store.now += 1
        store.write(lease_file(RUN, SHARD, number, back=back), b"")
    entries = store.list(leases_folder(RUN))
    expected = {SHARD: Lease(SHARD, 2, lease_file(RUN, SHARD, 2), store.now, False)}
    assert newest(entries) == newest(entries[::-1]) == expected
    without = [entry for entry in entries if "-00000002" not in entry.key]
    back = {SHARD: Lease(SHARD, 1, lease_file(RUN, SHARD, 1), store.now - 1, True)}
    assert newest(without) == newest(without[::-1]) == back


@given(st.lists(st.integers(0, 47), max_size=40))
def test_in_no_order_of_requests_do_two_get_a_lease(tape: Sequence[int]) -> None:
    store = MemoryStore()
    world = World(store, lambda store: None)

    def act(name: str) -> object:
        def take(view: View) -> bool:
            leases = Leases(view, RUN, Worker(name, None, 1, None))  # type: ignore[arg-type]
            found = leases.look().get(SHARD)
            return leases.take(SHARD, found) if found is None or found.given_back else False

        return take

    for name in ("ann", "bob", "cyd"):
        world.add(name, act(name))  # type: ignore[arg-type]
    numbers: Iterator[int] = iter(tape)
    world.play(numbers, 2)
    holders = [actor.name for actor in world.actors if actor.result is True]
    assert len(holders) <= 1, world.course
    faults = [line for line in world.course if not line.endswith((Fate.DONE, "effect"))]
    assert holders or faults, world.course


def test_names_of_workers_are_their_own() -> None:
    with ExitStack() as several:
        names = {several.enter_context(at_work()).name for _ in range(5)}
    assert len(names) == 5
