from __future__ import annotations

import pytest
from prefect.states import Completed, Failed

from lsb.errors import LsbError, StoreBusyError, StoreError
from tasks.guarded.step import TASK_OPTIONS, is_transient


@pytest.mark.parametrize(
    ("error", "again"),
    [(StoreBusyError("busy"), True), (StoreError("gone"), False), (LsbError("x"), False), (OSError("x"), False)],
)
def test_only_what_calls_itself_transient_is_tried_again(error: Exception, again: bool) -> None:
    assert is_transient(None, None, Failed(data=error)) is again


def test_success_is_not_tried_again() -> None:
    assert is_transient(None, None, Completed(data=1)) is False


def test_pauses_grow() -> None:
    pauses = TASK_OPTIONS["retry_delay_seconds"](TASK_OPTIONS["retries"])
    assert pauses == sorted(pauses)
    assert pauses[-1] > pauses[0] > 0
