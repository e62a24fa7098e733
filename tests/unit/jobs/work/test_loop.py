from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lsb.audit import verify
from lsb.errors import LsbError, ModelError, ShardsFailedError, StoreBusyError, StoreError, UnfinishedError
from lsb.jobs import budget
from lsb.jobs.rerun import Share
from lsb.jobs.work import loop
from lsb.jobs.work.accounts import why_stopped
from lsb.jobs.work.loop import ShardsOutcome, raise_what_failed
from lsb.ledger import leases
from lsb.ledger.layout import lease_file, leases_folder
from lsb.ledger.leases import SCHEMA, newest
from lsb.ledger.run import pending
from lsb.records import canonical_json
from lsb.store.local import LocalStore
from lsb.translation.shard import ShardOutcome
from lsb.views.status import status
from tests.ledger import Inverter
from tests.unit.jobs.work.fleet import Fleet

PENDING = {"00001": Share(2)}


def test_the_store_decides_and_not_the_attempt() -> None:
    raise_what_failed(ShardsOutcome(failures={"00001": StoreError("gone")}), "runs/x", {}, 4)


@pytest.mark.parametrize(
    ("outcome", "error", "words"),
    [
        (ShardsOutcome(signal=signal.SIGINT), KeyboardInterrupt, ""),
        (ShardsOutcome(signal=signal.SIGTERM), UnfinishedError, "2 records left"),
        (ShardsOutcome(failures={"00001": StoreError("disk full")}), StoreError, "disk full"),
        (
            ShardsOutcome(failures={"00001": StoreBusyError("busy")}),
            ShardsFailedError,
            "1 of 4 shards.*busy.*run again",
        ),
        (ShardsOutcome(failures={"0": StoreError("a"), "1": ModelError("b")}), ShardsFailedError, "StoreError"),
        (ShardsOutcome(), ShardsFailedError, "another process"),
    ],
)
def test_what_is_missing_ends_the_run(outcome: ShardsOutcome, error: type[BaseException], words: str) -> None:
    with pytest.raises(error, match=words or None):
        raise_what_failed(outcome, "runs/x", PENDING, 4)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, UnfinishedError)])
def test_a_signal_during_the_last_batch_ends_the_run_before_it_is_measured(
    number: int, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        raise_what_failed(ShardsOutcome(signal=number), "runs/x", {}, 4)


def test_a_signal_after_the_last_record_says_what_is_left() -> None:
    outcome = ShardsOutcome(signal=signal.SIGTERM)
    with pytest.raises(UnfinishedError, match="measuring and publishing are left, run again or `lsb publish runs/x`"):
        raise_what_failed(outcome, "runs/x", {}, 4)
    with pytest.raises(UnfinishedError, match=r"with \d+ records left in runs/x"):
        raise_what_failed(outcome, "runs/x", PENDING, 4)


def test_unfinished_shards_ask_for_another_run() -> None:
    assert ShardsFailedError("x", failures={}).exit_code == 5


def test_a_store_that_fails_again_and_again_is_not_asked_for_ever() -> None:
    asked: list[str] = []

    def results() -> Iterator[tuple[str, ShardOutcome | Exception]]:
        for number in range(100):
            asked.append(str(number))
            yield str(number), StoreError("gone")

    outcome = loop._collect(results())
    assert len(asked) == len(outcome.failures) == loop.FAILURES_IN_A_ROW


def test_one_bad_shard_does_not_end_the_others() -> None:
    good = ShardOutcome("0", True, {"ok": 1}, 1, 1)
    results: list[tuple[str, ShardOutcome | Exception]] = [("0", good), ("1", LsbError("x")), ("2", good)]
    outcome = loop._collect(iter(results))
    assert (outcome.translated, list(outcome.failures)) == (2, ["1"])


def test_two_at_work_on_one_run_make_nothing_twice(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 24)
    begun = threading.Barrier(2, timeout=600)

    def do(shard: str, records: Mapping[str, int] | None) -> ShardOutcome:
        nonlocal meets
        if meets:
            meets -= 1
            begun.wait()  # each has a shard at the same time
        return fleet.do(shard, records)

    meets = 8
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda _: fleet.work(do), range(2)))
    assert pending(fleet.store, fleet.run) == {}
    assert set(fleet.made().values()) == {1}
    assert sum(outcome.translated for outcome in outcomes) == len(fleet.made()) == 24
    assert sum(outcome.shards for outcome in outcomes) == 12
    assert min(outcome.shards for outcome in outcomes) >= 4


