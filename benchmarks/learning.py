"""What prompts are worth that are learned by other settings than the embedded example's: noise, rate, length, steps.

    python benchmarks/learning.py --json                   # half an hour of one core; a line for each as it comes
    python benchmarks/learning.py --only "sigma 1 to 8"    # one of them

Flat to 3D under the settings of examples/emoji/job.yaml, every third symbol of the validation split; the judge is
`guide`, the figures are those of examples/emoji/choose.py, whose limit of the tone distance is the source's through the
VAE.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "examples" / "emoji"))

from choose import Trial  # noqa: E402
from directions import Workshop  # noqa: E402
from judges import Judge  # noqa: E402
from lsb.config.job import load_config  # noqa: E402
from lsb.metrics.features import EfficientNetLite0  # noqa: E402
from lsb.prompts.settings import LearningConfig  # noqa: E402
from quality import MAIN  # noqa: E402

EXAMPLE = REPOSITORY / "examples" / "emoji"
DEFAULT_NOISE: dict[str, Any] = {"sigma_min": None, "sigma_max": None}
DEFAULT_RATE: dict[str, Any] = {"learning_rate": None, "relative_rate": 0.04}
# What differs from the example's settings.
VARIANTS: dict[str, dict[str, Any]] = {
    "the example's": {},
    "sigma 1 to 8": {"sigma_min": 1.0, "sigma_max": 8.0},
    "default noise": DEFAULT_NOISE,
    "default noise, rate": DEFAULT_NOISE | DEFAULT_RATE,
    "default noise, rate, length": DEFAULT_NOISE | DEFAULT_RATE | {"longest": 2.0},
    "sigma 0.05 to 1": {"sigma_min": 0.05, "sigma_max": 1.0},
    "all defaults": LearningConfig().model_dump(exclude={"templates"}),  # the words around it are the model's own
}


def measured(name: str, trial: Trial, workshop: Workshop) -> dict[str, Any]:
    """The figures of one variant; `longest` are its vectors' lengths in those of the table's median word."""
    config = workshop.config
    learning = LearningConfig.model_validate(config.learning.model_dump() | VARIANTS[name])
    trial.workshop, began = workshop.learning_by(learning), time.process_time()
    tried = trial(config.bridge)
    learned = [trial.workshop.prompts.learned[style] for style in MAIN]
    median = workshop.backbone.table_scale()[1]
    lengths = [
        float(one.prompt.vectors.norm(dim=1).max()) / median for one in learned if one.prompt.vectors is not None
    ]
    return {
        "learning": name,
        "sigmas": [round(sigma, 4) for sigma in learned[0].sigmas],
        "steps": [one.history[-1]["step"] for one in learned],
        "best_step": [one.best_step for one in learned],
        "lengths": [round(length, 2) for length in lengths],
        "images": tried.images,
        "style_accuracy": round(tried.accuracy, 4),
        "kid": None if tried.kid is None else round(tried.kid, 2),
        "tone": round(tried.tone, 4),
        "tone_limit": round(tried.limit, 4),
        "processor_minutes": round((time.process_time() - began) / 60, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=[*VARIANTS])
    parser.add_argument("--step", type=int, default=3, metavar="N", help="every so many symbols")
    parser.add_argument("--json", action="store_true", help="print the results as JSON, each as it comes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    workshop = Workshop.open(load_config(EXAMPLE / "job.yaml"))
    trial = Trial(workshop, Judge("guide"), EfficientNetLite0(), args.step)
    for name in args.only:
        found = measured(name, trial, workshop)
        print(json.dumps(found) if args.json else found, flush=True)


if __name__ == "__main__":
    main()
