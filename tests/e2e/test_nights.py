"""Nights through a real worker, two of them cut off, and an account from the store: benchmarks/nightly.py in short."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.nightly import JOB, Trial
from lsb.store.store import open_store
from tests.gate import FLOW, Gate
from tests.nights import account_of


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_two_at_once_a_killed_worker_a_night_cut_off_and_the_cap_lose_nothing_and_do_nothing_twice(
    tmp_path: Path,
) -> None:
    gate = Gate(tmp_path / "gate")
    trial = Trial(tmp_path, seed=3, flow=FLOW, **gate.environment)
    with trial.under_way():
        gate.admit(4)
        trial.start_a_night()
        trial.start_a_night()
        trial.kill_the_worker()
        gate.admit(4)
        trial.cut_a_night_off()
        gate.open()
        trial.capped_night()
        trial.whole_night()
    account, told = trial.account()
    assert account.problems == []
    states = told["flow_runs"]
    assert (states.pop("Crashed"), states.pop("Failed"), states.pop("BeyondBudget")) == (1, 1, 1)
    # A picture that goes before its turn is a failed record.
    assert states in ({"Completed": 1}, {"CompletedWithFailures": 1})
    assert [deed["left"] > 0 for deed in told["deeds"]] == [True, True, True]
    last = account.nights[-1]
    assert last.whole
    assert last.rows["quarantined"] == 1
    assert last.carried > 0  # of what was committed before a night was cut off
    assert sum(night.whole for night in account.nights) == 1
    # The account sees what is not there.
    store = open_store(trial.store_uri)
    victim = next(entry.key for entry in store.list("runs") if entry.key.endswith("manifest.parquet"))
    (Path(trial.store_uri) / victim).unlink()
    with pytest.raises(Exception, match="manifest"):
        account_of(store, JOB)
