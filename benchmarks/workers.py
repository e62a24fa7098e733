"""Several `lsb work` on one run, of which some are killed and one is stopped: what is made twice, and what comes out.

    PYTHONPATH=. python benchmarks/workers.py --json                                       about ten minutes on 2 cores
    PYTHONPATH=. python benchmarks/workers.py --out docs/benchmarks/workers.md

The embedded model translates emoji in as many processes as there are workers, all on this machine and on one folder. A
third of the way two workers are killed and a third is stopped (SIGSTOP), until its lease is old, the others have done
its shard and come to their end; then it is woken. Before that one `lsb run` makes the same pictures alone. Each process
notes every picture that its model has made, so that what is made twice is counted and not guessed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from textwrap import fill
from typing import Any

import psutil
import yaml

from examples.emoji.unpack import unpack
from lsb.audit import verify
from lsb.cli.main import main as command
from lsb.config.job import JobConfig, load_config
from lsb.jobs import loading
from lsb.jobs.job import object_uri, run_spec
from lsb.jobs.lineage import planned_as, prompts_of_job
from lsb.ledger import layout
from lsb.ledger.publish import manifest_table
from lsb.ledger.run import open_run
from lsb.models.load import identify
from lsb.pictures.ingest import ingest
from lsb.pictures.sources import open_sources
from lsb.store.store import open_store
from lsb.translation.model import Model

REPOSITORY = Path(__file__).parents[1]
NOTES = "LSB_BENCHMARK_NOTES"
LSB = [sys.executable, "-P", "-c", "from benchmarks.workers import noting; noting()"]


@dataclass(frozen=True)
class Outcome:
    """What a fleet has done. Times in seconds."""

    records: int
    shards: int
    workers: int
    killed: int
    stopped: int
    made: int  # pictures, by all models
    twice: int  # of them beyond one each
    twice_with_a_killed: int  # of these, where a killed worker had made one
    twice_with_a_stopped: int  # of the others, where a stopped one had
    rows: int  # in the manifest
    same_pixels_as_lsb_run: bool | None  # None if not compared
    verified: int  # exit code of `lsb verify`
    exit_codes: dict[str, int]  # of workers, by number of them
    shares: list[int]  # pictures that each worker made
    alone_seconds: float  # `lsb run` by itself
    together_seconds: float  # until the last worker ended, but for those that were stopped


class Noting:
    """A translator that notes the digest of each source that it has translated."""

    def __init__(self, translator: Any) -> None:
        self._translator = translator
        self._file = Path(os.environ[NOTES])
        self.batch = translator.batch

    def translate(self, images: Sequence[Any], digests: Sequence[str], **options: Any) -> list[Any]:
        made = list(self._translator.translate(images, digests, **options))
        with self._file.open("a") as notes:
            notes.write("".join(f"{digest}\n" for digest in digests))
        return made


load_model = loading.load_model


def load_noting(*arguments: Any) -> Model:
    """In the process with the model."""
    model = load_model(*arguments)
    return Model(Noting(model.translator), model.scorer)


def noting() -> None:
    """`lsb`, whose model's process takes notes."""
    loading.load_model = load_noting
    command()


