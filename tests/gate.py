"""Runs that translate only as many batches as a test lets through, so that they are hit in the middle of their work.

gate = Gate(tmp_path / "gate")
gate.admit(1)                                   # of all processes with a model, the first that asks
process = start_lsb(gate, "run", file)          # of tests.e2e.jobs
...                                             # one batch is committed, and the next one waits in its process
gate.open()

The model is the run's own; only the process that has it waits before each batch, as it would for a slow device.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import httpx
from prefect import task

from flows.runners import local, ray_cluster
from flows.watching.interruption import Interruption
from lsb.cli.main import main as command
from lsb.jobs import loading
from lsb.translation.model import Model
from tasks.guarded import connection

LSB = [sys.executable, "-P", "-c", "from tests.gate import main; main()"]
FLOW = "tests.gated_flow.translate_dataset"  # in place of a deployment's entrypoint
LONGEST_SECONDS = 1800.0  # then whoever made the gate is gone
_FOLDER = "LSB_TESTS_GATE"
_LIMIT: ContextVar[float] = ContextVar("limit")  # seconds that the request under way may take


class Gate:
    """A folder with a file for each batch that may pass. Shut when made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._made = 0

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to find it."""
        return {_FOLDER: str(self.folder)}

    def admit(self, batches: int) -> None:
        """Let so many more batches through."""
        for _ in range(batches):
            self._made += 1
            (self.folder / f"{self._made:06d}.pass").touch()

    def open(self) -> None:
        """Let all through, for good."""
        (self.folder / "open").touch()

    def shut(self) -> None:
        """Hold them again, and forget what was let through and what was heard."""
        for file in self.folder.iterdir():
            file.unlink()

    @property
    def signals(self) -> int:
        """How many signals the runs have heard."""
        return len(list(self.folder.glob("*.signal")))

    @property
    def waited(self) -> list[float]:
        """For how many seconds the runs have waited for each answer of Prefect's server that did not come."""
        return [float(file.read_text()) for file in self.folder.glob("*.waited")]


class Held:
    """A translator that asks at the gate before each batch."""

    def __init__(self, translator: Any) -> None:
        self._translator = translator
        self._folder = Path(os.environ[_FOLDER])
        self.batch = translator.batch

    def translate(self, images: Sequence[Any], digests: Sequence[str] | None = None, **options: Any) -> list[Any]:
        until = time.monotonic() + LONGEST_SECONDS
        while not self._may_pass() and time.monotonic() < until:
            time.sleep(0.02)
        return list(self._translator.translate(images, digests, **options))

    def _may_pass(self) -> bool:
        if (self._folder / "open").exists():
            return True
        for one in sorted(self._folder.glob("*.pass")):
            try:
                one.unlink()
            except FileNotFoundError:  # another process was faster
                continue
            return True
        return False


def load(*arguments: Any) -> Model:
    """In the process with the model."""
    model = loading.load_model(*arguments)
    return Model(Held(model.translator), model.scorer)


def install() -> None:
    """From now on the processes with a model that this one starts are held, and it tells of signals that it hears and
    of answers that it waits for in vain."""
    loading.load_model = load
    local.COMMAND = [*LSB[:-1], "from tests.gate import copy; copy()"]
    ray_cluster.WORK = task(part, name="work", persist_result=False)
    receive = Interruption.receive

    def heard(*arguments: Any) -> None:
        try:
            receive(*arguments)
        finally:
            Path(os.environ[_FOLDER], f"{os.getpid()}-{time.monotonic_ns()}.signal").touch()

    Interruption.receive = heard  # type: ignore[method-assign]
    in_time, failed = connection._in_time, connection._failed

    def asked(request: httpx.Request) -> httpx.Request:
        request = in_time(request)
        _LIMIT.set(request.extensions["timeout"]["read"])
        return request

    def told(error: httpx.TransportError, again: bool) -> None:
        if isinstance(error, httpx.TimeoutException):
            Path(os.environ[_FOLDER], f"{os.getpid()}-{time.monotonic_ns()}.waited").write_text(str(_LIMIT.get()))
        failed(error, again)

    connection._in_time, connection._failed = asked, told


def main() -> None:
    install()
    command()


def part(document: dict[str, Any]) -> dict[str, str]:
    """One that such a command starts on a Ray cluster."""
    install()
    return dict(ray_cluster.work.fn(document))


def copy() -> None:
    """A copy of the loop that such a command starts on this machine."""
    install()
    local.main()
