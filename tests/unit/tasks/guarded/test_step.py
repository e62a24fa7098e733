from __future__ import annotations

import time

import pytest
from prefect.states import Completed, Failed

from lsb.errors import LsbError, StoreBusyError, StoreError
from lsb.jobs.retries import retried
from tasks.guarded.step import TASK_OPTIONS, is_transient


@pytest.mark.parametrize(
    ("error", "again"),
    [(StoreBusyError("busy"), True), (StoreError("gone"), False), (LsbError("x"), False), (OSError("x"), False)],
)
def test_only_what_calls_itself_transient_is_tried_again(error: Exception, again: bool) -> None:
    assert is_transient(None, None, Failed(data=error)) is again


def test_success_is_not_tried_again() -> None:
    assert is_transient(None, None, Completed(data=1)) is False


def test_without_a_server_a_step_is_tried_as_often_and_as_late_as_prefect_does_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls, pauses = [], []
    monkeypatch.setattr(time, "sleep", pauses.append)

    def busy() -> None:
        calls.append(1)
        raise StoreBusyError("busy")

    with pytest.raises(StoreBusyError):
        retried(busy)
    assert len(calls) == 1 + TASK_OPTIONS["retries"] == 5
    delays = TASK_OPTIONS["retry_delay_seconds"](TASK_OPTIONS["retries"])
    jitter = 1 + TASK_OPTIONS["retry_jitter_factor"]
    assert len(pauses) == len(delays)
    assert all(least <= pause <= jitter * least for pause, least in zip(pauses, delays, strict=True))


@pytest.mark.parametrize("error", [StoreError("gone"), OSError("x")])
def test_without_a_server_what_would_fail_again_is_not_tried_again(error: Exception) -> None:
    calls = []

    def fail() -> None:
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        retried(fail)
    assert calls == [1]


def test_without_a_server_a_step_goes_on_where_a_try_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    errors = [StoreBusyError("busy"), StoreBusyError("busy")]

    def work() -> int:
        if errors:
            raise errors.pop()
        return 7

    assert retried(work) == 7