def test_threads_of_one_worker_share_its_shards(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 8)
    together = threading.Barrier(3, timeout=600)

    def do(shard: str, records: Mapping[str, int] | None) -> ShardOutcome:
        met.append(shard)
        if len(met) <= 3:
            together.wait()
        return fleet.do(shard, records)

    met: list[str] = []
    outcome = fleet.work(do, execution={"workers": 3})
    assert (outcome.translated, outcome.shards, sorted(met)) == (8, 4, fleet.run.shards())
    assert set(fleet.made().values()) == {1}


def test_a_wish_that_wakes_nobody_is_heard_before_the_shard_ends(tmp_path: Path) -> None:
    """As Ray tells it, and no system call is interrupted."""
    fleet, heard = Fleet(tmp_path, 2), threading.Event()

    def do(shard: str, share: Share) -> ShardOutcome:
        _thread.interrupt_main()
        assert heard.wait(60)
        return fleet.do(shard, share)

    before = signal.signal(signal.SIGINT, lambda *_: heard.set())
    try:
        assert fleet.work(do).translated == 2
    finally:
        signal.signal(signal.SIGINT, before)


def test_who_finds_all_in_others_hands_waits_until_it_is_committed(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 4)
    halfway, waiting = threading.Event(), threading.Event()

    def slow(shard: str, records: Mapping[str, int] | None) -> ShardOutcome:
        halfway.set()
        assert waiting.wait(600)
        return fleet.do(shard, records)

    class Asked(list[int]):
        def __call__(self) -> bool:
            self.append(1)
            if len(self) > 20:
                waiting.set()
            return False

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(fleet.work, slow, execution={"workers": 2})
        assert halfway.wait(600)
        while len(fleet.store.list(leases_folder(fleet.run.id))) < 2:
            time.sleep(0.01)
        second = fleet.work(stop=Asked())
        assert pending(fleet.store, fleet.run) == {}
        assert (second.translated, first.result().translated) == (0, 4)


def test_one_that_was_stopped_past_its_lease_and_wakes_up_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "GONE_SECONDS", 0.3)
    fleet = Fleet(tmp_path, 6)
    asleep, woken = threading.Event(), threading.Event()

    class Sleeper(Inverter):
        def translate(self, *arguments: Any, **options: Any) -> list[Any]:
            asleep.set()
            assert woken.wait(600)
            return super().translate(*arguments, **options)

    def sleep(shard: str, records: Mapping[str, int] | None) -> ShardOutcome:
        return fleet.do(shard, records, Sleeper(2, fleet.log))

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(fleet.work, sleep)
        assert asleep.wait(600)
        assert fleet.work().translated == 6
        assert pending(fleet.store, fleet.run) == {}
        before = {entry.key for entry in fleet.store.list() if "/log/" in entry.key}
        woken.set()
        outcome = first.result()
    assert (outcome.failures, outcome.shards) == ({}, 1)
    assert {entry.key for entry in fleet.store.list() if "/log/" in entry.key} == before
    assert sorted(fleet.made().values()) == [1, 1, 1, 1, 2, 2]  # the batch that it had in hand
    verdict = verify(fleet.store, fleet.run.id)
    assert {finding.kind for finding in verdict.findings} == {"incomplete"}  # nothing is published


def test_what_one_could_not_do_another_does_and_is_not_left_waiting(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 8)

    def broken(shard: str, records: Mapping[str, int] | None) -> ShardOutcome:
        raise ModelError("no such model")

    outcome = fleet.work(broken)
    assert len(outcome.failures) == loop.FAILURES_IN_A_ROW
    assert all(lease.given_back for lease in newest(fleet.store.list(leases_folder(fleet.run.id))).values())
    assert fleet.work().translated == 8


