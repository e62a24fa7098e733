"""Four hundred records on S3 while workers and the server itself are killed again and again."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import random
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from examples.object_server import ObjectServer
from lsb.audit import verify
from lsb.ledger.publish import manifest_table, publish
from lsb.ledger.run import Run, open_log, pending
from lsb.store.store import Store, open_store
from lsb.translation.shard import run_shard
from tests.ledger import Inverter, equipment, make_images, start

RECORDS = 400
SHARD = 50
WORKERS = 3
KILLS = 30
RECORDS_PER_KILL = 10  # so that the last kill comes well before the last record
SERVER_KILLS = (10, 20)  # after so many kills of workers
LEASH = "leash"  # a file beside the side log: how many lines that may have before the next kill

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])


@dataclass
class Stamping(Inverter):
    """Adds to the side log when it was done with an image. Waits where a kill is due and the supervisor is slow."""

    def translate(self, *arguments: Any, **options: Any) -> list[Any]:
        assert self.side_log is not None
        leash = self.side_log.with_name(LEASH)
        while len(self.side_log.read_text().split("\n")) > int(leash.read_text()):
            time.sleep(0.01)
        return super().translate(*arguments, **options)

    def line(self, digest: str) -> str:
        return f"{digest} {time.time_ns()}"


def work(uri: str, run: Run, sources: Store, shard: str, side_log: Path) -> None:
    """A worker: one shard, in a process that may be killed at any moment."""
    translator = Stamping(batch=4, side_log=side_log, seconds=0.02)
    run_shard(open_store(uri), run, shard, equipment(sources, translator), commit_seconds=0.3)


@dataclass
class Supervisor:
    """Starts a worker for each shard that is not done, never two for one, and one anew for each that died."""

    uri: str
    run: Run
    sources: Store
    side_log: Path
    waiting: list[str]
    chance: random.Random
    live: dict[str, BaseProcess]
    deaths: int = 0

    def tend(self) -> bool:
        """Start what can be started; whether there is still something to do."""
        for shard, process in list(self.live.items()):
            if not process.is_alive():
                self._bury(shard)
        while self.waiting and len(self.live) < WORKERS:
            shard = self.waiting.pop(self.chance.randrange(len(self.waiting)))
            process = FORKS.Process(target=work, args=(self.uri, self.run, self.sources, shard, self.side_log))
            process.start()
            self.live[shard] = process
        multiprocessing.connection.wait([process.sentinel for process in self.live.values()], timeout=0.01)
        return bool(self.live)

    def kill_one(self) -> bool:
        """SIGKILL for a random worker; False if it had just ended by itself."""
        shard = self.chance.choice(sorted(self.live))
        process = self.live[shard]
        process.kill()
        process.join()
        return process.exitcode != 0

    def _bury(self, shard: str) -> None:
        process = self.live.pop(shard)
        process.join()
        if process.exitcode != 0:
            self.deaths += 1
            self.waiting.append(shard)
        process.close()


@pytest.mark.long
@pytest.mark.parametrize("seed", [1])
def test_thirty_killed_workers_and_two_killed_servers(
    s3_uri: str, object_server: ObjectServer, tmp_path: Path, seed: int
) -> None:
    store = open_store(s3_uri)
    run, sources = start(store, make_images(tmp_path / "images", RECORDS), shard_size=SHARD)
    side_log = tmp_path / "side.log"
    side_log.touch()

    def loosen(lines: int) -> None:
        (tmp_path / "new").write_text(str(lines))
        (tmp_path / "new").rename(tmp_path / LEASH)

    loosen(2 * RECORDS_PER_KILL)
    chance = random.Random(seed)
    supervisor = Supervisor(s3_uri, run, sources, side_log, run.shards(), chance, {})
    kills = 0
    server_kills = list(SERVER_KILLS)
    while supervisor.tend():
        made = len(side_log.read_text().split("\n"))
        if kills < KILLS and made > (kills + chance.random()) * RECORDS_PER_KILL:
            kills += supervisor.kill_one()
            loosen((kills + 2) * RECORDS_PER_KILL if kills < KILLS else 1000 * RECORDS)
        if server_kills and kills >= server_kills[0]:
            server_kills.pop(0)
            object_server.kill()
            object_server.start()
    assert (kills, server_kills) == (KILLS, [])
    assert supervisor.deaths >= KILLS

    # Every planned record has exactly one row, every row its object.
    assert pending(store, run) == {}
    publish(store, run, {}, b"page")
    rows = manifest_table(store, run).to_pylist()
    assert len({row["record_id"] for row in rows}) == len(rows) == RECORDS
    assert {row["status"] for row in rows} == {"ok"}
    verdict = verify(store, run.id)
    assert (verdict.exit_code, verdict.checked["outputs"]) == (0, RECORDS)

    # Nothing was translated after its commit.
    committed: dict[str, float] = {}
    for shard in run.shards():
        log = open_log(store, run, shard)
        for entry in log.entries():
            for digest in log.table(entry, columns=["source_sha256"])["source_sha256"].to_pylist():
                assert digest not in committed
                committed[digest] = entry.link.time.timestamp()
    lines = [line.split() for line in side_log.read_text().splitlines()]
    late = [digest for digest, moment in lines if int(moment) / 1e9 > committed[digest]]
    assert late == []
    assert {digest for digest, _ in lines} == committed.keys()
