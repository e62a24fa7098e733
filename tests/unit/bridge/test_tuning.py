"""Times that are tuned: better than where the search began, and only for solvers that may end early."""

from __future__ import annotations

import math

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


@pytest.mark.parametrize("trials", [1, 6, 7, 11, 40])
def test_no_more_paths_are_tried_than_asked_for(trials: int) -> None:
    asked: list[BridgeSettings] = []

    def counted(settings: BridgeSettings) -> float:
        asked.append(settings)
        return distance(settings)

    found = tune(BridgeSettings(solver="adams_moulton", nfe=4), counted, trials)
    assert len(asked) <= trials
    assert distance(found) == min(map(distance, asked))


def test_paths_without_an_error_are_passed_over() -> None:
    """Half of them leave the numbers behind, as a network in 16 bits may."""

    def error(settings: BridgeSettings) -> float:
        assert settings.times is not None
        return math.nan if settings.times[1] < 0.33 else distance(settings)

    found = tune(BridgeSettings(solver="adams_moulton", nfe=4), error)
    assert found.times == pytest.approx(WANTED, abs=0.02)
    with pytest.raises(BridgeError, match="none of 6 paths has an error"):
        tune(BridgeSettings(solver="adams_moulton", nfe=4), lambda _: math.nan)
