"""The study: how good each method is at which cost, in one protocol, on the embedded model.

    python benchmarks/quality.py --work out/study               # `make study`; goes on where it was ended
    python benchmarks/quality.py --work out/quick --quick       # some minutes: the same on few pictures

Each method's settings are chosen for one direction at 16 forwards a picture: 24 trials (Optuna's TPE) on every third
validation symbol, by the rule of examples/emoji/choose.py: the least KID where the judge `guide` calls at least 93 %
the target style and the tone distance is not above that of the source through the VAE. At other costs only the strength
is chosen again, of four. Figures are of the test symbols and of the judge `judge`, which chose nothing. Prompts are the
styles' own words; each method's trials find out whether it does better with the model's word `restored` before them.

Flat to 3D is done thrice: with each method's noise level free, and fixed at the largest that the bridge has at tau
0.575 and at tau 2, which is tau / 2. If all of it would take more than `--minutes`, costs are left out, the dearest
first. Writes `quality.md`, `quality.png` and `quality-sheet.png` into `--out`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import optuna

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "examples" / "emoji"))

from quality_page import write  # noqa: E402
from quality_study import (  # noqa: E402
    FIXED,
    FREE,
    TRIALS,
    TUNED_AT,
    Bench,
    Workshop,
    affordable,
    measured_forward,
    study,
)

from lsb.config.job import load_config  # noqa: E402

QUICK_BATCH = 3


def affordable_costs(bench: Bench, kept: Path, minutes: float) -> tuple[int, ...]:
    """As measured when the study began: one that goes on when the machine is busier has the same rows."""
    if not kept.exists():
        validation, test = (len(bench.side(FREE[0], split).sources.ids) for split in ("validation", "test"))
        kept.write_text(json.dumps(affordable(measured_forward(bench), minutes, validation, test)))
    return tuple(json.loads(kept.read_text()))


def spent(kept: Path, seconds: float) -> float:
    """Seconds of all calls that came to their end, this one's added."""
    before = json.loads(kept.read_text()) if kept.exists() else 0.0
    kept.write_text(json.dumps(before + seconds))
    return float(before + seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "examples" / "emoji" / "job.yaml")
    parser.add_argument("--model", help="another model than the job's")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "study", help="where rows and trials are kept")
    parser.add_argument("--minutes", type=float, default=100, help="that all of it may take here")
    parser.add_argument(
        "--quick", action="store_true", help="every 24th symbol, 2 trials, costs 4 and 16, flat to 3D alone"
    )
    parser.add_argument("--out", type=Path, help="a folder for quality.md and its pictures")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    config = load_config(args.config)
    config = config.model_copy(update={"model": args.model}) if args.model else config
    if args.quick:  # a batch is filled up, whatever is asked for
        config = config.model_copy(update={"execution": config.execution.model_copy(update={"batch": QUICK_BATCH})})
    workshop = Workshop.open(config)
    work = args.work / workshop.backbone.identity.digest[:12]  # what another model made is another study
    bench = Bench(workshop, work, 24 if args.quick else 1)
    started = time.monotonic()
    if args.quick:
        regimes, costs, trials = (FREE[0], FIXED[0]), (4, TUNED_AT), 2
    else:
        regimes, costs, trials = (
            (*FREE, *FIXED),
            affordable_costs(bench, work / "costs.json", args.minutes),
            TRIALS,
        )
    rows = list(study(bench, regimes, costs, trials))
    write(rows, bench, costs, trials, spent(work / "seconds.json", time.monotonic() - started), args)


if __name__ == "__main__":
    main()
