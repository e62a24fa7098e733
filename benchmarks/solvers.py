"""Two errors against network forwards, for every solver and grid: the solver's and the method's.

    python benchmarks/solvers.py                                   the exact problems
    python benchmarks/solvers.py --job examples/emoji/job.yaml     also a job's model, prompts, settings and pictures

The solver's error is the RMS distance to a fine-step solution of the same ODE from the same points. The method's error
is the Wasserstein-2 distance of the result to p_1: in closed form for Gaussians, sliced over 16 directions with exact
quantiles for the mixture. Writes `solvers.md` and `solvers.png`.

The embedded job's pictures come from `python examples/emoji/unpack.py`; its prompts are learned at the first call.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from bridge_problems import (
    Problem,
    draws,
    gaussian_problem,
    mixture_bridge,
    mixture_problem,
    sliced_distance,
)
from solvers_page import GUIDANCES, Goal, Page, Result, markdown, plot
from torch import Tensor

from lsb.bridge.clock import THETA, Clock
from lsb.bridge.flow import Flow, LsbFlow
from lsb.bridge.grid import even, grid_of
from lsb.bridge.settings import BridgeSettings
from lsb.bridge.solve import integrate
from lsb.bridge.solvers import SOLVERS
from lsb.bridge.solvers.adams_moulton import adams_moulton, finish
from lsb.bridge.tuning import tune
from lsb.bridge.velocity import LsbPredictors, sigma

BUDGETS = (3, 4, 5, 6, 8, 9, 16)
JOB_BUDGETS = (4, 5, 6, 8)
TUNED_NFE = 4
FINE_STEPS = 100


def flow_of(problem: Problem, clock: Clock) -> Flow:
    base = problem.base
    if problem.exact is not None:
        return Flow(problem.exact, clock, base.tau, base.guidance)
    return LsbFlow(LsbPredictors(problem.predict, base.tau, base.noise), clock, base.tau, base.guidance)


def solve(problem: Problem, settings: BridgeSettings) -> Tensor:
    """The clean result of one path, of the shape of the problem's start."""
    grid = grid_of(settings)
    flow = flow_of(problem, grid.clock)
    x, history = integrate(problem.start, grid, SOLVERS[settings.solver].step, flow)
    ending = SOLVERS[settings.solver].finish
    if ending is not None:
        end = grid.clock.position(settings.t_n)
        x, answers = ending(x, grid.nodes[-1], end, flow, history)
        return flow.clean(x, end, answers)
    return clean(problem, x)


def solve_finely(problem: Problem, steps: int = FINE_STEPS) -> Tensor:
    """The same with many steps, the middle one of them at the kink of `switch`."""
    flow = flow_of(problem, THETA)
    x = problem.start
    for first, last in ((problem.base.t0, 0.5), (0.5, problem.base.t_end)):
        grid = even(THETA, first, last, steps)
        x, history = integrate(x, grid, adams_moulton, flow)
        x, answers = finish(x, grid.nodes[-1], grid.nodes[-1], flow, history)
    return flow.clean(x, THETA.position(problem.base.t_end), answers)


def clean(problem: Problem, x: Tensor) -> Tensor:
    t = problem.base.t_end
    if problem.exact is not None:
        return problem.exact(x, t).x_1_hat
    level = sigma(t, problem.base.tau)
    return x - level * problem.predict(x, level, "target").to(x.dtype)


def path(problem: Problem, **changes: object) -> BridgeSettings:
    """The problem's settings with another solver, grid or number of evaluations."""
    plain = {"solver": "euler", "grid": "uniform", "times": None}
    return BridgeSettings.model_validate(problem.base.model_dump() | plain | changes)


def rms(problem: Problem, one: Tensor, other: Tensor) -> float:
    """Root mean square over the starts and the coordinates; for an affine error a + B z, |a|² + |B|²."""
    error = (one - other).double()
    if problem.affine:
        columns = error[1:] - error[0]
        return float((((error[0] ** 2).sum() + (columns**2).sum()) / error.shape[1]).sqrt())
    return float(error.square().mean().sqrt())


def tuned(problem: Problem, fine_steps: int, nfe: int = TUNED_NFE) -> BridgeSettings:
    """The best times for `nfe` evaluations on the problem's tuning starts, which are not the ones measured."""
    other = replace(problem, start=problem.tuning)
    fine = solve_finely(other, fine_steps)
    return tune(
        path(problem, nfe=nfe, solver="adams_moulton"),
        lambda settings: rms(other, solve(other, settings), fine),
        trials=80,
    )


