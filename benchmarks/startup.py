"""What a command costs before it does anything: imports, Prefect's server, a job of which nothing is left to do.

    PYTHONPATH=. python benchmarks/startup.py --json [--job JOB] [--times 5]

Each line is a process of its own, in turn with the others; medians of the seconds that pass and of processor time,
that of a server which the command brings along included. On a machine that others use only processor time, and its
ratio to importing Prefect, which nobody gets around, mean anything. Without a job one of sixteen emoji is made, and run
once.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from benchmarks.pipeline import about_this_machine

HERE = Path(__file__).resolve().parent.parent
COMMAND = "from lsb.cli.main import main; main()"
UNIT = "import prefect"
PACKAGES = ("prefect", "torch", "diffusers", "pyarrow")


def programs(job: Path) -> dict[str, list[str]]:
    """What is measured: arguments of Python, by name."""
    return {
        UNIT: ["-c", "import prefect"],
        "import lsb": ["-c", "import lsb"],
        "lsb --help": ["-c", COMMAND, "--help"],
        "import flows.translate": ["-c", "import flows.translate"],
        "lsb run --dry-run, nothing to do": ["-c", COMMAND, "run", str(job), "--dry-run"],
        "lsb run, nothing to do": ["-c", COMMAND, "run", str(job)],
    }


def took(arguments: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds that pass, and of processor time, until a program has ended."""
    used, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, "-P", *arguments], env=environment, check=True, capture_output=True)  # noqa: S603
    wall, now = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime


def made_job(folder: Path) -> Path:
    """Sixteen emoji, as they come from the embedded data, and a job that translates them in two steps."""
    rows = pq.read_table(HERE / "examples" / "emoji" / "emoji.parquet").to_pylist()
    flat = [row for row in rows if row["style"] == "flat" and row["split"] == "train"][:16]
    (folder / "flat").mkdir()
    for row in flat:
        (folder / "flat" / f"{row['symbol']}.webp").write_bytes(row["image"])
    job = {
        "name": "startup",
        "store": str(folder / "store"),
        "model": str(HERE / "examples" / "emoji" / "model"),
        "source": {"domain": "flat", "path": str(folder / "flat")},
        "prompts": {"source": {"text": "flat icon"}, "target": {"domain": "3d", "text": "3d icon"}},
        "bridge": {"tau": 0.1, "t0": 0.1, "nfe": 2},
        "execution": {"batch": 16, "device": "cpu"},
        "evaluate": {"measure": False},
    }
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(job))
    return file


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--job", type=Path, help="of which nothing is left to do")
    options.add_argument("--times", type=int, default=5)
    options.add_argument("--json", action="store_true", help="print JSON")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {**os.environ, "PYTHONPATH": str(HERE), "XDG_STATE_HOME": name, "PREFECT_HOME": f"{name}/prefect"}
        environment.pop("PREFECT_API_URL", None)
        job = chosen.job or made_job(folder)
        measured = programs(job)
        took(measured["lsb run, nothing to do"], environment)  # what there is to do, and the server's database
        samples: dict[str, list[tuple[float, float]]] = {program: [] for program in measured}
        for _ in range(chosen.times):
            for program, arguments in measured.items():
                samples[program].append(took(arguments, environment))
    found = {
        program: [round(statistics.median(of), 2) for of in zip(*times, strict=True)]
        for program, times in samples.items()
    }
    unit = found[UNIT][1]
    rows = [
        {"program": program, "wall_seconds": wall, "processor_seconds": used, "ratio": round(used / unit, 2)}
        for program, (wall, used) in found.items()
    ]
    if chosen.json:
        versions = {name: metadata.version(name) for name in PACKAGES}
        print(json.dumps({**about_this_machine(), "versions": versions, "times": chosen.times, "rows": rows}, indent=2))
        return
    for row in rows:
        print(
            "{program:36} {wall_seconds:7.2f} s, {processor_seconds:6.2f} s of a processor, {ratio:5.2f}".format(**row)
        )


if __name__ == "__main__":
    main()
