"""How every task of this project is retried: only what an error itself calls transient."""

from __future__ import annotations

from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from lsb.errors import LsbError

RETRIES = 4
FIRST_DELAY_SECONDS = 1.0


def is_transient(task: Any, task_run: Any, state: Any) -> bool:
    """Prefect's retry condition. Never raises: one that does means no retry."""
    try:
        state.result()
    except LsbError as error:
        return error.transient
    except Exception:  # noqa: BLE001 whatever else it is, it is not known to be transient
        return False
    return False


# Results are not persisted or cached: the commit log decides what is done, and it looks at the store to know.
TASK_OPTIONS: dict[str, Any] = {
    "retries": RETRIES,
    "retry_delay_seconds": exponential_backoff(backoff_factor=FIRST_DELAY_SECONDS),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": is_transient,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}
