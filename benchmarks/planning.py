"""Seconds and memory of what looks at a whole run, on made-up runs without a model and without pictures.

    PYTHONPATH=. python benchmarks/planning.py --rows 100000 1000000 --json

Of so many records, 5 % of them copies and 1 % unusable, in shards of 1,000: the plan is frozen; shards read their part
of it; every shard commits, and then the run is looked at and published with its page, of which no picture can be read.
Each step is a process of its own. Memory is the peak of the resident set beside what the imports take.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

STEPS = ("ingest", "ingest again", "plan", "shard", "commit", "pending", "status", "page", "publish", "trace")
MADE_BY = ("plan", "commit")  # what the others look at, but for these
ALONE = {"ingest", "ingest again", "plan"}
PACKAGES = ("pyarrow", "numpy")
SHARDS_READ = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000])
    parser.add_argument("--only", nargs="*", default=[], help="report these steps alone")
    parser.add_argument("--folder", type=Path, help="where the runs are made, and kept; by default a temporary one")
    parser.add_argument("--json", action="store_true", help="print JSON, not lines")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--child", nargs=3, metavar=("STEP", "STORE", "ROWS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        step, store, count = args.child
        print(json.dumps(in_child(step, Path(store), int(count))))
        return
    found: dict[str, Any] = {}
    for count in args.rows:
        folder = (args.folder or Path(tempfile.mkdtemp())) / str(count)
        wanted = [step for step in STEPS if not args.only or step in args.only]
        needed = [*wanted] if folder.exists() or {*wanted} <= ALONE else [*MADE_BY, *wanted]
        if not folder.exists():
            measured("dataset", folder, count)
        found[str(count)] = steps = {}
        for step in (step for step in STEPS if step in needed):
            answer = measured(step, folder, count)
            if step in wanted:
                steps[step] = answer
        if args.folder is None:
            shutil.rmtree(folder.parent)
    document = {
        "benchmark": "planning",
        "rows": found,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "date": datetime.now(UTC).date().isoformat(),
    }
    text = json.dumps(document, indent=2)
    if args.json:
        print(text)
    else:
        for rows, steps in found.items():
            for step, one in steps.items():
                print(f"{int(rows):>10,} {step:8} {one}")
    if args.out:
        args.out.write_text(text + "\n")


def measured(step: str, folder: Path, count: int) -> dict[str, Any]:
    """What a process of its own says of one step."""
    command = [sys.executable, __file__, "--child", step, str(folder), str(count)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


def in_child(step: str, folder: Path, count: int) -> dict[str, Any]:
    """Seconds, processor seconds and memory of one step, and what it says."""
    from lsb.store.local import LocalStore

    act = prepared(step, LocalStore(folder), count)
    imports = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, processor = time.perf_counter(), time.process_time()
    said = act()
    return {
        "seconds": round(time.perf_counter() - start, 3),
        "processor": round(time.process_time() - processor, 3),
        "mebibytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - imports) >> 10,
        "said": said,
    }


def prepared(step: str, store: Any, count: int) -> Callable[[], Any]:
    from benchmarks.ledger import dataset_of, make_dataset, spec
    from lsb.ledger.run import create_run, open_run
    from lsb.store.local import LocalStore

    if step == "dataset":
        return lambda: make_dataset(store, count).records
    if step.startswith("ingest"):
        listed = LocalStore(store.root.with_name(f"{count}-listed"))  # the other data set is alone in its store
        return lambda: ingest_listing(listed, count)
    if step == "plan":
        return lambda: create_run(store, spec(store, dataset_of(store, count))).id
    run = open_run(store, next((store.root / "runs").iterdir()).name)
    steps: dict[str, Callable[[], Any]] = {
        "shard": lambda: read_shards(store, run),
        "commit": lambda: commit_all(store, run),
        "pending": lambda: pending_of(store, run),
        "status": lambda: status_of(store, run),
        "page": lambda: page(store, run),
        "publish": lambda: publish_with_page(store, run),
        "trace": lambda: trace_one(store, run),
    }
    return steps[step]


def ingest_listing(store: Any, count: int) -> int:
    """Records of a listing of so many files, of which none is read."""
    from lsb.pictures.ingest import ingest
    from lsb.store.store import Entry

    class Bucket:
        uri = "made-up://bucket"

        def list(self) -> list[Entry]:
            names = (f"folder-{number % 100:02d}/picture-{number:07d}.png" for number in range(count))
            return [Entry(name, 1000, f"{place:032x}", 1.6e9 + place) for place, name in enumerate(names)]

        def read(self, key: str) -> bytes:
            raise AssertionError(f"{key} is read, though a listing is enough")

    return ingest(Bucket(), "listed", store, read="listing").records


def read_shards(store: Any, run: Any) -> dict[str, float]:
    """Milliseconds that a shard needs for its part of the plan, in rows as it works with them."""
    from lsb.ledger.plan import SAMPLE, read_shard_plan

    shards = run.shards()
    chosen = shards[:: max(1, len(shards) // SHARDS_READ)]
    times = []
    for shard in chosen:
        start = time.perf_counter()
        read_shard_plan(store, run, shard, SAMPLE)[0].to_pylist()
        times.append(1000 * (time.perf_counter() - start))
    return {"mean ms a shard": round(sum(times) / len(times), 1), "most": round(max(times), 1)}


def commit_all(store: Any, run: Any) -> int:
    """One commit for each shard."""
    for shard in run.shards():
        commit_shard(store, run, shard)
    return len(run.shards())


def commit_shard(store: Any, run: Any, shard: str, planned: Any = None) -> dict[str, int]:
    """A commit of rows as a job makes them, and of outputs that nobody wrote; rows by status.

    Args:
        planned: what of the plan is in the shard, with the digests of pictures; what was planned by default.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from lsb.ledger import layout
    from lsb.ledger.plan import SAMPLE, read_shard_plan
    from lsb.ledger.rows import ok_row
    from lsb.ledger.run import open_log
    from lsb.ledger.schemas import MANIFEST, write_table
    from lsb.records import sha256

    now = datetime.now(UTC)
    planned = read_shard_plan(store, run, shard, SAMPLE)[0] if planned is None else planned
    attempt = sha256(shard.encode())[:16]
    evidence: Any = {"shard": shard, "attempt": attempt, "tries": 1, "device": "cpu: made up", "dtype": "float32"}
    evidence |= {"batch": 8, "batch_padding": 0, "instruction_set": "AVX2", "code_version": "0"}
    evidence |= {"code_commit": "0" * 40, "packages_sha256": "0" * 64}
    scores = [("output_contrast", 0.25), ("structure_distance", 0.1), ("tone_distance", 0.05)]
    result: Any = {"output_bytes": 1000, "output_format": "png", "output_width": 512, "output_height": 512}
    result |= {"working_width": 512, "working_height": 512, "output_scale": 1.0, "output_limited": False}
    result |= {"started": now, "finished": now, "scores": scores}
    (row,) = planned.slice(0, 1).to_pylist()
    table = MANIFEST.table([ok_row(run, row, evidence, result)]).take(pa.array([0] * planned.num_rows))
    leaders = pc.coalesce(planned["duplicate_of"], planned["record_id"])
    folder = f"{layout.shard_folder(run.id, shard)}/"
    keys = pc.binary_join_element_wise(f"{folder}{attempt}/", leaders, ".png", "")
    columns = {"record_id": planned["record_id"], "source_key": planned["key"], "output_key": keys}
    columns |= dict.fromkeys(("source_sha256", "output_sha256", "pixels_sha256"), planned["sha256"])
    for name, column in columns.items():
        place = MANIFEST.arrow.get_field_index(name)
        table = table.set_column(place, MANIFEST.arrow.field(place), column)
    data = write_table(table, MANIFEST)
    key = layout.rows_file(run.id, shard, attempt, 0)
    store.write(key, data)
    names = pc.utf8_slice_codeunits(keys, len(folder)).to_pylist()
    files = dict(zip(names, planned["sha256"].to_pylist(), strict=True))
    files[key.removeprefix(folder)] = sha256(data)
    open_log(store, run, shard).append(
        None,
        attempt=attempt,
        files=files,
        rows=key.removeprefix(folder),
        features=None,
        counts={"ok": planned.num_rows},
        started=now,
    )
    return {"ok": planned.num_rows}


def pending_of(store: Any, run: Any) -> int:
    from lsb.ledger.run import pending

    return len(pending(store, run))


def status_of(store: Any, run: Any) -> dict[str, int]:
    from lsb.views.status import status

    return status(store, run).records


def page(store: Any, run: Any) -> int:
    from lsb.ledger.gates import Gates
    from lsb.ledger.manifest import collect
    from lsb.store.scratch import ScratchStore
    from lsb.views.page_contents import page_of

    return len(page_of(store, run, None, ScratchStore(None))(collect(store, run, gates=Gates())))


def publish_with_page(store: Any, run: Any) -> dict[str, int]:
    from lsb.ledger.publish import publish
    from lsb.store.scratch import ScratchStore
    from lsb.views.page_contents import page_of

    return publish(store, run, {}, page_of(store, run, None, ScratchStore(None))).counts


def trace_one(store: Any, run: Any) -> int:
    from lsb.views.trace import trace

    return len(trace(store, run.id, "folder-00/picture-0000000.png"))


if __name__ == "__main__":
    main()
