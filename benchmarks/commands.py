"""How much memory whole commands take for a million pictures, beside what they take for a few.

    PYTHONPATH=. python benchmarks/commands.py --json

The pictures are files without content, of which `source.read: listing` reads none. They are ingested and planned by
`lsb plan`; the rows of all shards are committed without a model, their outputs are empty files, too; then the run is
published and looked at. Each command is a process of its own, started as a user would. Its memory is the largest
resident set among itself and the processes that it waited for, that of Prefect's server included; `beside` is what
this is more than that of the same command on a few pictures, which has the same imports and the same model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent.parent
COMMAND = ["-P", "-c", "from lsb.cli.main import main; main()"]
PACKAGES = ("pyarrow", "numpy", "prefect", "torch")
FEW = 100
COMMITTED = "commit"  # not a command: between them, what workers would do
ONE_MORE = "plan, one picture more"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--shard-size", type=int, default=500)
    parser.add_argument("--only", nargs="*", default=[], help="these commands alone, of a run that --folder holds")
    parser.add_argument("--model", type=Path, default=HERE / "examples" / "emoji" / "model")
    parser.add_argument("--folder", type=Path, help="where all is made, and kept; by default a temporary one")
    parser.add_argument("--json", action="store_true", help="print JSON, not lines")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--commit", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.commit:
        commit_all(args.commit)
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = args.folder or Path(temporary)
        few = measured(root / str(FEW), FEW, args)
        many = measured(root / str(args.pictures), args.pictures, args)
    for name, one in many.items():
        one["beside"] = one["mebibytes"] - few[name]["mebibytes"]
    document = {
        "benchmark": "commands",
        "pictures": args.pictures,
        "shard size": args.shard_size,
        "commands": many,
        f"of {FEW} pictures": few,
        "machine": f"{os.cpu_count()} cores, Python {sys.version.split()[0]}",
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "date": datetime.now(UTC).date().isoformat(),
    }
    text = json.dumps(document, indent=2)
    print(text if args.json else "\n".join(f"{name:24} {one}" for name, one in many.items()))
    if args.out:
        args.out.write_text(text + "\n")


def measured(folder: Path, count: int, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds, processor seconds and peak memory of each command."""
    folder.mkdir(parents=True, exist_ok=True)
    job = folder / "job.yaml"
    if not job.exists():
        make_pictures(folder / "pictures", count)
        job.write_text(yaml.safe_dump(job_of(folder, args.model.resolve(), args.shard_size)))
    found = {}
    for name, arguments in commands(folder):
        if not args.only or name in args.only:
            if name == ONE_MORE:
                (folder / "pictures" / "one-more.png").touch()
            found[name] = ran(arguments, folder)
            print(f"{count} {name}: {found[name]}", file=sys.stderr, flush=True)
    found.pop(COMMITTED, None)
    return found


def commands(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Names and arguments of Python, in the order in which they can be run."""
    job = str(folder / "job.yaml")
    yield "optimise", [*COMMAND, "optimise", job]
    yield "run --dry-run", [*COMMAND, "run", job, "--dry-run"]
    yield "ingest", [*COMMAND, "ingest", job]
    yield "plan", [*COMMAND, "plan", job]
    run = str(first_run(folder / "store"))
    yield COMMITTED, [__file__, "--commit", str(folder)]
    yield "status", [*COMMAND, "status", run]
    yield "publish", [*COMMAND, "publish", run]
    yield "run, nothing to do", [*COMMAND, "run", job]
    yield "ls", [*COMMAND, "ls", str(folder / "store")]
    yield "verify --sample 0", [*COMMAND, "verify", run, "--sample", "0"]
    yield "export", [*COMMAND, "export", run, str(folder / "exported")]
    yield "trace", [*COMMAND, "trace", name_of(0), "--run", run]
    yield "rerun --dry-run", [*COMMAND, "rerun", run, "--dry-run", "--status", "failed"]
    yield ONE_MORE, [*COMMAND, "plan", job]


def first_run(store: Path) -> Path:
    """Of the two that there are once a picture has come."""
    return min((store / "runs").glob("*/run.json"), key=lambda file: file.stat().st_mtime).parent


def ran(arguments: list[str], folder: Path) -> dict[str, Any]:
    """One of them, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(HERE), "XDG_STATE_HOME": str(folder / "state")}
    environment.pop("PREFECT_API_URL", None)
    begun = time.monotonic()
    with (folder / "said.txt").open("ab") as said:
        child = subprocess.Popen([sys.executable, *arguments], env=environment, cwd=folder, stdout=said, stderr=said)  # noqa: S603
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{' '.join(arguments)} ended with {child.returncode}; see {folder / 'said.txt'}")
    return {
        "seconds": round(time.monotonic() - begun, 1),
        "processor": round(usage.ru_utime + usage.ru_stime, 1),
        "mebibytes": usage.ru_maxrss >> 10,
    }


def name_of(number: int) -> str:
    return f"folder-{number % 100:02d}/picture-{number:07d}.png"


def make_pictures(folder: Path, count: int) -> None:
    """Files without content, each with a time of its own: one for all would say nothing."""
    for number in range(count):
        path = folder / name_of(number)
        if number < 100:
            path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1_600_000_000 + number,) * 2)


def job_of(folder: Path, model: Path, shard_size: int) -> dict[str, Any]:
    """A job that translates them."""
    return {
        "name": "made-up",
        "store": str(folder / "store"),
        "model": str(model),
        "source": {"domain": "flat", "path": str(folder / "pictures"), "read": "listing"},
        "prompts": {"source": {"text": "flat icon"}, "target": {"domain": "3d", "text": "3d icon"}},
        "execution": {"shard_size": shard_size, "device": "cpu"},
        "evaluate": {"measure": False},
    }


def commit_all(folder: Path) -> None:
    """One commit for each shard without any, and an empty file for each output."""
    import pyarrow as pa

    from benchmarks.planning import commit_shard
    from lsb.ledger.plan import SAMPLE, read_shard_plan
    from lsb.ledger.run import open_log, open_run, pending
    from lsb.records import sha256
    from lsb.store.local import LocalStore

    store = LocalStore(folder / "store")
    run = open_run(store, first_run(store.root).name)
    for shard in pending(store, run):
        planned = read_shard_plan(store, run, shard, SAMPLE)[0]
        place = planned.schema.get_field_index("sha256")
        read = planned.set_column(place, planned.schema.field(place), pa.repeat(sha256(b""), planned.num_rows))
        commit_shard(store, run, shard, read)
        for key in open_log(store, run, shard).entries()[0].digests():
            (store.root / key).parent.mkdir(parents=True, exist_ok=True)
            (store.root / key).touch()


if __name__ == "__main__":
    main()
