"""How long shards take from first to last, beside what the translator alone takes for the same pictures.

    PYTHONPATH=. python benchmarks/shard.py --json [--images 96] [--scores]

The embedded model translates pictures of 64 px in a process of its own. First it is asked for all of them with nothing
beside it; then the same pictures are read, decoded, translated, encoded, written and committed, in a folder of this
machine; then it is asked again with nothing beside it. `ratio` is the time of the shards over the mean of the two times
of the translator alone; with `--scores` the scorer's own time is told apart from it. On a machine that others use only
`processor_ratio` means anything: processor seconds of all processes together, over those of the translator alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Semaphore
from typing import Any

import psutil

from benchmarks.pipeline import about_this_machine, one_shard, photograph
from lsb.bridge.settings import BridgeSettings
from lsb.ledger.plan import read_plan
from lsb.ledger.run import create_run
from lsb.models.load import NETWORKS, load_backbone
from lsb.models.prompt import Prompt
from lsb.pictures.encoding import encode
from lsb.pictures.sources import open_sources
from lsb.store.local import LocalStore
from lsb.translation.engine import Engine
from lsb.translation.model import Model
from lsb.translation.model_process import ModelProcess
from tests.ledger import equipment, run_spec, tasks

MODEL = Path(__file__).resolve().parent.parent / "examples" / "emoji" / "model"
SIDE = 64


class Timed:
    """Says in a file how long each call of one method took, of this clock and of the process's processors."""

    def __init__(self, under: Any, name: str, file: Path) -> None:
        self._under, self._name, self._file = under, name, file

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._under, name)
        return partial(self._call, found) if name == self._name else found

    def _call(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        wall, used = time.perf_counter(), time.process_time()
        try:
            return method(*arguments, **options)
        finally:
            took = {self._name: [time.perf_counter() - wall, time.process_time() - used]}
            with self._file.open("a") as file:
                file.write(json.dumps(took) + "\n")


def build(batch: int, nfe: int, scores: bool, file: Path) -> Model:
    """In the model's process."""
    from lsb.metrics.features import EfficientNetLite0
    from lsb.metrics.scores import Scorer

    backbone = load_backbone(str(MODEL), device="cpu")
    settings = BridgeSettings(tau=0.1, t0=0.1, nfe=nfe)
    engine = Engine(backbone, Prompt("a flat icon"), Prompt("a 3d icon"), settings, "0", batch)
    scorer = Timed(Scorer(EfficientNetLite0("cpu")), "score", file) if scores else None
    return Model(Timed(engine, "translate", file), scorer)


def told(file: Path) -> Counter[str]:
    """What the process has said since it was last asked: seconds, and processor seconds, by method."""
    found: Counter[str] = Counter()
    for line in file.read_text().splitlines():
        for name, (wall, used) in json.loads(line).items():
            found[name] += wall
            found[f"{name} processor"] += used
    file.write_text("")
    return found


def processor_seconds() -> float:
    """Of this process and of all that descend from it, as long as these live."""
    everybody = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(times.user + times.system for times in (one.cpu_times() for one in everybody))


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    store, pictures, file = LocalStore(folder / "ledger"), LocalStore(folder / "pictures"), folder / "told"
    images = [photograph(index, SIDE) for index in range(arguments.images)]
    for index, image in enumerate(images):
        pictures.write(f"{index:05d}.png", encode(image, "png"))
    sources = open_sources(str(folder / "pictures"))
    run = create_run(store, run_spec(store, sources, shard_size=-(-arguments.images // arguments.shards)))
    digests: Sequence[str] = read_plan(store, run)["sha256"].to_pylist()
    file.touch()
    made = partial(build, arguments.batch, arguments.nfe, arguments.scores, file)
    with ModelProcess(made, batch=arguments.batch, limit=3600, imports=NETWORKS) as model:

        def alone() -> Counter[str]:
            for start in range(0, arguments.images, arguments.batch):
                some = slice(start, start + arguments.batch)
                model.make(tasks(images[some], digests[some]))
            return told(file)

        model.make(tasks(images[: arguments.batch], digests[: arguments.batch]))
        here = equipment(sources, model)
        here.decoder.decode(pictures.read("00000.png"))
        told(file)
        before = alone()
        used, begun = processor_seconds(), time.perf_counter()
        with ThreadPoolExecutor(2) as threads:
            outcomes = list(threads.map(partial(one_shard, store, run, here, Semaphore()), run.shards()))
        seconds, used = time.perf_counter() - begun, processor_seconds() - used
        beside, after = told(file), alone()
    if any(not outcome.finished or set(outcome.counts) != {"ok"} for outcome in outcomes):
        raise SystemExit("a shard did not come to its end")
    own = (before["translate"] + after["translate"]) / 2
    processor = (before["translate processor"] + after["translate processor"]) / 2
    scorer = {name: (before[name] + after[name]) / 2 for name in ("score", "score processor")}
    return {
        "seconds": round(seconds, 2),
        "translator_alone": [round(one["translate"], 2) for one in (before, after)],
        "translator_beside_the_rest": round(beside["translate"], 2),
        "scorer_alone": round(scorer["score"], 2),
        "ratio": round(seconds / own, 3),
        "scorer_over_translator": round(scorer["score processor"] / processor, 3),
        "processor_seconds": round(used, 2),
        "processor_ratio": round(used / processor, 3),
        "processor_ratio_without_the_scorer": round((used - beside["score processor"]) / processor, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--nfe", type=int, default=8)
    parser.add_argument("--scores", action="store_true", help="also score each picture")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = measure(Path(place), arguments)
    settings = {name: value for name, value in vars(arguments).items() if name != "json"}
    found = {"settings": settings, **about_this_machine(), "threads": os.environ.get("OMP_NUM_THREADS"), **found}
    if arguments.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        for name, value in found.items():
            print(f"{name:<36}{value}")


if __name__ == "__main__":
    main()
