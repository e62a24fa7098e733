"""Seconds and memory of the ledger's two largest pieces of arithmetic, on made-up runs without a model.

    python benchmarks/ledger.py                                   a few minutes, most of them making the runs
    python benchmarks/ledger.py --out docs/benchmarks/ledger.md

`verify` checks a finished run of 100,000 rows in shards of 1,000 with two snapshots; every output is in the store, none
is read (`--sample 0`). `plan` freezes a run over a data set of 1,000,000 records, 5 % of them copies and 1 % unusable.
Each is measured in a process of its own, from its start to its end, imports included; peak memory is `ru_maxrss`.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # this process stays small: a child's ru_maxrss is never below what its parent had
    from collections.abc import Iterator

    import pyarrow as pa

    from lsb.ledger.dataset import Dataset
    from lsb.ledger.run import Run, RunSpec
    from lsb.store.local import LocalStore

DOCUMENT = "# The ledger's arithmetic"
SHARD_SIZE = 1000


@dataclass(frozen=True)
class Task:
    """Something to measure, and the bars it is held to."""

    name: str
    what: str
    count: int
    seconds: float
    mebibytes: float


@dataclass(frozen=True)
class Measured:
    seconds: float
    processor: float  # seconds, of all cores together
    mebibytes: float
    said: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the run that is verified")
    parser.add_argument("--records", type=int, default=1_000_000, help="records of the run that is planned")
    parser.add_argument("--out", type=Path, help="where to write the table")
    parser.add_argument("--child", nargs=3, metavar=("STEP", "STORE", "COUNT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        step, store, count = arguments.child
        print(STEPS[step](Path(store), int(count)))
        return
    tasks = [
        Task("verify", "verify without image bytes", arguments.rows, 20, 1024),
        Task("plan", "plan", arguments.records, 30, 2048),
    ]
    lines = []
    for task in tasks:
        with tempfile.TemporaryDirectory() as folder:
            making = run_child(f"make-{task.name}", folder, task.count)
            print(f"made what `{task.name}` needs in {making.seconds:.0f} s: {making.said}", file=sys.stderr)
            measured = run_child(task.name, folder, task.count)
        lines.append(
            f"| {task.what} | {task.count:,} | {measured.seconds:.1f} | {task.seconds:g} "
            f"| {measured.processor:.1f} | {measured.mebibytes:,.0f} | {task.mebibytes:,.0f} | {measured.said} |"
        )
    text = "\n".join(
        [
            DOCUMENT,
            "",
            f"Made by `python benchmarks/ledger.py` on {machine()}. Each row is one process, imports included;",
            "the store is a folder. The bars are those that the project set itself.",
            "",
            "| what | rows | seconds | bar | CPU seconds | peak MiB | bar | result |",
            "|---|---:|---:|---:|---:|---:|---:|---|",
            *lines,
            "",
        ]
    )
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


def run_child(step: str, folder: str, count: int) -> Measured:
    """One step in a process of its own."""
    command = [sys.executable, __file__, "--child", step, folder, str(count)]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:  # noqa: S603
        assert child.stdout is not None
        said = child.stdout.read().strip()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if child.returncode:
        sys.exit(f"step {step} ended with {child.returncode}")
    return Measured(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, said)


def machine() -> str:
    """Processor, cores, system."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores of {model}, Python {platform.python_version()}"


def verify(folder: Path, count: int) -> str:
    from lsb.audit import verify
    from lsb.store.local import LocalStore

    store = LocalStore(folder)
    (run,) = (path.name for path in (folder / "runs").iterdir())
    verdict = verify(store, run, sample=0)
    if verdict.exit_code or verdict.checked["rows"] < 0.98 * count:
        sys.exit(f"{verdict.findings[:3]} {verdict.checked}")
    return f"{verdict.checked['rows']:,} rows in {verdict.checked['row files']} files intact"


def plan(folder: Path, count: int) -> str:
    from lsb.ledger.run import create_run
    from lsb.store.local import LocalStore

    store = LocalStore(folder)
    run = create_run(store, spec(store, dataset_of(store, count)))
    return f"{run.plan['shards']:,} shards"


