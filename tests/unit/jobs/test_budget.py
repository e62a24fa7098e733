from __future__ import annotations

import re

import pytest

from lsb.config.job import BudgetConfig
from lsb.jobs.budget import LEAST, Tally, over_budget


@pytest.mark.parametrize(
    ("counts", "failed", "quarantined", "words"),
    [
        ({"ok": 90, "failed": 5, "quarantined": 5}, 5 / 95, 0.05, None),
        ({"ok": 90, "failed": 5, "quarantined": 5}, 0.05, 1.0, "5 of 95 usable records failed .5.3%.*allows 5.0%"),
        ({"ok": 90, "failed": 5, "quarantined": 5}, 1.0, 0.04, "5 of 100 planned records quarantined .5.0%.*allows 4"),
        ({"failed": 5}, 0.05, 1.0, None),
        ({"failed": 6}, 0.05, 1.0, "6 of 100 usable"),
        ({"ok": 1, "quarantined": 99}, 0.0, 1.0, None),
        ({"ok": 1, "failed": 49, "quarantined": 50}, 0.1, 0.2, "49 of 50 usable .*; 50 of 100 planned .*allows 20.0%"),
        ({}, 0.0, 0.0, None),
    ],
)
def test_shares_are_of_what_could_have_gone_well(
    counts: dict[str, int], failed: float, quarantined: float, words: str | None
) -> None:
    budget = BudgetConfig(max_failed_fraction=failed, max_quarantined_fraction=quarantined)
    excess = over_budget(budget, counts, planned=100)
    if words is None:
        assert excess is None
    else:
        assert excess
        assert re.search(words, excess)
        assert "budget.max_" in excess


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"quarantined": 100}, "^none of 100 records could be translated.*name stays where it was$"),
        ({"failed": 60, "quarantined": 40}, "^none of 100 .*; 60 of 60 usable records failed"),
        ({"quarantined": 99}, None),  # one is still to be tried
        ({"quarantined": 99, "ok": 1}, None),
        ({"quarantined": 99, "erased": 1}, None),  # there was a picture
    ],
)
def test_a_run_without_a_single_picture_is_beyond_every_budget(counts: dict[str, int], words: str | None) -> None:
    excess = over_budget(BudgetConfig(), counts, planned=100)
    assert re.search(words, excess or "") if words else excess is None


def test_nothing_planned_is_within_any_budget() -> None:
    assert over_budget(BudgetConfig(max_quarantined_fraction=0), {}, planned=0) is None


def test_a_run_under_way_is_judged_from_two_hundred_records_on() -> None:
    tally = Tally(BudgetConfig(max_failed_fraction=0.1), 1000, {None: {"quarantined": 0}})
    tally.commit("00000", {"ok": LEAST - 151, "failed": 150})
    assert tally.spent is None
    tally.commit("00000", {"ok": LEAST - 150, "failed": 150})
    assert tally.spent
    assert "150 of 1000 usable records failed" in tally.spent


def test_a_shards_counts_replace_its_earlier_ones() -> None:
    tally = Tally(BudgetConfig(max_failed_fraction=0.1), 400, {None: {}, "00000": {"ok": 150, "failed": 50}})
    assert tally.spent
    tally.commit("00000", {"ok": 190, "failed": 10})
    assert tally.spent is None
    tally.commit("00001", {"failed": 31})
    assert tally.spent


def test_what_ingest_set_aside_counts_before_the_first_shard() -> None:
    tally = Tally(BudgetConfig(max_quarantined_fraction=0.5), 400, {None: {"quarantined": 201}})
    assert tally.spent
    assert "201 of 400 planned records quarantined" in tally.spent