def paths(problem: Problem, budgets: Sequence[int], best: BridgeSettings) -> list[BridgeSettings]:
    """Every solver and grid at every number of evaluations, and the tuned one."""
    found = []
    for nfe, grid in product(budgets, ("uniform", "theta", "logit")):
        solvers = [name for name, solver in SOLVERS.items() if (nfe - 1) % solver.evaluations == 0]
        found += [path(problem, nfe=nfe, grid=grid, solver=solver) for solver in solvers]
    return [*found, best]


def measure(problem: Problem, budgets: Sequence[int] = BUDGETS, fine_steps: int = FINE_STEPS) -> list[Result]:
    """All paths of one problem; the first row is the fine solution's."""
    fine = solve_finely(problem, fine_steps)
    results = [Result(problem.name, "fine", "theta", 0, 0, 0.0, problem.distance(fine))]
    for settings in paths(problem, budgets, tuned(problem, fine_steps)):
        x = solve(problem, settings)
        results.append(
            Result(
                problem.name,
                settings.solver,
                settings.grid,
                settings.nfe,
                settings.forwards,
                rms(problem, x, fine),
                problem.distance(x),
                settings.times,
            )
        )
    return results


def main_problems() -> list[Problem]:
    return [
        gaussian_problem(1.3, 1, "mix", exact=True),
        gaussian_problem(1.3, 2, "mix", exact=False),
        mixture_problem(1.3, 1, "mix", exact=True),
        mixture_problem(1.3, 1, "mix", exact=False),
        mixture_problem(1.3, 2, "mix", exact=False),
        mixture_problem(1.3, 2, "switch", exact=False),
    ]


def goals() -> list[Goal]:
    """Against the error of Euler at even times and 8 evaluations, over a sweep of problems."""
    rows = []
    for build, tau, guidance, noise in product(
        (gaussian_problem, mixture_problem), (0.6, 1.3, 2.3), (1.0, 2.0), ("mix", "switch")
    ):
        problem = build(tau, guidance, noise, False)
        fine = solve_finely(problem)

        def error(settings: BridgeSettings, problem: Problem = problem, fine: Tensor = fine) -> float:
            return rms(problem, solve(problem, settings), fine)

        euler = error(path(problem, nfe=8))
        best = tuned(problem, FINE_STEPS)
        even_ratios = {
            nfe: error(path(problem, nfe=nfe, solver="adams_moulton", grid="theta")) / euler for nfe in (4, 5, 6)
        }
        rows.append(Goal(problem.name, euler, best.times or (), error(best) / euler, even_ratios))
    return rows


def method_rows() -> list[tuple[str, str, list[float]]]:
    """Method error of the fine solution on the mixture: start and noise predictor against guidance."""
    rows = []
    for start, noise in product(("published", "centred"), ("switch", "mix")):
        problems = [mixture_problem(1.3, guidance, noise, False, start) for guidance in GUIDANCES]
        rows.append((start, noise, [problem.distance(solve_finely(problem)) for problem in problems]))
    return rows


def reference_rows() -> list[tuple[str, float]]:
    """What the method's error on the mixture is to be read against."""
    bridge = mixture_bridge(1.3)
    uniform, normal, _ = draws()
    distance = sliced_distance(bridge.marginal(1.0))
    exact = mixture_problem(1.3, 1, "mix", exact=True)
    return [
        ("source unchanged", distance(bridge.marginal(0.0).sample(uniform, normal))),
        ("exact predictors, fine solution", exact.distance(solve_finely(exact))),
        ("samples of p_1 itself (the floor)", distance(bridge.marginal(1.0).sample(uniform, normal))),
    ]


def main() -> None:
    here = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=here / "docs" / "benchmarks")
    parser.add_argument("--job", type=Path, help="a job's file, such as examples/emoji/job.yaml")
    parser.add_argument("--images", type=int, help="how many of the job's pictures; all by default")
    parser.add_argument("--fine", type=int, default=16, help="the job's fine steps on each side of t = 1/2")
    args = parser.parse_args()
    started = time.monotonic()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.set_default_dtype(torch.float64)
    measured = [measure(problem) for problem in main_problems()]
    page = Page(measured, goals(), method_rows(), reference_rows())
    print(f"exact problems: {time.monotonic() - started:.0f} s", flush=True)
    if args.job is not None:
        from emoji_problem import emoji_problem

        page.job = measure(emoji_problem(args.job, args.images), JOB_BUDGETS, args.fine)
    text = markdown(page)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "solvers.md").write_text(text)
    plot(page, args.out / "solvers.png")
    print(text)
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
