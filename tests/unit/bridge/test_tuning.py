"""Times that are tuned: better than where the search began, and only for solvers that may end early."""

from __future__ import annotations

import pytest

from lsb.bridge.settings import BridgeSettings
from lsb.bridge.tuning import tune
from lsb.errors import BridgeError

WANTED = (0.2, 0.35, 0.8, 0.95)


def distance(settings: BridgeSettings) -> float:
    assert settings.times is not None
    return sum(abs(t - wanted) for t, wanted in zip(settings.times, WANTED, strict=True))


def test_the_search_comes_near_the_best_times_and_keeps_all_else() -> None:
    given = BridgeSettings(solver="adams_moulton", nfe=4, tau=1.7)
    found = tune(given, distance)
    assert found.times == pytest.approx(WANTED, abs=0.02)
    assert found.model_copy(update={"grid": given.grid, "times": None}) == given


def test_a_solver_that_must_arrive_is_refused() -> None:
    with pytest.raises(BridgeError, match="not tuned for solver euler; use adams_moulton"):
        tune(BridgeSettings(nfe=4), distance)
