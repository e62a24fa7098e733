from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from examples import object_server

WORK = """
import os, signal
from lsb.store.store import open_store
open_store("s3://lsb/a").write("written", b"1")
try:
    print(os.environ["FSSPEC_S3_ENDPOINT_URL"], flush=True)
    signal.pause()
except KeyboardInterrupt:
    raise SystemExit(130)
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The server, with a command that writes an object, says so and waits for Ctrl-C."""
    script = Path(object_server.__file__)
    started = subprocess.Popen(
        [sys.executable, str(script), "--data", str(tmp_path), "--", sys.executable, "-c", WORK],
        env={**os.environ, "PYTHONPATH": str(script.parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    yield started
    with suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
    started.communicate()


def weed_of(process: subprocess.Popen[str]) -> psutil.Process:
    """The server of a command that has begun."""
    assert process.stdout is not None
    port = urlsplit(process.stdout.readline()).port
    running = psutil.process_iter(["name", "cmdline"])
    (found,) = (one for one in running if one.info["name"] == "weed" and f"-s3.port={port}" in one.info["cmdline"])
    return found


def test_ctrl_c_is_the_commands_affair_and_then_the_server_ends(process: subprocess.Popen[str]) -> None:
    weed = weed_of(process)
    os.killpg(process.pid, signal.SIGINT)
    _, complaints = process.communicate()
    assert (process.returncode, "Traceback" in complaints) == (130, False), complaints
    assert not weed.is_running()


def test_a_server_does_not_outlive_whoever_started_it(process: subprocess.Popen[str]) -> None:
    weed = weed_of(process)
    process.kill()
    psutil.wait_procs([weed], timeout=200)
    assert not weed.is_running()


def test_a_folder_serves_one_at_a_time(process: subprocess.Popen[str], tmp_path: Path) -> None:
    weed_of(process)
    with pytest.raises(RuntimeError, match="another object server uses"):
        object_server.ObjectServer(tmp_path).start()