def make_plan(folder: Path, count: int) -> str:
    """A data set."""
    from lsb.store.local import LocalStore

    made = make_dataset(LocalStore(folder), count)
    return f"{made.records:,} records, {made.duplicates:,} copies, {made.quarantined:,} unusable"


def make_verify(folder: Path, count: int) -> str:
    """A finished run with two snapshots."""
    import pyarrow.compute as pc

    from lsb.ledger.plan import read_plan
    from lsb.ledger.publish import publish
    from lsb.ledger.run import create_run
    from lsb.store.local import LocalStore

    store = LocalStore(folder)
    run = create_run(store, spec(store, make_dataset(store, count)))
    planned = read_plan(store, run)
    shards = run.shards()
    for number, shard in enumerate(shards):
        commit(store, run, shard, planned.filter(pc.equal(planned["shard"], shard)))
        if number == len(shards) // 2:
            publish(store, run, {}, b"page", partial=True)
    publish(store, run, {}, b"page")
    return run.id


def make_dataset(store: LocalStore, count: int) -> Dataset:
    """`count` records with digests, without any file behind them: the second of each 20 a copy of the first, the eighth
    of each 100 unusable."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from lsb.ledger import layout
    from lsb.ledger.dataset import version_of
    from lsb.ledger.schemas import RECORDS, write_table

    names, own = (pa.chunked_array(columns) for columns in zip(*_names_and_digests(count), strict=True))
    order = pc.sort_indices(own)  # a record's id is the beginning of its name's digest
    names, own = names.take(order), own.take(order)
    del order
    ids = pc.utf8_slice_codeunits(own, 0, 32)
    places = pa.array(range(count), pa.int64())
    copy = pc.equal(_remainder(places, 20), 1)
    unusable = pc.equal(_remainder(places, 100), 7)
    before = pc.max_element_wise(pc.subtract(places, 1), 0)
    nothing = {name: pa.scalar(None, RECORDS.arrow.field(name).type) for name in RECORDS.arrow.names}
    columns = {
        "record_id": ids,
        "key": names,
        "sha256": pc.if_else(copy, own.take(before), own),
        "bytes": pa.repeat(1000, count),
        "etag": pc.cast(places, pa.string()),
        "format": pc.if_else(unusable, None, "PNG"),
        "mode": pc.if_else(unusable, None, "RGB"),
        "width": pc.if_else(unusable, nothing["width"], pa.scalar(512, pa.int32())),
        "height": pc.if_else(unusable, nothing["height"], pa.scalar(512, pa.int32())),
        "orientation": pc.if_else(unusable, nothing["orientation"], pa.scalar(1, pa.int8())),
        "status": pc.if_else(unusable, "quarantined", "ok"),
        "error_code": pc.if_else(unusable, "truncated", nothing["error_code"]),
        "error_detail": pc.if_else(unusable, "truncated", nothing["error_detail"]),
        "duplicate_of": pc.if_else(copy, ids.take(before), nothing["duplicate_of"]),
    }
    table = pa.table([columns[name] for name in RECORDS.arrow.names], schema=RECORDS.arrow)
    store.write(layout.dataset_records("made-up", version_of(table)), write_table(table, RECORDS))
    return dataset_of(store, count)


def _names_and_digests(count: int) -> Iterator[tuple[pa.Array, pa.Array]]:
    import pyarrow as pa

    from lsb.records import sha256

    for start in range(0, count, 100_000):
        numbers = range(start, min(start + 100_000, count))
        names = [f"folder-{number % 100:02d}/picture-{number:07d}.png" for number in numbers]
        yield pa.array(names), pa.array([sha256(name.encode()) for name in names])


def _remainder(numbers: pa.Array, divisor: int) -> pa.Array:
    import pyarrow.compute as pc

    return pc.subtract(numbers, pc.multiply(pc.divide(numbers, divisor), divisor))


def dataset_of(store: LocalStore, count: int) -> Dataset:
    """The data set that `make_dataset` made."""
    from lsb.ledger.dataset import Dataset
    from lsb.records import sha256

    (entry,) = store.list("datasets")
    return Dataset(
        name="made-up",
        version=entry.key.split("/")[2],
        records=count,
        quarantined=len(range(7, count, 100)),
        duplicates=len(range(1, count, 20)),
        key=entry.key,
        sha256=sha256(store.read(entry.key)),
    )


def spec(store: LocalStore, dataset: Dataset, shard_size: int = SHARD_SIZE) -> RunSpec:
    """A run with prompts of plain bytes."""
    from lsb.bridge.settings import BridgeSettings
    from lsb.ledger.layout import prompt_file
    from lsb.ledger.run import RunSpec
    from lsb.ledger.transform import ModelIdentity, transform_settings
    from lsb.pictures.images import LETTERBOX_RULES, decoding_version
    from lsb.records import digest_of, sha256

    files = {"unet/model.safetensors": "0" * 64}
    identity = ModelIdentity(id="made-up", revision=None, digest=digest_of(files), files=files)
    ids, prompts = {}, {}
    for side in ("source", "target"):
        ids[side] = sha256(side.encode())
        prompts[side] = prompt_file(side, ids[side], learned=False)
        store.write(prompts[side], side.encode())
    transform = transform_settings(identity, ids["source"], ids["target"], BridgeSettings(), "0", "float32", "png")
    return RunSpec(
        job="made-up",
        dataset=dataset,
        transform=transform,
        model=identity,
        shard_size=shard_size,
        prompts=prompts,
        decoding=decoding_version(LETTERBOX_RULES),
        source="made-up",
    )


def commit(store: LocalStore, run: Run, shard: str, planned: pa.Table) -> None:
    """One commit with a row for each record of the shard, and its outputs."""
    from datetime import UTC, datetime

    from lsb.ledger import layout
    from lsb.ledger.rows import ok_row
    from lsb.ledger.run import open_log
    from lsb.ledger.schemas import MANIFEST, write_table
    from lsb.records import sha256

    attempt, now = sha256(shard.encode())[:16], datetime.now(UTC)
    evidence = {
        "shard": shard,
        "attempt": attempt,
        "tries": 1,
        "device": "cpu: made up",
        "dtype": "float32",
        "batch": 8,
        "instruction_set": "AVX2",
        "code_version": "0",
        "code_commit": "0" * 40,
        "packages_sha256": "0" * 64,
    }
    rows: list[dict[str, Any]] = []
    outputs: dict[str, str] = {}
    for row in planned.to_pylist():
        leader = row["duplicate_of"] or row["record_id"]
        key = layout.output_file(run.id, shard, attempt, leader, "png")
        if key not in outputs:
            # Not through the store, which waits for the disk after each.
            (store.root / key).parent.mkdir(parents=True, exist_ok=True)
            (store.root / key).write_bytes(leader.encode())
            outputs[key] = sha256(leader.encode())
        result = {
            "started": now,
            "finished": now,
            "output_key": key,
            "output_sha256": outputs[key],
            "pixels_sha256": outputs[key],
            "output_bytes": len(leader),
            "output_format": "png",
            "output_width": 512,
            "output_height": 512,
            "scores": [("output_contrast", 0.25), ("structure_distance", 0.1), ("tone_distance", 0.05)],
        }
        rows.append(ok_row(run, row, evidence, result))
    key = layout.rows_file(run.id, shard, attempt, 0)
    data = write_table(MANIFEST.table(rows), MANIFEST)
    store.write(key, data)
    folder = layout.shard_folder(run.id, shard) + "/"
    files = {name.removeprefix(folder): digest for name, digest in {**outputs, key: sha256(data)}.items()}
    open_log(store, run, shard).append(
        None, attempt=attempt, files=files, rows=key.removeprefix(folder), features=None, counts={"ok": len(rows)}
    )


STEPS = {"verify": verify, "plan": plan, "make-verify": make_verify, "make-plan": make_plan}

if __name__ == "__main__":
    main()
