from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lsb.store import read_ahead as module
from lsb.store.read_ahead import REQUESTS, read_ahead


class Reader:
    """Counts the calls that run at a time. None ends before `together` have begun."""

    def __init__(self, together: int) -> None:
        self.begun: list[int] = []
        self.most = 0
        self._running = 0
        self._lock = threading.Lock()
        self._together = threading.Barrier(together)

    def __call__(self, item: int) -> int:
        with self._lock:
            self.begun.append(item)
            self._running += 1
            self.most = max(self.most, self._running)
        self._together.wait(60)
        with self._lock:
            self._running -= 1
        return item * item


def test_answers_come_in_order_however_late_the_first_is() -> None:
    others = threading.Event()
    read: list[int] = []

    def late(item: int) -> int:
        if item == 0:
            assert others.wait(60)
        read.append(item)
        if len(read) == 3:
            others.set()
        return -item

    with read_ahead(range(20), late, requests=4) as answers:
        assert [(item, answer()) for item, answer in answers] == [(item, -item) for item in range(20)]
    assert read[:4] != [0, 1, 2, 3]


def test_so_many_requests_are_in_flight_and_no_more() -> None:
    reader = Reader(together=4)
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(12):
            taken.append(item)
            yield item

    with read_ahead(items(), reader, requests=4) as answers:
        for item, answer in answers:
            assert answer() == item * item
            assert len(taken) <= item + 4 + 1  # and one whose size is asked for
    assert (reader.most, sorted(reader.begun)) == (4, [*range(12)])


def test_the_bound_is_one_constant() -> None:
    reader = Reader(together=REQUESTS)
    with read_ahead(range(2 * REQUESTS), reader) as answers:
        assert sum(answer() == item * item for item, answer in answers) == 2 * REQUESTS
    assert reader.most == REQUESTS


def test_what_waits_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD_BYTES", 100)
    sizes = [60, 30, 30, 500, 10, 10]
    looked_at: list[int] = []

    def items() -> Iterator[int]:
        for item in range(6):
            looked_at.append(item)
            yield item

    seen = []
    with read_ahead(items(), lambda item: item, size=sizes.__getitem__) as answers:
        for _, answer in answers:
            answer()
            seen.append(len(looked_at))
    # The third waits for the first to be done with, and the fourth, which is too large, for all before it.
    assert seen == [3, 4, 4, 5, 6, 6]


def test_an_error_is_raised_at_its_place_and_spares_the_others() -> None:
    def read(item: int) -> int:
        if item == 2:
            raise ValueError("the second")
        return item

    read_ones = []
    with read_ahead(range(5), read) as answers:
        for item, answer in answers:
            if item == 2:
                with pytest.raises(ValueError, match="the second"):
                    answer()
            else:
                read_ones.append(answer())
    assert read_ones == [0, 1, 3, 4]


@pytest.mark.parametrize("end", [KeyboardInterrupt, ValueError])
def test_nothing_is_begun_once_the_block_is_left(end: type[BaseException]) -> None:
    before = threading.active_count()
    go = threading.Event()
    begun: list[int] = []

    def read(item: int) -> None:
        begun.append(item)
        assert item == 0 or go.wait(60)

    def take_one() -> None:
        with read_ahead(range(100), read, requests=3) as answers:
            for _, answer in answers:
                answer()
                raise end

    with pytest.raises(end):
        take_one()
    go.set()
    for thread in threading.enumerate():
        if thread.name.startswith("read-ahead"):
            thread.join(60)
    assert len(begun) <= 3
    assert threading.active_count() <= before


def test_stages_follow_each_other() -> None:
    with ExitStack() as stages:
        read = stages.enter_context(read_ahead(range(10), lambda item: item + 1, requests=4))
        made = stages.enter_context(read_ahead(read, lambda pair: pair[1]() * 10, requests=2))
        assert [(pair[0], answer()) for pair, answer in made] == [(item, (item + 1) * 10) for item in range(10)]


def test_none_is_an_item_too() -> None:
    with read_ahead([None, "a", None], lambda item: item) as answers:
        assert [answer() for _, answer in answers] == [None, "a", None]
