from __future__ import annotations

import pytest

from lsb.config import BudgetConfig
from lsb.job import budget_exceeded

COUNTS = {"ok": 90, "failed": 4, "quarantined": 6}


@pytest.mark.parametrize(
    ("failed", "quarantined", "kind"),
    [(0.04, 0.06, None), (0.03, 1.0, "failed"), (0.04, 0.05, "quarantined"), (0.0, 0.0, "failed")],
)
def test_a_share_above_the_budget_is_an_error_and_at_the_budget_none(
    failed: float, quarantined: float, kind: str | None
) -> None:
    budget = BudgetConfig(max_failed_fraction=failed, max_quarantined_fraction=quarantined)
    error = budget_exceeded(budget, COUNTS, "report.html")
    assert (error.status if error else None) == kind
    if error:
        assert error.exit_code == 4
        assert f"budget.max_{kind}_fraction" in str(error)
        assert "report.html" in str(error)


def test_nothing_planned_is_within_any_budget() -> None:
    assert budget_exceeded(BudgetConfig(), {}, "") is None