class Worker:
    """An `lsb` in a process of its own."""

    def __init__(self, folder: Path, name: str, *arguments: str) -> None:
        self.notes, self._log = folder / f"{name}.notes", folder / f"{name}.log"
        self._orphans: list[psutil.Process] = []
        self.notes.touch()
        path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH", ""))))
        environment = {**os.environ, "PYTHONPATH": path, NOTES: str(self.notes), "OMP_NUM_THREADS": "1"}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603
                [*LSB, *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def made(self) -> list[str]:
        return self.notes.read_text().split()

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def kill(self) -> None:
        """The command alone: the process with its model finds that out by itself, as it would anywhere."""
        self._orphans = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()

    def end(self) -> int:
        """Wait for it and for what it has left behind; its exit code."""
        code = self.process.wait()
        psutil.wait_procs(self._orphans)
        if code not in (0, -signal.SIGKILL):
            sys.exit(f"a worker ended with {code}:\n{self._log.read_text()}")
        return code


def write_job(folder: Path, store: str, records: int, shard_size: int) -> Path:
    """A job over so many emoji."""
    pictures = folder / "pictures"
    if not pictures.exists():
        unpack(REPOSITORY / "examples/emoji/emoji.parquet", folder / "emoji")
        pictures.mkdir()
        for file in sorted((folder / "emoji/flat/train").iterdir())[:records]:
            shutil.copy2(file, pictures)
    settings = {
        "name": "emoji",
        "store": str(folder / store),
        "model": str(REPOSITORY / "examples/emoji/model"),
        "source": {"domain": "flat", "path": str(pictures)},
        "prompts": {"source": {"text": "flat icon"}, "target": {"domain": "3d", "text": "3d icon"}},
        "bridge": {"tau": 0.1, "t0": 0.1, "nfe": 2},
        "execution": {"batch": 4, "shard_size": shard_size, "device": "cpu"},
        "evaluate": {"measure": False},
    }
    job = folder / f"{store}.yaml"
    job.write_text(yaml.safe_dump(settings))
    return job


def plan(config: JobConfig) -> str:
    """As `lsb ingest`, `optimise` and `plan` do; the run's id."""
    store, identity = open_store(config.store, create=True), identify(config.model, **config.model_options)
    dataset = ingest(open_sources(config.source.path), config.source.domain, store)
    return planned_as(store, run_spec(config, dataset, *prompts_of_job(store, config, identity), identity)).id


def measure(
    folder: Path, records: int, shard_size: int, workers: int, killed: int, stopped: int, *, alone: bool = True
) -> Outcome:
    """Let a fleet translate.

    Args:
        alone: compare its pixels with those of one `lsb run`.
    """
    seconds, expected = 0.0, {}
    if alone:
        job = write_job(folder, "alone", records, shard_size)
        start = time.monotonic()
        Worker(folder, "alone", "run", str(job)).end()
        seconds = time.monotonic() - start
        expected = pixels(load_config(job))
    config = load_config(write_job(folder, "together", records, shard_size))
    store, run_id = open_store(config.store, create=True), plan(config)
    uri = object_uri(store, layout.run_folder(run_id))
    run = open_run(store, run_id)
    start = time.monotonic()
    fleet = [Worker(folder, f"worker-{number}", "work", uri) for number in range(workers)]
    lost: list[Worker] = []
    asleep: list[Worker] = []
    while len(lost) + len(asleep) < killed + stopped:
        wait_until(lambda: made_by(fleet) >= records * (len(lost) + len(asleep) + 1) // 8)
        one = in_the_middle([worker for worker in fleet if worker not in [*lost, *asleep]], shard_size)
        if len(lost) < killed:
            one.kill()
            lost.append(one)
        else:
            one.process.send_signal(signal.SIGSTOP)
            asleep.append(one)
    others = [one for one in fleet if one not in asleep]
    codes = [one.end() for one in others]
    together = time.monotonic() - start
    for one in asleep:
        one.process.send_signal(signal.SIGCONT)
    codes += [one.end() for one in asleep]
    Worker(folder, "publish", "publish", uri).end()

    count = Counter(digest for one in fleet for digest in one.made)
    twice = {digest: number - 1 for digest, number in count.items() if number > 1}
    by_killed = twice.keys() & {digest for one in lost for digest in one.made}
    by_stopped = twice.keys() & {digest for one in asleep for digest in one.made}
    table = manifest_table(store, run)
    return Outcome(
        records=records,
        shards=len(run.shards()),
        workers=workers,
        killed=killed,
        stopped=stopped,
        made=count.total(),
        twice=sum(twice.values()),
        twice_with_a_killed=sum(twice[digest] for digest in by_killed),
        twice_with_a_stopped=sum(twice[digest] for digest in by_stopped - by_killed),
        rows=len(set(table["record_id"].to_pylist())),
        same_pixels_as_lsb_run=pixels(config) == expected if alone else None,
        verified=verify(store, run_id).exit_code,
        exit_codes={str(code): number for code, number in Counter(codes).items()},
        shares=[len(set(one.made)) for one in fleet],
        alone_seconds=round(seconds, 1),
        together_seconds=round(together, 1),
    )


def pixels(config: JobConfig) -> dict[str, str]:
    """Of a store's one run: the digest of each output's pixels by its source's key."""
    store = open_store(config.store)
    (folder,) = store.folders("runs/")
    rows = manifest_table(store, open_run(store, folder.removeprefix("runs/"))).to_pylist()
    return {row["source_key"]: row["pixels_sha256"] for row in rows}


def in_the_middle(fleet: Sequence[Worker], shard_size: int) -> Worker:
    """One that has made something of its shard that is not committed, as soon as there is one."""
    while True:
        for one in fleet:
            if len(one.made) % shard_size and not one.ended:
                return one
        if all(one.ended for one in fleet):
            sys.exit("every worker has ended before it could be met in the middle of a shard")
        time.sleep(0.02)


def made_by(fleet: Sequence[Worker]) -> int:
    """Pictures."""
    return sum(len(one.made) for one in fleet)


def wait_until(what: Callable[[], bool]) -> None:
    while not what():
        time.sleep(0.02)


def page(found: Outcome) -> str:
    """The result as a page."""
    of = lambda number: f"{number} ({number / found.records:.1%})"  # noqa: E731
    lost, asleep = found.twice_with_a_killed, found.twice_with_a_stopped
    rows = {
        "pictures": found.records,
        "pictures that the models made": found.made,
        "made twice": of(found.twice),
        "of these, by a killed worker and by who took its shard over": f"{lost}, of {found.killed} workers",
        "of these, by the stopped worker and by who took its shard over": asleep,
        "of these, otherwise": of(found.twice - lost - asleep),
        "rows in the manifest": found.rows,
        "pixels as those of one `lsb run`": "the same, all" if found.same_pixels_as_lsb_run else "OTHERS",
        "`lsb verify`": found.verified,
        "pictures that each worker made": ", ".join(map(str, found.shares)),
        "seconds until the last ended": f"{found.together_seconds:.0f} ({found.alone_seconds:.0f} of one `lsb run`)",
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    text = (
        f"Made by `python benchmarks/workers.py` on {date.today().isoformat()}, on {os.cpu_count()} processors of "
        f"{platform.machine()}, Python {platform.python_version()}: {found.workers} × `lsb work` on one run of "
        f"{found.records} emoji in {found.shards} shards, with the embedded model, on one folder. {found.killed} were "
        f"killed and {found.stopped} was stopped in the middle of their work; the latter was woken when all others had "
        "ended. Every process notes what its model has made. The workers share the processors, so that the seconds say "
        "nothing but that the last ones waited for the stopped one's lease to be old."
    )
    return "\n".join(["# Several workers on one run", "", fill(text, 120), "", "| | |", "|---|---|", *lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=400, help="pictures")
    parser.add_argument("--shard-size", type=int, default=10, help="pictures in a shard")
    parser.add_argument("--workers", type=int, default=8, help="`lsb work` at a time")
    parser.add_argument("--killed", type=int, default=2, help="of them")
    parser.add_argument("--stopped", type=int, default=1, help="of them, until all others have ended")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help="where to write the page")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(
            Path(folder),
            arguments.records,
            arguments.shard_size,
            arguments.workers,
            arguments.killed,
            arguments.stopped,
        )
    print(json.dumps(asdict(found), indent=2) if arguments.json else page(found))
    if arguments.out:
        arguments.out.write_text(page(found))


if __name__ == "__main__":
    main()
