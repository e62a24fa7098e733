"""The server that a run brings along: there while needed, gone afterwards, however the run ends."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = """
import sys, time
from flows.environment import prepare
prepare()
from prefect import flow, task
from flows.local_server import prefect_server

@task
def one(number: int) -> int:
    return number

@flow
def many() -> int:
    return sum(one.map(range(30)).result())

with prefect_server():
    assert many() == 435
    if "wait" in sys.argv:
        print("ready", flush=True)
        time.sleep(600)
"""


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return {**kept, "PREFECT_HOME": str(home)}


def servers(home: Path) -> list[int]:
    """Processes of ours whose Prefect lives in `home`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"flows.local_server" in arguments and f"PREFECT_HOME={home}".encode() in variables:
            found.append(int(folder.name))
    return found


def test_it_leaves_nothing_behind_and_keeps_every_task_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert servers(tmp_path) == []
    with sqlite3.connect(tmp_path / "prefect.db") as database:
        ((count,),) = database.execute("select count(*) from task_run where state_type = 'COMPLETED'")
    database.close()
    assert count == 30


def test_it_ends_when_its_process_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "wait"], env=environment(tmp_path), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        running = servers(tmp_path)
        process.send_signal(signal.SIGKILL)
    assert (ready, len(running)) == ("ready\n", 1)
    until = time.monotonic() + 60
    while servers(tmp_path):
        assert time.monotonic() < until
        time.sleep(0.1)
