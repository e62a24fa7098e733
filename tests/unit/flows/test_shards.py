from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from flows import shards
from flows.shards import ShardsOutcome, raise_what_failed
from lsb.errors import LsbError, ModelError, ShardsFailedError, StoreBusyError, StoreError, UnfinishedError
from lsb.translation.shard import ShardOutcome

PENDING = {"00001": ["a", "b"]}


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


def test_unfinished_shards_ask_for_another_run() -> None:
    assert ShardsFailedError("x", failures={}).exit_code == 5


def test_a_store_that_fails_again_and_again_is_not_asked_for_ever() -> None:
    asked: list[str] = []

    def results() -> Iterator[tuple[str, ShardOutcome | Exception]]:
        for number in range(100):
            asked.append(str(number))
            yield str(number), StoreError("gone")

    outcome = shards._collect(results())
    assert len(asked) == len(outcome.failures) == shards.FAILURES_IN_A_ROW


def test_every_command_takes_all_shards_in_an_order_of_its_own() -> None:
    todo = {f"{number:05}": {"a": 0} for number in range(50)}
    orders = [shards._by_chance(todo) for _ in range(2)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(todo)


def test_one_bad_shard_does_not_end_the_others() -> None:
    good = ShardOutcome("0", True, {"ok": 1}, 1, 1)
    results: list[tuple[str, ShardOutcome | Exception]] = [("0", good), ("1", LsbError("x")), ("2", good)]
    outcome = shards._collect(iter(results))
    assert (outcome.translated, list(outcome.failures)) == (2, ["1"])
