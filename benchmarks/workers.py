"""Several `lsb work` on one run, of which some are killed and one is stopped: what is made twice, and what comes out.

    PYTHONPATH=. python benchmarks/workers.py --json                                       about ten minutes on 2 cores
    PYTHONPATH=. python benchmarks/workers.py --runner ray --json               likewise `local`, and `prefect`
    PYTHONPATH=. python benchmarks/workers.py --kept docs/benchmarks/workers.json --out docs/benchmarks/workers.md

The embedded model translates emoji in as many processes as there are workers, all on this machine and on one folder. A
third of the way two workers are killed and a third is stopped (SIGSTOP), until its lease is old, the others have done
its shard and come to their end; then it is woken. Before that one `lsb run` makes the same pictures alone. Each process
notes every picture that its model has made, so that what is made twice is counted and not guessed.

With a runner, one `lsb run` starts two copies of the loop in its place, of which one is killed: processes of this
machine, tasks of a Ray cluster, or flow runs of two workers of a pool, of which one is killed with all that it has
started.
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
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from textwrap import fill
from typing import Any

import psutil
import yaml

from examples.emoji.unpack import unpack
from flows.runners import local
from lsb.audit import verify
from lsb.cli.environment import prepare
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
from tests.prefect_parts import DEPLOYMENT_FILE, POOL, PrefectServer
from tests.prefect_parts import Worker as PrefectWorker
from tests.ray_cluster import RayCluster

REPOSITORY = Path(__file__).parents[1]
NOTES, COPIES, RUNNER = "LSB_BENCHMARK_NOTES", "LSB_BENCHMARK_COPIES", "LSB_BENCHMARK_RUNNER"
RUNNERS = ("work", "local", "ray", "prefect")
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


def note_by_process() -> None:
    """This process, a copy that a runner has started, takes notes under its own number."""
    notes = Path(os.environ[COPIES], f"{os.getpid()}.notes")
    notes.touch()
    os.environ[NOTES] = str(notes)
    loading.load_model = load_noting


def noted_copy() -> None:
    """A copy on this machine."""
    note_by_process()
    local.main()


def noted_task(document: dict[str, Any]) -> dict[str, str]:
    """A copy in a worker of Ray's."""
    from flows.runners import ray_cluster

    note_by_process()
    return dict(ray_cluster.work.fn(document))


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
    local.COMMAND = [*LSB[:-1], "from benchmarks.workers import noted_copy; noted_copy()"]
    if os.environ.get(RUNNER) == "ray":
        prepare()  # before Prefect is imported
        from prefect import task

        from flows.runners import ray_cluster

        ray_cluster.WORK = task(noted_task, name="work", persist_result=False)
    command()


