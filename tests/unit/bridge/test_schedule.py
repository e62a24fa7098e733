"""sigma to network time and back, clamps, the published table, and what is refused."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch

from lsb.bridge.schedule import NoiseSchedule
from lsb.errors import BridgeError


def test_table_entries_belong_to_their_index(schedule: NoiseSchedule) -> None:
    for k in (0, 1, 19, 500, 999):
        alpha_bar = schedule.alphas_cumprod[k]
        assert schedule.network_time(math.sqrt((1 - alpha_bar) / alpha_bar)) == pytest.approx(k, abs=1e-6)


def test_sigma_to_time_to_sigma(schedule: NoiseSchedule) -> None:
    for sigma in np.geomspace(schedule.sigma_min, schedule.sigma_max, 301):
        assert schedule.sigma_of(schedule.network_time(sigma)) == pytest.approx(sigma, rel=1e-6)
    for time in (0.0, 0.37, 12.5, 700.123, 999.0):
        assert schedule.network_time(schedule.sigma_of(time)) == pytest.approx(time, abs=1e-6)


def test_fractional_times_are_linear_in_log_sigma(schedule: NoiseSchedule) -> None:
    middle = math.sqrt(schedule.sigma_of(300) * schedule.sigma_of(301))
    assert schedule.network_time(middle) == pytest.approx(300.5, abs=1e-9)


def test_below_the_smallest_sigma_time_is_clamped(schedule: NoiseSchedule) -> None:
    assert schedule.network_time(schedule.sigma_min / 10) == 0.0
    assert schedule.network_time(0.0) == 0.0


def test_above_the_largest_sigma_the_largest_tau_is_named(schedule: NoiseSchedule) -> None:
    with pytest.raises(BridgeError, match="largest tau") as caught:
        schedule.network_time(20.0)
    assert caught.value.tau_max == pytest.approx(2 * schedule.sigma_max)
    assert f"{2 * schedule.sigma_max:.6g}" in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).sigma == 20.0  # noqa: S301
    with pytest.raises(BridgeError, match="largest tau"):
        schedule.published_time(20.0)


@pytest.mark.parametrize("sigma", [-0.1, math.nan, math.inf])
def test_impossible_sigma_is_refused(schedule: NoiseSchedule, sigma: float) -> None:
    with pytest.raises(BridgeError, match="finite"):
        schedule.network_time(sigma)


@pytest.mark.parametrize("time", [-0.1, 999.5, math.nan])
def test_impossible_time_is_refused(schedule: NoiseSchedule, time: float) -> None:
    with pytest.raises(BridgeError, match="0 to 999"):
        schedule.sigma_of(time)


def test_published_table_is_shifted_by_one(schedule: NoiseSchedule) -> None:
    """The entry that belongs to time k is found at k + 1."""
    for k in (0, 3, 250, 999):
        alpha_bar = schedule.alphas_cumprod[k]
        assert schedule.published_time(math.sqrt((1 - alpha_bar) / alpha_bar)) == k + 1
    assert schedule.published_time(0.0) == 0
    assert schedule.published_sigma(0.0) == 0.0


def test_published_sigma_is_its_own(schedule: NoiseSchedule) -> None:
    for sigma in (0.05, 0.33, 1.15, 7.0):
        snapped = schedule.published_sigma(sigma)
        assert schedule.published_time(snapped) == schedule.published_time(sigma)
        assert schedule.published_sigma(snapped) == snapped
        assert snapped == pytest.approx(sigma, rel=0.02)


def test_published_end_is_entry_19(schedule: NoiseSchedule) -> None:
    assert schedule.published_end == schedule.alphas_cumprod[19]
    with pytest.raises(BridgeError, match="20"):
        _ = NoiseSchedule.of([0.9, 0.5]).published_end


def test_zero_terminal_signal_is_left_out() -> None:
    schedule = NoiseSchedule.of(torch.tensor([0.9, 0.5, 0.1, 0.0]))
    assert schedule.sigma_max == pytest.approx(3.0, rel=1e-6)


@pytest.mark.parametrize("table", [[], [0.9], [0.9, 0.9], [0.5, 0.9], [1.0, 0.5], [0.9, -0.1], [0.9, math.nan]])
def test_unusable_table_is_refused(table: list[float]) -> None:
    with pytest.raises(BridgeError, match="alphas_cumprod"):
        NoiseSchedule.of(table)
