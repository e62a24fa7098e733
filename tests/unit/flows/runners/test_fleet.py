"""Whoever watches over copies, on a real run; the copies are threads with the real loop, or say that they are there."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flows.runners import fleet as watching
from flows.runners.fleet import FUTILE, Fleet
from flows.runners.part import Part, VanishedError, ending, told
from flows.runners.runner import AwayError
from lsb.errors import BudgetExceededError, LsbError, ModelError, ShardsFailedError, UnfinishedError
from lsb.jobs.rerun import what_is_left
from lsb.jobs.work.loop import ShardsOutcome, raise_what_failed, translate_shares
from lsb.ledger import layout
from lsb.ledger.leases import Leases
from lsb.ledger.run import pending
from lsb.ledger.worker import Worker, at_work
from tests.unit.jobs.work.fleet import Fleet as Crew

Copy = Callable[[Part], None]


class Threads:
    """A runner whose copies are threads; each does what the next of `copies` does, the last one for ever."""

    def __init__(self, *copies: Copy) -> None:
        self.copies = [*copies]
        self.started: list[Part] = []
        self.stopped: list[str] = []
        self._live: dict[str, Future[Any]] = {}
        self._pool = ThreadPoolExecutor(8)

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def start(self, number: int, part: Part) -> None:
        copy = self.copies.pop(0) if len(self.copies) > 1 else self.copies[0]
        self.started.append(part)
        assert part.mark
        self._live[part.mark] = self._pool.submit(told, partial(copy, part))

    def ended(self) -> dict[str, Exception | None]:
        gone = [mark for mark, one in self._live.items() if one.done()]
        return {mark: ending(self._live.pop(mark).result()) for mark in gone}

    def stop(self, marks: Iterable[str]) -> None:
        self.stopped += marks


@pytest.fixture
def crew(tmp_path: Path) -> Crew:
    return Crew(tmp_path, 8)


def working(crew: Crew, part: Part) -> None:
    """The loop of `lsb work`."""
    assert part.run == crew.run.id
    todo = what_is_left(crew.store, crew.run)
    translate_shares(part.config, crew.run, todo, crew.do, stop=lambda: False, mark=part.mark)


def vanishing(part: Part) -> None:
    raise RuntimeError("its machine is gone")


def refusing(part: Part) -> None:
    raise ModelError("no model at /elsewhere; mount it")


class Clock:
    """Of the one who watches; passes when it waits, and a moment for others to work in."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds
        threading.Event().wait(0.001)


def watch(
    crew: Crew, runner: Any, stop: Callable[[], bool] = lambda: False, worker: Worker | None = None, **settings: Any
) -> ShardsOutcome:
    clock = Clock()
    config = crew.config(execution={"parallel": 2, **settings})
    with at_work() as me, runner:
        leases = Leases(crew.store, crew.run.id, worker or me, clock)
        fleet = Fleet(config, crew.run, runner, leases, clock=clock, pause=clock.pause)
        fleet.work(what_is_left(crew.store, crew.run), stop)
    return fleet.outcome


def raised(crew: Crew, outcome: ShardsOutcome) -> type[BaseException] | None:
    try:
        raise_what_failed(outcome, "run", what_is_left(crew.store, crew.run), 4)
    except BaseException as error:  # noqa: BLE001
        return type(error)
    return None


def test_copies_translate_all_of_it_once_and_are_counted_from_the_store(crew: Crew) -> None:
    runner = Threads(partial(working, crew))
    outcome = watch(crew, runner)
    assert (outcome.failures, outcome.translated, outcome.over_budget) == ({}, 8, None)
    assert set(crew.made().values()) == {1}
    assert len({part.mark for part in runner.started}) == len(runner.started) == 2
    assert pending(crew.store, crew.run) == {}


def test_one_that_vanishes_is_started_again_and_picks_up(crew: Crew) -> None:
    def half(part: Part) -> None:
        shard, records = min(what_is_left(crew.store, crew.run).items())
        translate_shares(part.config, crew.run, {shard: records}, crew.do, stop=lambda: False, mark=part.mark)
        vanishing(part)

    runner = Threads(half, half, partial(working, crew))
    outcome = watch(crew, runner)
    assert (outcome.failures, outcome.translated) == ({}, 8)
    assert len(runner.started) >= 3
    assert raised(crew, outcome) is None


def test_those_that_vanish_again_and_again_are_not_started_for_ever(crew: Crew) -> None:
    runner = Threads(vanishing)
    outcome = watch(crew, runner)
    assert len(runner.started) == 2 * FUTILE + 2
    assert raised(crew, outcome) is UnfinishedError
    assert "its machine is gone" in str(outcome.failures.popitem()[1])


