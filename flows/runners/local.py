"""Copies on this machine, each a process. One that is killed leaves the others as they are.

python -P -m flows.runners.local      # what is asked of it comes as a line, how it ended goes out as one
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from functools import partial

from flows.runners.part import Part, VanishedError, do, ending, part_of, told
from lsb.config.job import JobConfig
from lsb.jobs.job import device_of, executed_with
from lsb.logs import log_as_asked

COMMAND = [sys.executable, "-P", "-m", "flows.runners.local"]


class LocalRunner:
    """Processes by their marks."""

    def __init__(self, config: JobConfig) -> None:
        self._config = config
        self._copies: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> LocalRunner:
        return self

    def __exit__(self, *_: object) -> None:
        """End at once what is still there."""
        for process in self._copies.values():
            process.kill()
            process.communicate()
        self._copies.clear()

    def start(self, number: int, part: Part) -> None:
        """Start a process, of several accelerators with one of its own."""
        execution = self._config.execution
        config = part.config
        if execution.workers == 1:
            config = executed_with(config, device=device_of(config, number))
        threads = str(max(1, (os.cpu_count() or 1) // execution.parallel))
        process = subprocess.Popen(  # noqa: S603
            COMMAND,
            env={"OMP_NUM_THREADS": threads, **os.environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a Ctrl-C of the terminal is told once, by whoever has started it
        )
        assert part.mark is not None
        self._copies[part.mark] = process
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already
            process.stdin.write(json.dumps(Part(config, part.run, mark=part.mark).document()) + "\n")
            process.stdin.flush()

    def ended(self) -> dict[str, Exception | None]:
        """Each that is no more."""
        gone = [mark for mark, process in self._copies.items() if process.poll() is not None]
        return {mark: _ending(self._copies.pop(mark)) for mark in gone}

    def stop(self, marks: Iterable[str]) -> None:
        """SIGTERM."""
        for mark in marks:
            if mark in self._copies:
                self._copies[mark].terminate()


def _ending(process: subprocess.Popen[str]) -> Exception | None:
    said, _ = process.communicate()
    try:
        return ending(json.loads(said))
    except ValueError:
        return VanishedError(f"its process ended with {process.returncode}")


def main() -> None:
    """A copy."""
    log_as_asked()
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whoever started it reads nothing until it has ended: what libraries print must not fill that pipe
    part = part_of(json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_whoever_started_it, daemon=True).start()
    answer.write(json.dumps(told(partial(do, part))) + "\n")
    answer.flush()


def _end_with_whoever_started_it() -> None:
    sys.stdin.read()  # nothing more comes, until the other end is closed
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
