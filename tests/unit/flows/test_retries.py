"""What a scheduled flow tries again by itself, and what it does not."""

from __future__ import annotations

import pytest

from flows.retries import WAIT_SECONDS, persistently
from lsb.errors import (
    BudgetExceededError,
    ConfigError,
    LsbError,
    ShardsFailedError,
    StoreBusyError,
    StoreError,
    UnfinishedError,
)


class Work:
    """Fails with these errors, one a try, then gives the number of tries."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.tries = 0
        self.waited: list[float] = []

    def __call__(self) -> int:
        self.tries += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.tries

    def persistently(self, retries: int) -> int:
        return persistently(self, retries, self.waited.append)


@pytest.mark.parametrize("error", [StoreBusyError("busy"), ShardsFailedError("2 of 4"), StoreError("nothing answers")])
def test_what_may_pass_is_tried_again(error: LsbError, caplog: pytest.LogCaptureFixture) -> None:
    work = Work(error, error)
    assert work.persistently(2) == 3
    assert work.waited == [WAIT_SECONDS] * 2
    said = [record.getMessage() for record in caplog.records]
    assert [line.rpartition("; ")[2] for line in said] == [
        "tried again in 300 s, 2 tries are left",
        "tried again in 300 s, 1 tries are left",
    ]
    assert all(line.startswith(f"{type(error).__name__}: {error}") for line in said)


def test_the_last_error_is_the_works_own() -> None:
    last = StoreBusyError("still busy")
    work = Work(StoreBusyError("busy"), last)
    with pytest.raises(StoreBusyError) as raised:
        work.persistently(1)
    assert raised.value is last
    assert work.tries == 2


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("wrong"),
        BudgetExceededError("too many"),
        UnfinishedError("stopped by SIGTERM"),
        StoreError("cannot be read", key="runs/a"),
        KeyboardInterrupt(),
        ValueError("a bug"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_nothing_else_is(error: BaseException) -> None:
    work = Work(error)
    with pytest.raises(type(error)):
        work.persistently(5)
    assert (work.tries, work.waited) == (1, [])
