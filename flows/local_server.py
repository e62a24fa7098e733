"""A Prefect server that lives exactly as long as the process that needs it.

Prefect's own temporary server dies of the Ctrl-C that was meant for the run, and outlives a killed run. Ours is a
session of its own, and it stops when its standard input ends, which the operating system brings about however the
parent dies. Its port is opened by the parent, so that nothing that the child prints is taken for an address.

    python -P -m flows.local_server LISTENER READY   # file descriptors: a bound socket; a pipe for one byte, once ready
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lsb.errors import ResourceError

STOP_SECONDS = 30


@contextmanager
def prefect_server() -> Iterator[None]:
    """Make Prefect's API reachable: the server that Prefect is configured for, else one of our own.

    Raises:
        ResourceError: our own server does not start; names its log file.
    """
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    if PREFECT_API_URL.value():
        yield
        return
    home = Path(PREFECT_HOME.value())
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"cannot write PREFECT_HOME {home}: {error.strerror}; set it to a writable folder"
        ) from error
    process, address = _start(home)
    try:
        with temporary_settings(updates={PREFECT_API_URL: address}):
            try:
                yield
            finally:
                _drain()
    finally:
        _stop(process)


def _start(home: Path) -> tuple[subprocess.Popen[bytes], str]:
    log = home / "lsb-server.log"
    ready, tell = os.pipe()
    # The lock keeps two first runs from creating the same database at the same time.
    with (
        os.fdopen(ready, "rb") as readiness,
        socket.socket() as listener,
        (home / "lsb-server.lock").open("w") as lock,
        log.open("w") as errors,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        listener.bind(("127.0.0.1", 0))
        try:
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-m", "flows.local_server", str(listener.fileno()), str(tell)],
                env={**os.environ, "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"},
                stdin=subprocess.PIPE,
                stdout=errors,
                stderr=errors,
                pass_fds=(listener.fileno(), tell),
                start_new_session=True,
            )
        finally:
            os.close(tell)
        try:
            started = readiness.read(1)  # empty when the child has gone
        except BaseException:
            _stop(process)
            raise
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
    if not started:
        _stop(process)
        raise ResourceError(
            f"the local Prefect server did not start; see {log}, or set PREFECT_API_URL to one that runs"
        )
    return process, address


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _drain() -> None:
    """Hand over the events and log lines that are still queued in this process."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    EventsWorker.drain_all()
    APILogWorker.drain_all()


def serve(listener: socket.socket, ready: int) -> None:
    """Serve on a bound socket until standard input ends; one byte goes to `ready` once it answers."""
    import uvicorn

    from flows.working_folder import ignore_working_folder

    ignore_working_folder()
    # SIGINT from a terminal is meant for the run, not for its server.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = uvicorn.Config(
        "prefect.server.api.server:create_app",
        factory=True,
        log_level="error",
        lifespan="on",
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)

    def announce_then_wait() -> None:
        while not server.started:
            if server.should_exit:
                return
            threading.Event().wait(0.05)
        try:
            os.write(ready, b"1")
            sys.stdin.buffer.read()
        except OSError:  # the parent is gone already
            pass
        finally:
            server.should_exit = True

    threading.Thread(target=announce_then_wait, daemon=True).start()
    server.run(sockets=[listener])


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
