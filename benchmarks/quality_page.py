"""What the study found: tables, comparisons in pairs, a plot of quality against cost, a sheet of pictures."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from quality_methods import MARK
from quality_mixture import Point, mixture_points
from quality_study import EXAMPLE, FREE, MAIN, MATCHED, SHOWN, TUNED_AT, Bench, Figures, Regime
from replay import processor

from lsb.metrics.distances import interval, kernel_samples

Row = tuple[Regime, str, str, Figures]
PEERS = ("sdedit", "ddib", "cyclediffusion", "flowedit")
NOT_WORSE = 0.05  # of the way from the source through the VAE to the target through it


class Found:
    """All rows; KID with its resamples is worked out once for each."""

    def __init__(self, rows: Sequence[Row], bench: Bench) -> None:
        self.rows, self.bench = rows, bench
        self._samples: dict[int, np.ndarray] = {}

    def samples(self, row: Row) -> np.ndarray:
        """KID and that of each resample."""
        regime, _, _, figures = row
        if id(figures) not in self._samples:
            real = self.bench.side(regime, "test").real
            self._samples[id(figures)] = kernel_samples(torch.from_numpy(figures.features), real)
        return self._samples[id(figures)]

    def of(self, regime: Regime, method: str, kind: str) -> Row | None:
        return next((row for row in self.rows if row[:3] == (regime, method, kind)), None)

    def regimes(self) -> list[Regime]:
        return list(dict.fromkeys(row[0] for row in self.rows))

    def difference(self, one: Row, other: Row) -> tuple[float, float, float]:
        """KID of one minus that of another, and the central 95 % of the same resamples."""
        samples = self.samples(one) - self.samples(other)
        return (float(samples[0]), *interval(samples[1:][np.isfinite(samples[1:])]))


def write(
    rows: Sequence[Row], bench: Bench, costs: Sequence[int], trials: int, seconds: float, args: argparse.Namespace
) -> None:
    """Print the figures, and write the page with its pictures into `args.out`."""
    found = Found(rows, bench)
    mixture = mixture_points(tuple(costs))
    about = {
        "machine": f"{os.cpu_count()} cores of {processor()}, {torch.get_num_threads()} threads",
        "date": datetime.now(UTC).date().isoformat(),
        "torch": torch.__version__,
        "model": bench.workshop.backbone.identity.digest,
        "judge": bench.judge.digest,
        "guide": bench.guide.digest,
        "costs": list(costs),
        "trials": trials,
        "pictures": len(bench.side(FREE[0], "test").sources.ids),
        "minutes": round(seconds / 60, 1),
    }
    result = {
        "about": about,
        "rows": [as_json(found, row) for row in rows],
        "comparisons": [dict(zip(COMPARED, line, strict=True)) for line in comparisons(found)],
        "mixture": [point._asdict() for point in mixture],
    }
    page = document(found, about, mixture)
    print(json.dumps(result, indent=1) if args.json else page)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "quality.md").write_text(page)
        plot(found, args.out / "quality.png")
        sheet(found).save(args.out / "quality-sheet.png")


def as_json(found: Found, row: Row) -> dict[str, Any]:
    regime, method, kind, figures = row
    samples = found.samples(row)
    low, high = interval(samples[1:])
    return {
        "regime": regime.title,
        "method": method,
        "kind": kind,
        "kid": float(samples[0]),
        "kid_low": low,
        "kid_high": high,
        "style": figures.accuracy,
        "tone": float(figures.tone.mean()),
        **figures.about,
    }


COMPARED = ("regime", "lsb", "other", "difference", "low", "high", "verdict")


def comparisons(found: Found) -> list[tuple[str, str, str, float, float, float, str]]:
    """LSB beside each other method: at the style accuracy that all are brought to, and at their dearest."""
    lines = []
    for regime in found.regimes():
        pairs = [("matched", "matched")]
        pairs += [(str(TUNED_AT), kind) for kind in sorted({row[2] for row in found.rows if row[2].isdigit()}, key=int)]
        of_lsb = [("lsb", ours, theirs) for ours, theirs in pairs] + [(EXAMPLE, str(TUNED_AT), str(TUNED_AT))]
        for which, ours, theirs in of_lsb:
            one = found.of(regime, which, ours)
            for peer in PEERS:
                other = found.of(regime, peer, theirs)
                if one is None or other is None:
                    continue
                value, low, high = found.difference(one, other)
                own = f"{ours} ({forwards(one)})" if which == "lsb" else which.removeprefix("lsb, ")
                names = (own, f"{peer}, {theirs} ({forwards(other)})")
                lines.append((regime.title, *names, value, low, high, verdict(found, regime, low, high)))
    return lines


def forwards(row: Row) -> str:
    return str(row[3].about.get("forwards", ""))


def verdict(found: Found, regime: Regime, low: float, high: float) -> str:
    """Ahead or behind where the whole interval is; no worse where at most NOT_WORSE of the way may be lost."""
    if high < 0:
        return "ahead"
    if low > 0:
        return "behind"
    ends = (found.of(regime, f"{side} through the VAE", "reference") for side in ("source", "target"))
    source, target = (found.samples(row)[0] for row in ends if row is not None)
    return "no worse" if high <= NOT_WORSE * (source - target) else "not shown"


def document(found: Found, about: dict[str, Any], mixture: Sequence[Point]) -> str:
    lines = [
        "# Methods beside each other",
        "",
        f"Made by `python benchmarks/quality.py` on {about['date']} in {about['minutes']} minutes, on "
        f"{about['machine']}, torch {about['torch']}; model `{about['model'][:12]}`, judge `{about['judge'][:12]}`. "
        f"{about['pictures']} test symbols; {about['trials']} trials a method and direction. The protocol is at the "
        "head of the file.",
        "",
    ]
    for regime in found.regimes():
        lines += [f"## {regime.title}", "", *table(found, regime), ""]
    lines += [
        "## In pairs",
        "",
        "KID of LSB at 16 forwards minus the other's, 95 % of a paired bootstrap over pictures. `matched`: each at "
        f"the strength whose style accuracy on validation (`guide`) is nearest to {100 * MATCHED:.0f} %. No worse: the "
        f"upper bound is at most {100 * NOT_WORSE:.0f} % of the way from the source through the VAE to the target's.",
        "",
        "| | LSB | other | KID difference | 95 % | |",
        "| --- | --- | --- | ---: | ---: | --- |",
        *(
            f"| {regime} | {ours} | {theirs} | {value:+.2f} | {low:+.2f} to {high:+.2f} | {said} |"
            for regime, ours, theirs, value, low, high, said in comparisons(found)
        ),
        "",
        "## Where the networks are exact",
        "",
        "Two mixtures in the plane, tau 1. Sliced Wasserstein-2 distance to the target, and how far a point is moved.",
        "",
        "| method | forwards | distance | moved |",
        "| --- | ---: | ---: | ---: |",
        *(f"| {one.method} | {one.forwards} | {one.distance:.4f} | {one.moved:.3f} |" for one in mixture),
        "",
        "![KID and style accuracy against forwards](quality.png)",
        "",
        "![the same symbols, method by method](quality-sheet.png)",
        "",
        f"Flat to 3D, from top to bottom: source, {', '.join(('lsb', *PEERS))} at {TUNED_AT} forwards, the 3D picture.",
        "",
    ]
    return "\n".join(lines)


def table(found: Found, regime: Regime) -> list[str]:
    lines = [
        "| | forwards | KID × 1000 | 95 % | style % | tone | settings |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in found.rows:
        if row[0] != regime:
            continue
        _, method, kind, figures = row
        given = figures.about.get("settings", {})
        dials = [f"{name} {value:.3g}" for name, value in given.items() if isinstance(value, float)]
        dials += [given[MARK]] if given.get(MARK) else []
        title = method if kind == "reference" or kind.isdigit() else f"{method}, {TITLES.get(kind, kind)}"
        one = as_json(found, row)
        lines.append(
            f"| {title} | {one.get('forwards', '')} | {one['kid']:.2f} | {one['kid_low']:.2f} to {one['kid_high']:.2f} "
            f"| {100 * one['style']:.1f} | {one['tone']:.4f} | {', '.join(dials)} |"
        )
    return lines


TITLES = {"back": "target noised to its largest sigma and back", "matched": f"nearest to {100 * MATCHED:.0f} %"}


def plot(found: Found, file: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import ScalarFormatter

    free = [regime for regime in found.regimes() if regime.sigma is None]
    figure, axes = plt.subplots(2, len(free), figsize=(4.2 * len(free), 7), squeeze=False)
    for column, regime in enumerate(free):
        for method in ("lsb", *PEERS):
            line = [as_json(found, row) for row in found.rows if row[:2] == (regime, method) and row[2].isdigit()]
            spent = [one["forwards"] for one in line]
            for place, name, factor in ((0, "kid", 1), (1, "style", 100)):
                axes[place][column].plot(spent, [factor * one[name] for one in line], "o-", ms=4, label=method)
        for place, label in ((0, "KID × 1000"), (1, "style accuracy, %")):
            axis = axes[place][column]
            axis.set(xscale="log", xlabel="network forwards a picture", ylabel=label)
            costs = sorted({int(row[2]) for row in found.rows if row[2].isdigit()})
            axis.set_xticks(costs, [str(cost) for cost in costs])
            axis.minorticks_off()
            axis.grid(alpha=0.3)
        axes[0][column].set(title=regime.title, yscale="log")
        for side in (axes[0][column].yaxis.set_major_formatter, axes[0][column].yaxis.set_minor_formatter):
            side(ScalarFormatter())
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=90, metadata={"Software": None})
    plt.close(figure)


def sheet(found: Found) -> Image.Image:
    """The same symbols in each row: source, each method at 16 forwards, truth."""
    regime = Regime(*MAIN)
    side = found.bench.side(regime, "test")
    rows = [side.sources.images[:SHOWN]]
    for method in ("lsb", *PEERS):
        row = found.of(regime, method, str(TUNED_AT))
        if row is not None:
            rows.append([Image.fromarray(one) for one in row[3].pixels[:SHOWN]])
    rows.append(side.truths.images[:SHOWN])
    width = side.sources.images[0].width
    paper = Image.new("RGB", (SHOWN * width, len(rows) * width), "white")
    for line, images in enumerate(rows):
        for column, image in enumerate(images):
            paper.paste(image, (column * width, line * width))
    return paper
