from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsb.errors import StoreBusyError, StoreError
from lsb.jobs import retries
from lsb.jobs.rerun import Share, Todo, records_of
from lsb.jobs.work.shares import LEASES_A_TAKING, Shares
from lsb.ledger.layout import lease_file
from lsb.ledger.leases import RENEWED_SECONDS, Leases
from lsb.ledger.worker import Worker
from tests.interleaving import MemoryStore
from tests.unit.ledger.test_leases import RUN, Clock, Clocked

SIX: Todo = {f"{number:05}": Share(2) for number in range(6)}


class WaitingError(Exception):
    """It would wait now."""


def waits(seconds: float) -> None:
    raise WaitingError


class Fleet:
    """Workers of as many machines, who do one thing after another."""

    def __init__(self, workers: int = 3) -> None:
        self.store = Clocked()
        self.done: set[str] = set()
        self.made: Counter[str] = Counter()
        self.elsewhere = 0
        self.leases = [
            Leases(self.store, RUN, Worker(str(one), None, one, None), Clock(self.store, 1e7 * one))
            for one in range(workers)
        ]
        self.shares = [self.worker(leases) for leases in self.leases]
        self.busy: dict[int, str] = {}
        self.ended: set[int] = set()
        self.dead: set[int] = set()
        self.asleep: set[int] = set()

    def worker(self, leases: Leases, **options: Any) -> Shares:
        def add(records: int) -> None:
            self.elsewhere += records

        return Shares(
            SIX, leases, **{"left": self.left, "stop": lambda: False, "elsewhere": add, "pause": waits, **options}
        )

    def left(self, some: Todo) -> Todo:
        return {shard: records for shard, records in some.items() if shard not in self.done}

    def awake(self) -> list[int]:
        return [one for one in range(len(self.shares)) if one not in self.dead | self.ended | self.asleep]

    def step(self, one: int) -> None:
        if shard := self.busy.pop(one, None):
            self.made[shard] += 1
            self.done.add(shard)
            self.shares[one].give_back(shard)
            return
        try:
            taken = self.shares[one].take()
        except WaitingError:
            return
        if taken is None:
            self.ended.add(one)
        else:
            self.busy[one] = taken.shard

    def tick(self) -> None:
        self.store.now += RENEWED_SECONDS
        for one in self.awake():
            self.leases[one].renew()

    def finish(self) -> None:
        for _ in range(1000):
            if not self.awake():
                break
            for one in self.awake():
                self.step(one)
            self.tick()
        assert self.ended | self.dead | self.asleep == {*range(len(self.shares))}


@given(
    st.lists(st.tuples(st.sampled_from(["step", "step", "step", "die", "sleep", "wake", "tick"]), st.integers(0, 9)))
)
def test_whatever_happens_each_shard_is_done_once_but_for_those_who_slept(events: Sequence[tuple[str, int]]) -> None:
    fleet = Fleet()
    slept = 0
    for event, number in events:
        if event == "tick":
            fleet.tick()
        elif event == "wake" and fleet.asleep:
            fleet.asleep.remove(sorted(fleet.asleep)[number % len(fleet.asleep)])
        elif event != "wake" and (awake := fleet.awake()):
            one = awake[number % len(awake)]
            if event == "step":
                fleet.step(one)
            elif event == "die" and len(awake) > 1:
                fleet.dead.add(one)
            elif event == "sleep" and len(awake) > 1:
                fleet.asleep.add(one)
                slept += one in fleet.busy
    fleet.finish()
    assert fleet.done == SIX.keys()
    assert fleet.made.total() <= len(SIX) + slept
    fleet.asleep.clear()  # they wake up when all is over
    fleet.finish()
    assert fleet.made.total() <= len(SIX) + slept


def test_what_others_have_done_is_counted_and_not_done_again() -> None:
    fleet = Fleet(2)
    first, second = fleet.shares
    while taken := first.take():
        fleet.done.add(taken.shard)
        first.give_back(taken.shard)
    assert fleet.elsewhere == 0
    assert second.take() is None
    assert fleet.elsewhere == records_of(SIX)


def test_what_is_given_back_undone_is_done_by_another_and_not_tried_again_by_the_same() -> None:
    fleet = Fleet(2)
    first, second = fleet.shares
    while taken := first.take():
        first.give_back(taken.shard)
    assert fleet.leases[0].held() == []
    found = set()
    while taken := second.take():
        found.add(taken.shard)
        assert taken.share == SIX[taken.shard]
    assert found == SIX.keys()


def test_eight_workers_do_not_knock_at_the_same_shard() -> None:
    fleet = Fleet(1)
    orders = [[*fleet.worker(fleet.leases[0])._todo] for _ in range(8)]
    assert len({tuple(order) for order in orders}) > 4
    assert all(sorted(order) == [*SIX] for order in orders)


def test_it_waits_longer_and_longer_and_hears_a_wish_to_stop_meanwhile() -> None:
    fleet = Fleet(2)
    for shard in SIX:
        assert fleet.leases[0].take(shard, None)
    pauses: list[float] = []
    looks: list[int] = []  # after how many pauses
    waiting = fleet.worker(
        fleet.leases[1],
        pause=pauses.append,
        stop=lambda: len(pauses) >= 100,
        look=lambda leases: looks.append(len(pauses)),
    )
    assert waiting.take() is None
    assert len(pauses) == 100
    assert max(pauses) <= 0.25
    between = [later - earlier for earlier, later in pairwise(looks)]
    assert between == sorted(between)
    assert (between[0], between[-1]) == (1, 20)


def test_a_store_that_is_busy_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_DELAY_SECONDS", 0.0)
    fleet, errors = Fleet(1), [StoreBusyError("busy"), StoreBusyError("busy")]
    list_all = MemoryStore.list

    def listed(prefix: str = "") -> Any:
        if errors:
            raise errors.pop()
        return list_all(fleet.store, prefix)

    monkeypatch.setattr(fleet.store, "list", listed)
    assert fleet.shares[0].take() is not None
    errors.append(StoreError("gone"))  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="gone"):
        fleet.shares[0].take()


def test_of_many_leases_one_look_serves_for_several_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a taking costs does not grow with the run: many takings list fewer than so many leases each."""
    many = {f"{number:05}": Share(2) for number in range(6000)}
    fleet = Fleet(2)
    for shard in [*many][:4000]:
        fleet.store.create(lease_file(RUN, shard, 0), b"somebody's")
    listed: list[int] = []
    list_all = MemoryStore.list

    def counted(prefix: str = "") -> Any:
        found = list_all(fleet.store, prefix)
        listed.append(len(found))
        return found

    monkeypatch.setattr(fleet.store, "list", counted)
    shares = Shares(many, fleet.leases[0], left=fleet.left, stop=lambda: False)
    other = Shares(many, fleet.leases[1], left=fleet.left, stop=lambda: False)
    taken = [share.shard for _ in range(100) for one in (shares, other) if (share := one.take())]
    assert len(set(taken)) == 200
    assert min(taken) >= "04000"
    assert sum(listed) < 200 * 2 * LEASES_A_TAKING
    before = len(listed)
    shares.watch()
    assert shares.take() is not None  # what somebody has looked at meanwhile is out of date
    assert len(listed) == before + 2
