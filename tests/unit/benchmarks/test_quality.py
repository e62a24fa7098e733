"""The study's own rules; `make test-long` runs the whole of it on few pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from quality_methods import CANDIDATES, Candidate
from quality_mixture import mixture_points
from quality_study import COSTS, ENOUGH, FIXED, FREE, TUNED_AT, affordable, picture_forwards, score

from lsb.metrics.distances import kernel_samples

ROOT = Path(__file__).parents[3]
SETTINGS = {"tau": 0.5, "solver": "adams_moulton", "sigma": 0.5, "guidance": 2.0}


def settings_of(candidate: Candidate) -> dict[str, object]:
    names = ("tau", "solver", "guidance") if candidate.name == "lsb" else ("sigma", "guidance")
    return {name: SETTINGS[name] for name in names}


@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda candidate: candidate.name)
@pytest.mark.parametrize("cost", COSTS)
def test_a_method_is_as_dear_as_it_may_be_and_no_dearer(candidate: Candidate, cost: int) -> None:
    method = candidate.at(settings_of(candidate), cost)
    if method is None:
        assert cost < 4
        return
    assert method.forwards <= cost
    assert cost - method.forwards < 4  # one evaluation more costs at most three forwards, or two steps of one


def test_lsb_cannot_be_had_for_two_forwards() -> None:
    (lsb,) = (candidate for candidate in CANDIDATES if candidate.name == "lsb")
    assert lsb.at(settings_of(lsb), 2) is None


@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda candidate: candidate.name)
def test_another_strength_costs_no_other_number_of_forwards(candidate: Candidate) -> None:
    strengths = candidate.weaker_and_stronger(settings_of(candidate), (0.001, 1.0, 3.0))
    methods = [candidate.at(settings, TUNED_AT) for settings in strengths]
    assert len({method.forwards for method in methods if method is not None}) == 1
    assert len(methods) == 3


def test_the_dearest_costs_are_left_out_until_the_rest_fits() -> None:
    regimes = (*FREE, *FIXED)
    assert affordable(0.0, 1, 47, 141) == COSTS
    assert affordable(1e9, 1, 47, 141) == (TUNED_AT,)
    few = tuple(cost for cost in COSTS if cost < 100)
    work = len(CANDIDATES) * sum(picture_forwards(regime, few, 47, 141) for regime in regimes)
    assert affordable(60 / work, 1.001, 47, 141) == few


def test_a_trial_within_the_rule_is_better_than_any_outside_it() -> None:
    inside = score(kid=20.0, accuracy=ENOUGH, tone=0.07, limit=0.07)
    assert inside == 20.0
    assert score(kid=5.0, accuracy=ENOUGH - 0.1, tone=0.07, limit=0.07) > inside
    assert score(kid=5.0, accuracy=ENOUGH, tone=0.08, limit=0.07) > inside


def test_rows_of_one_table_are_resampled_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    real, rows = torch.randn(12, 8, generator=generator), torch.randn(9, 8, generator=generator)
    one, other = kernel_samples(rows, real, 50), kernel_samples(rows + 1e-9, real, 50)
    assert np.abs(one - other).max() < 1e-4 < np.abs(one[1:] - one[0]).max()


def test_on_the_exact_problem_every_method_comes_near() -> None:
    points = mixture_points((4,), trials=4)
    assert {point.method for point in points} == {candidate.name for candidate in CANDIDATES}
    assert all(point.distance < 2.0 for point in points), points


@pytest.mark.long  # its parts: above
def test_the_whole_on_few_pictures(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/quality.py", "--quick", "--json", "--work", str(tmp_path / "work")]
    # A script finds its neighbours, which the tests' processes are kept from.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}

    def run(*more: str) -> str:
        made = subprocess.run([*command, *more], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
        return made.stdout

    made = run("--out", str(tmp_path))
    result = json.loads(made[made.index("{\n") :])
    methods = {(row["regime"], row["method"]) for row in result["rows"] if row["kind"] == str(TUNED_AT)}
    assert {(regime.title, candidate.name) for regime in (FREE[0], FIXED[0]) for candidate in CANDIDATES} <= methods
    assert {path.name for path in tmp_path.iterdir()} >= {"quality.md", "quality.png", "quality-sheet.png"}
    assert json.loads(run())["rows"] == result["rows"]  # nothing is made or chosen a second time