def test_a_wish_to_stop_commits_the_batch_and_gives_the_shard_back(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 8)
    stopped: list[str] = []

    class Once(Inverter):
        def translate(self, *arguments: Any, **options: Any) -> list[Any]:
            stopped.append("now")
            return super().translate(*arguments, **options)

    def do(shard: str, records: Mapping[str, int] | None) -> ShardOutcome:
        return fleet.do(shard, records, Once(1, fleet.log))

    outcome = fleet.work(do, stop=lambda: bool(stopped))
    assert (outcome.translated, outcome.shards) == (1, 0)
    (lease,) = newest(fleet.store.list(leases_folder(fleet.run.id))).values()
    assert lease.given_back
    assert fleet.work().translated == 7
    assert set(fleet.made().values()) == {1}


class Careless(Inverter):
    def translate(self, *arguments: Any, **options: Any) -> list[Any]:
        raise RuntimeError("cannot")


def test_the_budget_counts_what_all_workers_have_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two each is within it; both together are beyond."""
    monkeypatch.setattr(budget, "LEAST", 4)
    fleet = Fleet(tmp_path, 40)
    strict: dict[str, Any] = {"budget": {"max_failed_fraction": 0.15}}
    turns: list[str] = []

    def one(shard: str, records: Mapping[str, int] | None) -> ShardOutcome:
        turns.append("one")
        if len(turns) == 2:  # now another has his turn, from his beginning to his end
            left = iter([False] * 4)
            fleet.work(other, stop=lambda: next(left, True), **strict)
        return fleet.do(shard, records, Careless(2))

    def other(shard: str, records: Mapping[str, int] | None) -> ShardOutcome:
        turns.append("other")
        return fleet.do(shard, records, Careless(2))

    outcome = fleet.work(one, **strict)
    made = status(fleet.store, fleet.run).records["failed"]
    assert outcome.over_budget is not None
    assert f"{made} of 40 usable records failed" in outcome.over_budget
    assert made == 2 * len(turns) == 8
    assert {"one", "other"} == set(turns)
    assert fleet.work(**strict).shards == 0
    outcome = fleet.work(budget={"max_failed_fraction": 0.5})
    assert (outcome.over_budget, outcome.translated) == (None, 32)


def test_device_hours_end_a_run_and_more_of_them_let_it_go_on(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 12)
    few: dict[str, Any] = {"budget": {"max_device_hours": 1e-8}}
    outcome = fleet.work(**few)
    assert outcome.shards == 1
    assert outcome.over_budget is not None
    assert outcome.over_budget.endswith("device hours are spent, budget.max_device_hours allows 0.00000001")
    assert fleet.work(**few).shards == 0
    for entry in fleet.store.list(leases_folder(fleet.run.id)):  # the rows tell it, too
        fleet.store.delete(entry.key)
    assert fleet.work(**few).shards == 0
    assert why_stopped(fleet.store, fleet.run, fleet.config(**few).budget)
    outcome = fleet.work(budget={"max_device_hours": 10.0})
    assert (outcome.shards, outcome.over_budget) == (5, None)
    assert why_stopped(fleet.store, fleet.run, fleet.config(**few).budget) is None  # a run that is done costs no more


def test_device_hours_are_those_of_all_leases_what_was_lost_included(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 4)
    worker = {"worker": "ann", "process": {"machine": None, "id": 1, "started": None}}
    for number, seconds in enumerate((3600, 1800)):
        document = {"schema": SCHEMA, "seconds": seconds, **worker}
        fleet.store.write(lease_file(fleet.run.id, "00000", number), canonical_json(document))
    fleet.store.write(lease_file(fleet.run.id, "00001", 0), b"not a lease")
    reason = why_stopped(fleet.store, fleet.run, fleet.config(budget={"max_device_hours": 1.5}).budget)
    assert reason == "1.5 device hours are spent, budget.max_device_hours allows 1.5"
    assert why_stopped(fleet.store, fleet.run, fleet.config(budget={"max_device_hours": 1.6}).budget) is None


def test_a_store_whose_leases_cannot_be_listed_ends_it_with_that_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path, 4)
    listed = LocalStore.list

    def refuse(store: LocalStore, prefix: str = "") -> Any:
        if "leases" in prefix:
            raise StoreError("not allowed")
        return listed(store, prefix)

    monkeypatch.setattr(LocalStore, "list", refuse)
    with pytest.raises(StoreError, match="not allowed"):
        fleet.work()
