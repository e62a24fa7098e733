"""Nights of one data set with the real parts while things go wrong, and an account of them from the store.

    make nightly                                                   or, with options:
    PYTHONPATH=. python benchmarks/nightly.py --seed 7 --json

A Prefect server, process workers, `deployments/prefect.yaml` with its queue's limit, the automation that ends runs that
died, and an inbox in which pictures come, go and change while it is read; one file is broken, one is no picture.

    1  it is started twice in the same moment: one of the two waits. The worker is killed with its run; the automation
       sees it, and with another worker the one that waited goes on
    2  the server is away for a minute in the middle of a night, which goes on
    3  the cap: a night may use hardly any time of a device, and ends BeyondBudget with what it has published
    4  a night is cut off by SIGTERM
    5  the last one, which nobody disturbs

Pictures come before each. The account is made from the store: every file that was listed has its row, nothing was
translated twice that need not be, all verifies; and no two nights were under way at once. Ends with 0 if it holds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import yaml
from PIL import Image, ImageDraw

from lsb.errors import LsbError
from lsb.ledger.run import Run, pending
from lsb.ledger.schemas import RECORDS, read_table
from lsb.store.store import open_store
from tasks.guarded.flow import BEYOND_BUDGET
from tests.nights import Account, account_of, committed, runs_of
from tests.prefect_parts import (
    AUTOMATIONS_FILE,
    POOL,
    QUEUE,
    PrefectServer,
    Worker,
    deployment_file,
    wait_until,
)
from tests.tiny import IMAGE_SIZE, tiny_model

JOB = "nightly"
FIRST_PICTURES = 12
MANY_PICTURES = 12  # come at once before a night that is to be cut off
SECONDS_BETWEEN_CHANGES = 8.0
LONGEST_NIGHT = 600.0
SERVER_AWAY_SECONDS = 60.0
ZOMBIE_SECONDS = 60  # in place of three minutes
BROKEN, NO_PICTURE = "broken.png", "notes.txt"


@dataclass
class Inbox:
    """A folder of pictures, and when each of them came and went or changed."""

    folder: Path
    chance: random.Random
    here: dict[str, datetime] = field(default_factory=dict)  # since when, as it is
    gone: list[tuple[str, datetime, datetime]] = field(default_factory=list)  # from, until
    made: int = 0

    def open(self) -> None:
        """The first pictures, one broken file and one that is no picture."""
        self.folder.mkdir()
        (self.folder / NO_PICTURE).write_text("what these pictures are")
        self._put(BROKEN, b"\x89PNG\r\n\x1a\n and then nothing")
        self.add(FIRST_PICTURES)

    def add(self, number: int) -> None:
        """New pictures, each with a name and colours of its own."""
        for _ in range(number):
            self.made += 1
            self._put(f"{self.made:04d}.png", self._picture())

    def change(self) -> None:
        """One or two come, and now and then one goes or becomes another picture."""
        self.add(self.chance.choice((1, 2)))
        pictures = sorted(self.here.keys() - {BROKEN})
        if self.chance.random() < 0.5:
            name = self.chance.choice(pictures)
            (self.folder / name).unlink()
            self.gone.append((name, self.here.pop(name), datetime.now(UTC)))
        if self.chance.random() < 0.3:
            name = self.chance.choice(sorted(self.here.keys() - {BROKEN}))
            self.gone.append((name, self.here[name], datetime.now(UTC)))
            self._put(name, self._picture())

    def lay_there(self, since: datetime, until: datetime) -> set[str]:
        """What lay there unchanged all that time: a listing made meanwhile must have it."""
        periods = [*self.gone, *((name, came, datetime.now(UTC)) for name, came in self.here.items())]
        return {name for name, came, went in periods if came < since and went > until}

    def _put(self, name: str, data: bytes) -> None:
        arriving = self.folder.with_name("arriving")
        arriving.write_bytes(data)
        arriving.rename(self.folder / name)
        self.here[name] = datetime.now(UTC)

    def _picture(self) -> bytes:
        picture = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), "white")
        corner, colour = self.chance.randrange(2, 12), tuple(self.chance.randrange(256) for _ in range(3))
        pen = ImageDraw.Draw(picture)
        shape = self.chance.choice((pen.ellipse, pen.rectangle))
        shape((corner, corner, corner + self.chance.randrange(8, 18), corner + 12), fill=colour)
        drawn = self.folder.with_name("drawn.png")
        picture.save(drawn)
        return drawn.read_bytes()


class Trial:
    """The parts, and what is done to them."""

    def __init__(self, folder: Path, seed: int, flow: str | None = None, **variables: str) -> None:
        """
        Args:
            flow: another entrypoint than that of the project's deployment.
            variables: for the environment of the nights.
        """
        self.folder = folder
        self.flow = flow
        self.inbox = Inbox(folder / "inbox", random.Random(seed))
        self.server = PrefectServer(folder / "server", OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", **variables)
        self.store_uri = str(folder / "store")
        self.deployment = ""
        self.config: dict[str, Any] = {}
        self.worker: Worker | None = None
        self.deeds: list[dict[str, Any]] = []
        self.surprises: list[str] = []
        self._flow_runs: list[dict[str, Any]] = []
        self._began = time.monotonic()
        self._changed = self._began

    def settings(self) -> dict[str, Any]:
        """The job: learned prompts, small shards, frequent commits, so many evaluations that it can be hit."""
        looks = {name: self._look(name) for name in ("flat", "3d")}
        return {
            "name": JOB,
            "store": self.store_uri,
            "model": str(tiny_model(self.folder / "model")),
            "source": {"domain": "flat", "path": str(self.inbox.folder)},
            "prompts": {
                "source": {"images": looks["flat"], "token": "<flat>", "initial": "flat icon"},
                "target": {"domain": "3d", "images": looks["3d"], "token": "<3d>", "initial": "3d icon"},
            },
            "learning": {"steps": 4, "batch": 2, "validate_every": 2},
            "bridge": {"tau": 0.6, "nfe": 40},
            "execution": {"batch": 2, "shard_size": 4, "device": "cpu", "commit_seconds": 1},
            "evaluate": {"target": looks["3d"], "sample": 16},
            "budget": {"max_failed_fraction": 0.5},  # a picture that goes before its turn is a failed record
        }

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """The server with the deployment, and a worker."""
        self.inbox.open()
        with self.server:
            self.server.command("work-pool", "create", POOL, "--type", "process")
            self.server.command("work-queue", "create", QUEUE, "--pool", POOL, "--limit", "1")
            self._watch_for_zombies()
            self.config = self.settings()
            file = deployment_file(self.folder / "prefect.yaml", self.config, None, entrypoint=self.flow)
            self.deployment = self.server.deploy(file, JOB)["id"]
            self.worker = Worker(self.server, "first", limit=2)
            try:
                yield
            finally:
                self.worker.stop()
                self._flow_runs = self.server.runs(self.deployment)

    def run(self) -> None:
        """All of it."""
        with self.under_way():
            self.two_nights()
            self.stop_the_server(self.start_a_night())
            self.capped_night()
            self.start_a_night()
            self.cut_a_night_off()
            self.whole_night()

    def account(self) -> tuple[Account, dict[str, Any]]:
        """What the store says, and what else there is to tell."""
        account = account_of(open_store(self.store_uri), JOB)
        account.problems += self._unseen() + self._at_once() + self.surprises
        told = {
            "minutes": round((time.monotonic() - self._began) / 60, 1),
            "deeds": self.deeds,
            "pictures_made": self.inbox.made,
            "pictures_gone_or_changed": len(self.inbox.gone),
            "flow_runs": dict(Counter(run["state_name"] for run in self._flow_runs if run["start_time"])),
        }
        return account, told

    def start_a_night(self, **body: Any) -> str:
        """Without waiting for its time; the flow run's id."""
        return self.server.trigger(self.deployment, **body)

    def whole_night(self) -> None:
        """One that nobody disturbs."""
        self._wait_for_the_end(self.start_a_night())

    def capped_night(self) -> None:
        """One that may use hardly any time of a device: it stops after its first shard, and publishes that."""
        self.inbox.add(MANY_PICTURES)
        capped = {**self.config, "budget": {**self.config["budget"], "max_device_hours": 1e-6}}
        night = self.start_a_night(parameters={"config": capped})
        state = self._wait_for_the_end(night)
        run, _ = self._newest()
        assert run is not None
        self._deed("the cap reached", run)
        if state != BEYOND_BUDGET:
            self.surprises.append(f"{run.id}: the night with a cap ended as {state}")

    def two_nights(self) -> None:
        """Two in the same moment: one waits for the other, whose worker is killed in the middle."""
        nights = [self.start_a_night(), self.start_a_night()]
        self.kill_the_worker()
        for night in nights:
            self._wait_for_the_end(night)

    def _wait_for_the_end(self, night: str) -> str:
        def ended() -> str | None:
            self._let_time_pass()
            return self.server.ended(night)

        return str(wait_until("the night's end", ended, 2 * LONGEST_NIGHT))

    def kill_the_worker(self) -> None:
        """With its run, in the middle of it; another worker goes on with the same pictures."""
        run = self._wait_for_the_middle()
        assert self.worker is not None
        self.worker.kill()
        self._deed("worker killed with its run", run)
        self.worker = Worker(self.server, "second", limit=2)

    def cut_a_night_off(self) -> None:
        """As a time window does that ends, in the middle; new pictures come before the next night."""
        run = self._wait_for_the_middle()
        assert self.worker is not None
        for process in psutil.Process(self.worker.process.pid).children(recursive=True):
            if "prefect.engine" in process.cmdline():
                os.kill(process.pid, signal.SIGTERM)
        self._deed("run ended by SIGTERM", run)
        self.inbox.add(3)

    def stop_the_server(self, night: str) -> None:
        """In the middle of a night, which goes on; for Prefect it stays Running until it counts as crashed."""
        run = self._wait_for_the_middle()
        self.server.stop()
        self._deed("server stopped", run)
        until = time.monotonic() + SERVER_AWAY_SECONDS
        while time.monotonic() < until:
            self._let_time_pass()
        self.server.start()
        assert self.worker is not None
        if self.worker.process.poll() is not None:  # it gave the server up, and its supervisor starts it again
            self.worker = Worker(self.server, "third", limit=2)
        self._deed("server back", run)
        self._wait_for_the_end(night)

    def _watch_for_zombies(self) -> None:
        content = yaml.safe_load(AUTOMATIONS_FILE.read_text())
        (zombie,) = (one for one in content["automations"] if one["name"] == "lsb zombie")
        zombie["trigger"]["within"] = ZOMBIE_SECONDS
        file = self.folder / "automations.yaml"
        file.write_text(yaml.safe_dump({"automations": [zombie]}))
        self.server.command("automation", "create", "--from-file", str(file))

    def _look(self, name: str) -> str:
        folder = self.folder / name
        looks = Inbox(folder, random.Random(name))
        folder.mkdir()
        looks.add(8)
        return str(folder)

    def _let_time_pass(self) -> None:
        time.sleep(0.2)
        if time.monotonic() - self._changed > SECONDS_BETWEEN_CHANGES:
            self._changed = time.monotonic()
            self.inbox.change()

    def _newest(self) -> tuple[Run | None, int]:
        """The run that was planned last, and how many pictures it has committed."""
        with suppress(LsbError):  # no store yet, or what is being written just now
            store = open_store(self.store_uri)
            if runs := runs_of(store, JOB):
                newest = max(runs, key=lambda run: run.created)
                return newest, len(committed(store, newest))
        return None, 0

    def _wait_for_the_middle(self) -> Run:
        """Many pictures come; the night that sees them commits, and has more to do."""
        before, had = self._newest()
        self.inbox.add(MANY_PICTURES)
        until = time.monotonic() + LONGEST_NIGHT
        while time.monotonic() < until:
            self._let_time_pass()
            run, has = self._newest()
            grows = run is not None and has > (had if before is not None and run.id == before.id else 0)
            if run is not None and grows and pending(open_store(self.store_uri), run):
                return run
        raise TimeoutError("no night was seen in the middle of its work")

    def _deed(self, what: str, run: Run) -> None:
        store = open_store(self.store_uri)
        left = sum(pending(store, run).values())
        done = len(committed(store, run))
        minute = round((time.monotonic() - self._began) / 60, 1)
        self.deeds.append({"what": what, "minute": minute, "run": run.id, "committed": done, "left": left})

    def _at_once(self) -> list[str]:
        """Nights that were under way, for Prefect, while another one was."""
        begun = sorted((run for run in self._flow_runs if run["start_time"]), key=lambda run: run["start_time"])
        ends = [run["end_time"] or datetime.max.replace(tzinfo=UTC).isoformat() for run in begun]
        return [
            f"flow run {after['id']} began before {before['id']} had ended"
            for before, end, after in zip(begun, ends, begun[1:], strict=False)
            if datetime.fromisoformat(after["start_time"]) < datetime.fromisoformat(end)
        ]

    def _unseen(self) -> list[str]:
        """Files that lay there while a night listed them, and are neither in its data set nor counted as left out."""
        store = open_store(self.store_uri)
        starts = sorted(datetime.fromisoformat(run["start_time"]) for run in self._flow_runs if run["start_time"])
        problems = []
        for run in runs_of(store, JOB):
            planned = datetime.fromisoformat(run.created)
            began = max((start for start in starts if start <= planned), default=None)
            if began is None:
                problems.append(f"{run.id}: no flow run began before it was planned")
                continue
            listed = set(read_table(store.read(run.dataset["key"]), RECORDS)["key"].to_pylist())
            if sum((run.left_out or {}).values()) != 1:
                problems.append(f"{run.id}: {NO_PICTURE} is not what was left out, but {run.left_out}")
            if missing := self.inbox.lay_there(began, planned) - listed:
                problems.append(f"{run.id}: {sorted(missing)} lay in the inbox and were not listed")
        return problems


