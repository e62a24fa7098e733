"""Requests to object storage for each stage of a job, counted where they are sent, repetitions included.

    python benchmarks/s3_requests.py --out docs/benchmarks/s3_requests.md

A job of emoji through the `lsb` command and the embedded model, its pictures and its ledger on a SeaweedFS of this
machine. The number of requests depends on images, shards and commits, not on the model or the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from examples.object_server import ObjectServer

HERE = Path(__file__).resolve().parent.parent
METHODS = {
    "put_object": "PUT",
    "get_object": "GET",
    "head_object": "HEAD",
    "list_objects_v2": "LIST",
    "delete_object": "DELETE",
}
COLUMNS = list(METHODS.values())
STAGES = ("ingest", "optimise", "plan", "translate", "publish", "run")


READING = """
Three requests an image are the least: one to take it in, one to read it for translation, one to write the output.
`publish` reads pictures for the metric sample of 16, each once, and for the page (30 pairs), `verify` every output.
The rest does not grow with the images but with shards and commits: a shard costs a listing of its log, the plan and
`run.json`, and per commit a row file, features and the log entry. 20 requests at the start find out whether the store
honours conditional creation.
"""


class Counting(logging.Handler):
    """Counts the lines that the store logs, one for each request."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.counts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        if record.args:
            self.counts[METHODS[str(record.args[0])]] += 1

    def take(self) -> Counter[str]:
        counts, self.counts = self.counts, Counter()
        return counts


def make_job(folder: Path, uri: str, images: int, shard_size: int) -> Path:
    """Pictures in the store, a job over them in a file."""
    from lsb.store.store import open_store

    rows = pq.read_table(HERE / "examples" / "emoji" / "emoji.parquet").to_pylist()
    flat = [row for row in rows if row["style"] == "flat" and row["split"] == "train"][:images]
    store = open_store(uri)
    for row in flat:
        store.write(f"flat/{row['symbol']}.webp", row["image"])
    job = {
        "name": "requests",
        "store": f"{uri}/ledger",
        "model": str(HERE / "examples" / "emoji" / "model"),
        "source": {"domain": "flat", "path": f"{uri}/flat"},
        "prompts": {"source": {"text": "flat icon"}, "target": {"domain": "3d", "text": "3d icon"}},
        "bridge": {"tau": 0.1, "t0": 0.1, "nfe": 2},
        "execution": {"batch": 16, "shard_size": shard_size, "device": "cpu"},
        "evaluate": {"sample": 16},
    }
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(job))
    return file


def lsb(*arguments: str) -> str:
    """What a command prints."""
    from lsb.cli.main import run_command

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = run_command(list(arguments))
    if code:
        raise SystemExit(f"lsb {' '.join(arguments)} ended with {code}")
    return out.getvalue()


def measure(folder: Path, uri: str, images: int, shard_size: int) -> dict[str, Counter[str]]:
    """Requests of each stage."""
    from lsb.cli.environment import prepare

    prepare()
    job = str(make_job(folder, uri, images, shard_size))
    counting = Counting()
    log = logging.getLogger("lsb.store.s3")
    log.addHandler(counting)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    found = {}
    counting.take()
    for stage in STAGES:
        answer = json.loads(lsb(stage, job, "--json"))
        found[stage] = counting.take()
    for command in ("status", "verify"):
        lsb(command, answer["run"])
        found[command] = counting.take()
    return found


def markdown(found: dict[str, Counter[str]], images: int, shards: int) -> str:
    names = {"run": "`lsb run` once more, nothing to do"}
    lines = [
        "# Requests to object storage",
        "",
        f"Made by `python benchmarks/s3_requests.py --images {images} --shard-size {images // shards}`: "
        f"{images} images, {shards} shards, one commit each.",
        "",
        f"| stage | {' | '.join(COLUMNS)} | all | per image |",
        f"|---|{'---|' * (len(COLUMNS) + 2)}",
    ]
    for stage, counts in found.items():
        cells = [str(counts[column]) for column in COLUMNS]
        total = sum(counts.values())
        lines.append(f"| {names.get(stage, f'`lsb {stage}`')} | {' | '.join(cells)} | {total} | {total / images:.2f} |")
    return "\n".join(lines) + "\n" + READING


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--shard-size", type=int, default=32)
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ObjectServer(Path(folder, "objects")) as server:
        os.environ.update(server.environment)
        found = measure(Path(folder), f"{server.uri}/requests", args.images, args.shard_size)
    text = markdown(found, args.images, -(-args.images // args.shard_size))
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
