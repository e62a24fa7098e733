"""What a run may lose and cost before it is not worth going on with."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal

from lsb.config.job import BudgetConfig
from lsb.records import Status, has_output

LEAST = 200  # records with a row before a run that is under way is judged


def over_budget(
    budget: BudgetConfig, counts: Mapping[str, int], planned: int, device_seconds: float = 0.0
) -> str | None:
    """Everything that is more than the budget allows, as a sentence without its end; None if nothing is.

    Failed records are measured against those that could be translated: the planned ones that are not quarantined. A
    run that came to its end without a single picture is beyond every budget.

    Args:
        counts: records by status, so far.
        planned: all records of the run. Against these both shares can only grow until the run ends.
        device_seconds: for which devices have been at work on it so far.
    """
    exceeded = []
    if planned and sum(counts.values()) >= planned and not has_output(counts):
        exceeded.append(f"none of {planned} records could be translated, so the job's name stays where it was")
    quarantined = counts.get(Status.QUARANTINED.value, 0)
    checks = (
        (Status.FAILED, "usable", planned - quarantined, budget.max_failed_fraction),
        (Status.QUARANTINED, "planned", planned, budget.max_quarantined_fraction),
    )
    for status, kind, whole, allowed in checks:
        number = counts.get(status.value, 0)
        if number > allowed * whole:
            exceeded.append(
                f"{number} of {whole} {kind} records {status.value} ({number / whole:.1%}), "
                f"budget.max_{status.value}_fraction allows {allowed:.1%}"
            )
    allowed_hours, hours = budget.max_device_hours, device_seconds / 3600
    if allowed_hours is not None and hours >= allowed_hours:
        spent = f"{_plain(hours)} device hours are spent"
        exceeded.append(f"{spent}, budget.max_device_hours allows {_plain(allowed_hours)}")
    return "; ".join(exceeded) or None


def _plain(number: float) -> str:
    """Three digits, without an exponent."""
    return f"{Decimal(f'{number:.3g}'):f}"


class Tally:
    """Adds up a run while shards commit, in several threads, and says when the budget is spent."""

    def __init__(self, budget: BudgetConfig, planned: int, counts: Mapping[str | None, Mapping[str, int]]) -> None:
        """`counts` are the rows by shard and status at the start; under None those that no shard has."""
        self._budget = budget
        self._planned = planned
        self._lock = threading.Lock()
        self._by_shard = {shard: Counter(by_status) for shard, by_status in counts.items()}
        self._total = sum(self._by_shard.values(), Counter())
        self._device_seconds = 0.0
        self._judge()

    def commit(self, shard: str, counts: Mapping[str, int]) -> None:
        """The rows of a shard by status, all of them, after a commit."""
        with self._lock:
            self._total.subtract(self._by_shard.get(shard, Counter()))
            self._by_shard[shard] = Counter(counts)
            self._total.update(counts)
            self._judge()

    def spend(self, device_seconds: float) -> None:
        """For how long devices have been at work on the run, all of them together."""
        with self._lock:
            self._device_seconds = device_seconds
            self._judge()

    @property
    def counts(self) -> Counter[str]:
        """Rows by status, of all shards."""
        with self._lock:
            return Counter(self._total)

    @property
    def spent(self) -> str | None:
        """Why no shard should start any more and those under way should stop; None as long as they may go on."""
        return self._spent

    def _judge(self) -> None:
        enough = self._total.total() >= LEAST
        self._spent = over_budget(self._budget, self._total if enough else {}, self._planned, self._device_seconds)
