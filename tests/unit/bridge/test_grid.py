"""Grids rise from t0 to t_n in their own variable."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lsb.bridge.clock import TIME
from lsb.bridge.grid import Grid, grid_of
from lsb.bridge.settings import BridgeSettings
from lsb.errors import BridgeError


def test_uniform_in_t() -> None:
    assert grid_of(BridgeSettings(nfe=5, t_end=0.8)).times == pytest.approx([0.2, 0.35, 0.5, 0.65, 0.8])


def test_uniform_in_theta() -> None:
    times = grid_of(BridgeSettings(nfe=5, grid="theta")).times
    angles = [math.asin(math.sqrt(t)) for t in times]
    assert np.diff(angles) == pytest.approx(np.full(4, angles[1] - angles[0]))
    assert (times[0], times[-1]) == pytest.approx((0.2, 0.98))


def test_uniform_in_logit() -> None:
    times = grid_of(BridgeSettings(nfe=5, grid="logit")).times
    assert np.diff([math.log(t / (1 - t)) for t in times]) == pytest.approx(
        np.full(4, (math.log(0.98 / 0.02) - math.log(0.25)) / 4)
    )


def test_tuned_times_are_kept() -> None:
    times = (0.2, 0.5, 0.9, 0.98)
    settings = BridgeSettings(nfe=4, solver="adams_moulton", grid="tuned", times=times)
    assert grid_of(settings).times == pytest.approx(times)


def test_partial_translation_ends_where_it_is_told() -> None:
    assert grid_of(BridgeSettings(partial=0.6)).times[-1] == pytest.approx(0.6)


def test_published_grid_runs_onto_one() -> None:
    times = grid_of(BridgeSettings(preset="published")).times
    assert times == pytest.approx(np.linspace(0.2, 1.0, 8))
    assert times[-1] == 1.0


@pytest.mark.parametrize("nodes", [(0.1,), (0.2, 0.2), (0.3, 0.1), (0.1, math.nan)])
def test_unusable_nodes_are_refused(nodes: tuple[float, ...]) -> None:
    with pytest.raises(BridgeError, match="rising"):
        Grid(TIME, nodes)
