"""Who is at work on a run: a process, by a name that nobody else has, and whether it is still there.

Whether a process has ended is known only of those of this machine. Of others their leases tell, by their age.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lsb.records import sha256

_ACTIVE: set[str] = set()  # the names of the workers of this very process


@dataclass(frozen=True)
class Worker:
    """One command, or one call of it. `machine` and `started` are None where the system does not tell them."""

    name: str
    machine: str | None  # one start of one machine, and one container of it
    process: int
    started: str | None  # since numbers of processes are used again

    def has_ended(self) -> bool:
        """Whether it is known to be gone. False says nothing."""
        if self.machine is None or self.machine != _machine():
            return False
        if self.process == os.getpid() and self.started == _started(self.process):
            return self.name not in _ACTIVE
        return self.started != _started(self.process)


def worker_of(document: Mapping[str, Any]) -> Worker:
    """The worker that a lease names; KeyError or TypeError if it names none."""
    process = document["process"]
    return Worker(str(document["worker"]), process["machine"], int(process["id"]), process["started"])


@contextmanager
def at_work(mark: str | None = None) -> Iterator[Worker]:
    """This process as a worker, under a name of its own that begins with the machine's and ends with the mark, by which
    somebody knows it; with one made up if none is given."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:40]
    number = os.getpid()
    worker = Worker(f"{host}-{number}-{mark or secrets.token_hex(2)}", _machine(), number, _started(number))
    _ACTIVE.add(worker.name)
    try:
        yield worker
    finally:
        _ACTIVE.discard(worker.name)


def _machine() -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        return sha256(f"{boot} {os.readlink('/proc/self/ns/pid')}".encode())[:16]
    except OSError:
        return None


def _started(process: int) -> str | None:
    """When a process began, in the system's own unit; None if there is none of that number."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    # The name, which is in brackets, may hold anything; state is the third field and the start the twenty-second.
    state, *others = text.rpartition(")")[2].split()
    return None if state in ("Z", "X") else others[18]
