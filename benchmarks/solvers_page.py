"""What `solvers.py` measured, as a page and a plot."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bridge_problems import T0, T_END

GUIDANCES = (0.5, 1.0, 1.5, 2.0, 3.0)
STYLES = {"euler": (":", "s"), "heun": ("--", "^"), "adams_moulton": ("-", "o")}
COLOURS = {"uniform": "tab:blue", "theta": "tab:orange", "logit": "tab:green", "tuned": "tab:red"}
TICKS = (5, 7, 10, 15, 20, 30)


@dataclass(frozen=True)
class Result:
    """One path of one problem. A method error that does not exist is NaN."""

    problem: str
    solver: str
    grid: str
    nfe: int
    forwards: int
    solver_error: float
    method_error: float
    times: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Goal:
    """Euler's error at 8 evaluations, and its multiples: at 4 with tuned times, and with steps even in theta."""

    problem: str
    euler: float
    times: tuple[float, ...]
    tuned: float
    even: dict[int, float]


@dataclass
class Page:
    measured: list[list[Result]]
    goals: list[Goal]
    method: list[tuple[str, str, list[float]]]
    references: list[tuple[str, float]]
    job: list[Result] = field(default_factory=list)


def markdown(page: Page) -> str:
    lines = [
        "# Solvers and grids",
        "",
        f"Made by `{' '.join(['python benchmarks/solvers.py', *sys.argv[1:]])}`. Forwards are network forwards per",
        "image: 2 NFE - 1 with `euler` and `heun`, whose last evaluation asks the target's prompt alone, 2 NFE with",
        "`adams_moulton`.",
        "",
        "Solver error: RMS distance to a fine-step solution of the same ODE. Method error: Wasserstein-2 to p_1",
        f"(mixture: sliced). On the exact problems t runs from {T0} to {T_END}, then one clean prediction.",
        "",
        "![Solver error against forwards per image](solvers.png)",
        "",
        "## The goal: the error of Euler at 8 evaluations, with 4",
        "",
        "Euler at 8 evaluations (15 forwards) and even times, against `adams_moulton`: with 4 evaluations (8 forwards)",
        "at times tuned for the problem, and with 4, 5 and 6 evaluations at steps even in theta, which need no tuning.",
        "Times were chosen on 1024 starts, and the ratios measured on 512 others; a Gaussian problem is affine, and",
        "its few points say everything. A ratio of at most 1 reaches the goal.",
        "",
        "| problem | Euler at 8 | tuned times | ratio at 4, tuned | at 4 | at 5 | at 6 |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in page.goals:
        times = ", ".join(f"{t:.2f}" for t in each.times)
        ratios = " | ".join(f"{each.even[nfe]:.2f}" for nfe in (4, 5, 6))
        lines.append(f"| {each.problem} | {each.euler:.4f} | {times} | {each.tuned:.2f} | {ratios} |")
    lines += [""]
    columns = {"4, tuned": [each.tuned for each in page.goals]}
    columns |= {str(nfe): [each.even[nfe] for each in page.goals] for nfe in (4, 5, 6)}
    lines += [f"- With {name}: {summary(ratios)}." for name, ratios in columns.items()]
    lines += [
        "",
        "Where even steps miss it, the network's answer turns fast on the way: modes far apart with guidance. A few",
        "evaluations must stand where it turns, and where that is depends on model, prompts and settings, so that the",
        "times are a job's own: `lsb.bridge.tuning.tune` finds them.",
        "",
        best_default(page),
        "",
        "## The method's error on the mixture, tau 1.3, solved finely",
        "",
        "| start | noise | " + " | ".join(f"w {w:g}" for w in GUIDANCES) + " |",
        "|---|---|" + "---|" * len(GUIDANCES),
    ]
    for start, noise, errors in page.method:
        lines.append(f"| {start} | {noise} | " + " | ".join(f"{error:.3f}" for error in errors) + " |")
    lines += ["", "| to be read against | error |", "|---|---|"]
    lines += [f"| {name} | {error:.3f} |" for name, error in page.references]
    for results in page.measured:
        lines += [
            "",
            f"## {results[0].problem}",
            "",
            f"Method error of the fine solution: {results[0].method_error:.4f}.",
        ]
        lines += ["", *table(results[1:])]
    if page.job:
        lines += ["", f"## {page.job[0].problem}", "", "In units of the latent; there is no p_1 to measure by."]
        lines += [job_goal(page.job), "", *table(page.job[1:])]
    return "\n".join(lines) + "\n"


def summary(ratios: Sequence[float]) -> str:
    reached = sum(ratio <= 1 for ratio in ratios)
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    return f"reached on {reached} of {len(ratios)}, worst ratio {max(ratios):.2f}, geometric mean {mean:.2f}"


def best_default(page: Page) -> str:
    """How often each solver and grid is the best one, at 6 and at 8 evaluations."""
    wins: dict[str, int] = {}
    groups = [*page.measured, *([page.job] if page.job else [])]
    for results in groups:
        for nfe in (6, 8):
            best = min((each for each in results if each.nfe == nfe), key=lambda each: each.solver_error)
            name = f"`{best.solver}` on `{best.grid}`"
            wins[name] = wins.get(name, 0) + 1
    ranked = sorted(wins.items(), key=lambda item: -item[1])
    count = 2 * len(groups)
    told = ", ".join(f"{name} {number} times" for name, number in ranked)
    return f"The smallest solver error at 6 and at 8 evaluations, {count} cases below: {told}."


def job_goal(results: list[Result]) -> str:
    """How `adams_moulton` with fewer evaluations compares with Euler at even times and 8."""
    euler = next(each for each in results if (each.solver, each.grid, each.nfe) == ("euler", "uniform", 8))
    tuned = next(each for each in results if each.grid == "tuned")
    times = ", ".join(f"{t:.3f}" for t in tuned.times or ())
    ratios = [
        f"{each.solver_error / euler.solver_error:.2f} with {each.nfe} at steps even in theta"
        for each in results
        if (each.solver, each.grid) == ("adams_moulton", "theta") and each.nfe in (4, 5, 6)
    ]
    return (
        f"Of the error of Euler at even times and 8 evaluations, `adams_moulton` leaves "
        f"{tuned.solver_error / euler.solver_error:.2f} with 4 at the times {times}, chosen on training pictures, and "
        f"{', '.join(ratios)}."
    )


def table(results: list[Result]) -> list[str]:
    """Best first within each number of forwards."""
    lines = ["| forwards | NFE | solver | grid | solver error | method error |", "|---|---|---|---|---|---|"]
    for each in sorted(results, key=lambda result: (result.forwards, result.solver_error)):
        method = "-" if math.isnan(each.method_error) else f"{each.method_error:.4f}"
        lines.append(
            f"| {each.forwards} | {each.nfe} | {each.solver} | {each.grid} | {each.solver_error:.4f} | {method} |"
        )
    return lines


def plot(page: Page, file: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    groups = [*page.measured, *([page.job] if page.job else [])]
    columns = 2
    rows = math.ceil((len(groups) + 1) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(11, 4.1 * rows), squeeze=False)
    for axis, results in zip(axes.flat, groups, strict=False):
        for solver, (style, marker) in STYLES.items():
            for grid, colour in COLOURS.items():
                line = [each for each in results if each.solver == solver and each.grid == grid]
                if not line:
                    continue
                spent, errors = [each.forwards for each in line], [each.solver_error for each in line]
                if grid == "tuned":
                    axis.plot(spent, errors, "*", color=colour, markersize=15, label=f"{solver}, {grid}", zorder=3)
                else:
                    axis.plot(spent, errors, style, color=colour, marker=marker, ms=4, label=f"{solver}, {grid}")
        euler = next(each for each in results if (each.solver, each.grid, each.nfe) == ("euler", "uniform", 8))
        axis.axhline(euler.solver_error, color="grey", lw=1, label="euler, uniform, 8 evaluations")
        axis.set(xscale="log", yscale="log", xlabel="network forwards per image")
        axis.set_ylabel("solver error (RMS, units of x)")
        axis.set_xticks(TICKS, [str(tick) for tick in TICKS])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.set_title(results[0].problem, fontsize=11)
    rest = list(axes.flat)[len(groups) :]
    for axis in rest:
        axis.set_axis_off()
    rest[0].legend(*axes.flat[0].get_legend_handles_labels(), loc="center", fontsize=11, frameon=False)
    figure.tight_layout()
    figure.savefig(file, dpi=90, metadata={"Software": None})
    plt.close(figure)