def test_a_refusal_is_what_the_user_is_told_once_nobody_works_any_more(crew: Crew) -> None:
    runner = Threads(refusing)
    outcome = watch(crew, runner)
    assert len(runner.started) == 2  # to be told once more what it has said is of no use
    with pytest.raises(ModelError, match=r"^no model at /elsewhere; mount it$"):
        raise_what_failed(outcome, "run", what_is_left(crew.store, crew.run), 4)


def test_one_that_refuses_leaves_the_work_to_the_others(crew: Crew) -> None:
    outcome = watch(crew, Threads(refusing, partial(working, crew)))
    assert outcome.translated == 8
    assert raised(crew, outcome) is None


def test_a_runner_that_does_not_answer_is_asked_for_as_long_as_patience_lasts(crew: Crew) -> None:
    marks: set[str | None] = set()

    class Away(Threads):
        asked = 0

        def start(self, number: int, part: Part) -> None:
            self.asked += 1
            marks.add(part.mark)
            raise AwayError("no server")

        def ended(self) -> dict[str, Exception | None]:
            raise AwayError("no server")

    runner = Away(vanishing)
    outcome = watch(crew, runner, server_patience=100.0)
    assert 50 < runner.asked <= 102
    assert len(marks) == 1  # or a start whose answer was lost would start another one
    assert raised(crew, outcome) is UnfinishedError
    assert "server_patience" in str(outcome.failures["fleet"])


def test_a_runner_that_answers_nothing_more_does_not_matter_to_copies_that_are_at_work(crew: Crew) -> None:
    class Lost(Threads):
        def ended(self) -> dict[str, Exception | None]:
            raise AwayError("no server")

        def stop(self, marks: Iterable[str]) -> None:
            raise AwayError("no server")

    outcome = watch(crew, Lost(partial(working, crew)))
    assert (outcome.translated, outcome.failures) == (8, {})


def test_who_wants_an_end_has_the_copies_ended_in_order(crew: Crew) -> None:
    begun, asked = threading.Event(), threading.Event()

    class Ending(Threads):
        def stop(self, marks: Iterable[str]) -> None:
            super().stop(marks)
            asked.set()

    def slow(part: Part) -> None:
        begun.set()
        assert asked.wait(600)
        raise UnfinishedError("stopped by SIGTERM")

    runner = Ending(slow)
    outcome = watch(crew, runner, stop=begun.is_set)
    assert {part.mark for part in runner.started} == set(runner.stopped)
    outcome.signal = signal.SIGTERM
    assert raised(crew, outcome) is UnfinishedError


def test_a_copy_whose_lease_grows_old_has_vanished_whatever_its_runner_says(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "OWN_END_SECONDS", 1.0)
    monkeypatch.setattr(watching, "END_SECONDS", 1.0)
    woken = threading.Event()

    def hanging(part: Part) -> None:
        with at_work(part.mark) as worker:
            leases = Leases(crew.store, crew.run.id, Worker(worker.name, None, 1, None))
            assert leases.take("00000", None)
            assert woken.wait(600)

    class Waking(Threads):
        def stop(self, marks: Iterable[str]) -> None:
            marks = [*marks]
            super().stop(marks)
            if marks and not woken.is_set():
                woken.set()
                crew.store.write(layout.lease_file(crew.run.id, "00000", 0, back=True), b"{}")

    runner = Waking(hanging, partial(working, crew))
    outcome = watch(crew, runner)
    assert (outcome.translated, outcome.failures) == (8, {})
    assert runner.started[0].mark in runner.stopped
    assert len(runner.started) >= 3


def test_what_the_copies_have_spent_ends_it(crew: Crew) -> None:
    def spending(part: Part) -> None:
        raise BudgetExceededError("too much of it; what is done is committed, and so on")

    outcome = watch(crew, Threads(spending))
    assert outcome.over_budget == "too much of it"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ModelError("x"), ModelError),
        (ShardsFailedError("x", failures={"0": "y"}), ShardsFailedError),
        (UnfinishedError("stopped by SIGTERM"), VanishedError),
        (KeyboardInterrupt(), VanishedError),
        (ValueError("x"), VanishedError),
    ],
    ids=str,
)
def test_how_a_copy_ended_is_told_from_process_to_process(error: BaseException, kind: type[Exception]) -> None:
    def work() -> None:
        raise error

    found = ending(told(work))
    assert type(found) is kind
    assert "x" in str(found) or "stopped" in str(found)
    assert ending(told(lambda: None)) is None
    assert isinstance(ending({"kind": "LsbError", "message": "x"}), LsbError)