def printed(account: Account, told: dict[str, Any]) -> str:
    """For people."""
    lines = [f"{told['minutes']} minutes, flow runs: {told['flow_runs']}"]
    lines += [
        f"minute {deed['minute']}: {deed['what']} {deed['run']}, {deed['committed']} committed and {deed['left']} left"
        for deed in told["deeds"]
    ]
    for night in account.nights:
        rows = ", ".join(f"{count} {status}" for status, count in sorted(night.rows.items()))
        left_out = ", ".join(f"{count} {kind}" for kind, count in night.left_out.items())
        lines.append(
            f"{night.run}: {night.listed} listed, left out: {left_out or 'nothing'}; "
            f"{rows or 'no rows'}, {night.without_result} without result; "
            f"{night.carried} carried from {night.parent}, {night.translated} translated, of which {night.again} again "
            f"and {night.after_the_snapshot} committed after the parent's snapshot; verify {night.verify}"
        )
    again = sum(night.after_the_snapshot for night in account.nights)
    lines.append(f"translated again because they were committed after the parent's snapshot: {again}")
    lines += [f"PROBLEM {problem}" for problem in account.problems]
    lines.append("the account holds" if not account.problems else f"{len(account.problems)} problems")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", type=Path, help="a new folder for all that it makes, kept; else a temporary one")
    args = parser.parse_args(arguments)
    folder = args.keep or Path(tempfile.mkdtemp(prefix="lsb-nightly-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        trial = Trial(folder.resolve(), args.seed)
        trial.run()
        account, told = trial.account()
    finally:
        if args.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({**told, **account.as_json()}, indent=2) if args.json else printed(account, told))
    return 1 if account.problems else 0


if __name__ == "__main__":
    sys.exit(main())