class Worker:
    """An `lsb` in a process of its own."""

    def __init__(self, folder: Path, name: str, *arguments: str, **variables: str) -> None:
        self.notes, self._log = folder / f"{name}.notes", folder / f"{name}.log"
        self._orphans: list[psutil.Process] = []
        self.notes.touch()
        path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH", ""))))
        environment = {**os.environ, "PYTHONPATH": path, NOTES: str(self.notes), "OMP_NUM_THREADS": "1"}
        environment |= variables
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603
                [*LSB, *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

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


def write_job(folder: Path, store: str, records: int, shard_size: int, **execution: Any) -> Path:
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
        "execution": {"batch": 4, "shard_size": shard_size, "device": "cpu", **execution},
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


def by_one_command(folder: Path, records: int, shard_size: int) -> tuple[float, dict[str, str]]:
    """How long one `lsb run` takes, and the pixels that it makes."""
    job = write_job(folder, "alone", records, shard_size)
    start = time.monotonic()
    Worker(folder, "alone", "run", str(job)).end()
    return time.monotonic() - start, pixels(load_config(job))


def measure(
    folder: Path, records: int, shard_size: int, workers: int, killed: int, stopped: int, *, alone: bool = True
) -> Outcome:
    """Let a fleet translate.

    Args:
        alone: compare its pixels with those of one `lsb run`.
    """
    seconds, expected = by_one_command(folder, records, shard_size) if alone else (0.0, {})
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


class Copies:
    """What the processes of a runner's copies have noted, by the numbers of these."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    @property
    def made(self) -> dict[int, list[str]]:
        return {int(file.stem): file.read_text().split() for file in self.folder.glob("*.notes")}

    def in_the_middle(self, parent: Worker, least: int, shard_size: int, among: Callable[[], set[int]] | None) -> int:
        """One that has made something of its shard that is not committed, once all have made so many."""
        while not parent.ended:
            made = self.made
            for number, pictures in made.items():
                there = psutil.pid_exists(number) and (among is None or number in among())
                if there and len(pictures) % shard_size and sum(map(len, made.values())) >= least:
                    return number
            time.sleep(0.02)
        sys.exit("the run has ended before a copy could be met in the middle of a shard:\n" + parent.log)


def measure_runner(folder: Path, runner: str, records: int, shard_size: int, *, alone: bool = True) -> Outcome:
    """Let two copies of a runner translate, and kill one."""
    seconds, expected = by_one_command(folder, records, shard_size) if alone else (0.0, {})
    copies = Copies(folder / "copies")
    told = {COPIES: str(copies.folder), RUNNER: runner}
    with ExitStack() as stack:
        execution: dict[str, Any] = {"runner": runner, "parallel": 2}
        among, kill = None, lambda number: psutil.Process(number).kill()
        if runner == "ray":
            (folder / "ray").mkdir()
            cluster = stack.enter_context(RayCluster(folder / "ray", **told, OMP_NUM_THREADS="1"))
            told |= cluster.environment
            execution["ray"] = {"address": cluster.address, "num_gpus": 0}
        elif runner == "prefect":
            server, workers = _pool(stack, folder / "pool", told)
            told |= {name: server.environment[name] for name in ("PREFECT_API_URL", "NO_PROXY")}
            execution["pool"] = POOL
            first = psutil.Process(workers[0].process.pid)
            among = lambda: {child.pid for child in first.children(recursive=True)}  # noqa: E731
            kill = lambda number: workers[0].kill()  # noqa: E731
        job = write_job(folder, "together", records, shard_size, **execution)
        start = time.monotonic()
        parent = Worker(folder, "parent", "run", str(job), **told)
        met = copies.in_the_middle(parent, records // 4, shard_size, among)
        kill(met)
        code = parent.end()
        together = time.monotonic() - start
    config = load_config(job)
    store = open_store(config.store)
    (name,) = store.folders("runs/")
    run = open_run(store, name.removeprefix("runs/"))
    made = copies.made
    count = Counter(digest for pictures in made.values() for digest in pictures)
    twice = {digest: number - 1 for digest, number in count.items() if number > 1}
    return Outcome(
        records=records,
        shards=len(run.shards()),
        workers=2,
        killed=1,
        stopped=0,
        made=count.total(),
        twice=sum(twice.values()),
        twice_with_a_killed=sum(number for digest, number in twice.items() if digest in made[met]),
        twice_with_a_stopped=0,
        rows=len(set(manifest_table(store, run)["record_id"].to_pylist())),
        same_pixels_as_lsb_run=pixels(config) == expected if alone else None,
        verified=verify(store, run.id).exit_code,
        exit_codes={str(code): 1},
        shares=[len(pictures) for pictures in made.values()],
        alone_seconds=round(seconds, 1),
        together_seconds=round(together, 1),
    )


def _pool(stack: ExitStack, folder: Path, variables: dict[str, str]) -> tuple[PrefectServer, list[PrefectWorker]]:
    """A server, and two workers that are online."""
    server = stack.enter_context(PrefectServer(folder))
    made = server.command("work-pool", "create", POOL, "--type", "process")
    if made.returncode:
        sys.exit(made.stderr)
    content = yaml.safe_load(DEPLOYMENT_FILE.read_text())
    content["deployments"] = [one for one in content["deployments"] if one["name"] == "work"]
    content["deployments"][0] |= {"entrypoint": "benchmarks.noted_flow.work", "parameters": {}}
    file = folder / "prefect.yaml"
    file.write_text(yaml.safe_dump(content))
    server.deploy(file, "work")
    variables = {**variables, "OMP_NUM_THREADS": "1"}
    workers = [stack.enter_context(PrefectWorker(server, name, **variables)) for name in ("first", "second")]
    asked = f"work_pools/{POOL}/workers/filter"
    wait_until(lambda: sum(one["status"] == "ONLINE" for one in server.post(asked, {})) == len(workers))
    return server, workers


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


NAMES = {"work": "8 × `lsb work`", "local": "`local`", "ray": "`ray`", "prefect": "`prefect`"}


def page(kept: Mapping[str, Any]) -> str:
    """The results as a page; of each runner the last."""
    found = {runner: Outcome(**kept[runner]["outcome"]) for runner in RUNNERS if runner in kept}
    columns = [_column(one) for one in found.values()]
    lines = [f"| {name} | {' | '.join(str(column[name]) for column in columns)} |" for name in columns[0]]
    measured = sorted({kept[runner]["measured"] for runner in found})
    text = (
        f"Made by `python benchmarks/workers.py` on {', '.join(measured)}. Emoji with the embedded model, on one "
        "folder and one machine. Every process notes what its model has made, so that what is made twice is counted. "
        "Of 8 × `lsb work` two were killed and one was stopped in the middle of their work; the latter was woken when "
        "all others had ended. Of the two copies that `lsb run` had with each runner one was killed: a process, a "
        "worker of Ray's, or a worker of the pool with all that it had started. All share the processors with one "
        "another, and at times with other work, so that the seconds compare nothing."
    )
    head = f"| | {' | '.join(NAMES[runner] for runner in found)} |"
    return "\n".join(
        ["# Several workers on one run", "", fill(text, 120), "", head, "|---|" + "---|" * len(found), *lines, ""]
    )


def _column(found: Outcome) -> dict[str, object]:
    of = lambda number: f"{number} ({number / found.records:.1%})"  # noqa: E731
    lost, asleep = found.twice_with_a_killed, found.twice_with_a_stopped
    return {
        "pictures, in shards": f"{found.records}, {found.shards}",
        "pictures that the models made": found.made,
        "made twice": of(found.twice),
        "of these, by a killed worker and by who took its shard over": f"{lost}, of {found.killed} killed",
        "of these, by a stopped worker and by who took its shard over": f"{asleep}, of {found.stopped} stopped",
        "of these, otherwise": of(found.twice - lost - asleep),
        "rows in the manifest": found.rows,
        "pixels as those of one `lsb run`": "the same, all" if found.same_pixels_as_lsb_run else "OTHERS",
        "`lsb verify`": found.verified,
        "pictures that each worker made": ", ".join(map(str, found.shares)),
        "seconds until the last ended": f"{found.together_seconds:.0f} ({found.alone_seconds:.0f} of one `lsb run`)",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runner", choices=RUNNERS, default="work", help="`lsb work` by itself, or who starts it")
    parser.add_argument("--records", type=int, default=400, help="pictures")
    parser.add_argument("--shard-size", type=int, default=10, help="pictures in a shard")
    parser.add_argument("--workers", type=int, default=8, help="`lsb work` at a time, where there is no runner")
    parser.add_argument("--killed", type=int, default=2, help="of them")
    parser.add_argument("--stopped", type=int, default=1, help="of them, until all others have ended")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--kept", type=Path, help="where the last result of each runner is kept, as JSON")
    parser.add_argument("--out", type=Path, help="where to write the page")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.runner == "work":
            numbers = (given.workers, given.killed, given.stopped)
            found = measure(Path(folder), given.records, given.shard_size, *numbers)
        else:
            found = measure_runner(Path(folder), given.runner, given.records, given.shard_size)
    kept = json.loads(given.kept.read_text()) if given.kept and given.kept.exists() else {}
    measured = f"{date.today().isoformat()}, {os.cpu_count()} processors of {platform.machine()}"
    kept[given.runner] = {"measured": measured, "outcome": asdict(found)}
    if given.kept:
        given.kept.write_text(json.dumps(kept, indent=2) + "\n")
    print(json.dumps(asdict(found), indent=2) if given.json else page(kept))
    if given.out:
        given.out.write_text(page(kept))


if __name__ == "__main__":
    main()
