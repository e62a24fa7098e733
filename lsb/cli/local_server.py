"""A Prefect server that lives exactly as long as the process that needs it.

Prefect's own temporary server dies of the Ctrl-C that was meant for the run, and outlives a killed run. Ours is a
session of its own, and it stops when its standard input ends, which the operating system brings about however the
parent dies. Its port is opened by the parent, so that nothing that the child prints is taken for an address.

    python -P -m lsb.cli.local_server LISTENER READY   # file descriptors: a bound socket; a pipe for one line
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lsb.cli import render
from lsb.cli.terminal import tame_logs
from lsb.errors import ResourceError
from lsb.redaction import without_secrets

STOP_SECONDS = 30
ANSWER_SECONDS = 10.0
READY = "ready"


@contextmanager
def prefect_server(meanwhile: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Make Prefect's API reachable: the server that Prefect is configured for, else one of our own.

    Args:
        meanwhile: called while our own starts, which takes seconds; such as to import what is needed then.

    Raises:
        ResourceError: the server that is configured does not answer, or our own does not start; says why.
    """
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED,
        PREFECT_HOME,
        temporary_settings,
    )

    if PREFECT_API_URL.value():
        _connect(lambda message: None)  # of one that was never there `_check` says it
        _check(PREFECT_API_URL.value())
        _connect(_warn)
        yield
        return

    def connect() -> None:
        _connect(_warn)
        meanwhile()

    # Others of this machine can reach the port, too; only we know this.
    secret = f"lsb:{secrets.token_urlsafe(32)}"
    process, address = _start(Path(PREFECT_HOME.value()), secret, connect)
    from tasks.guarded.connection import lost

    settings = {
        PREFECT_API_URL: address,
        PREFECT_API_AUTH_STRING: secret,
        PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED: False,  # it is this very version
    }
    try:
        with temporary_settings(updates=settings):
            try:
                yield
            finally:
                if not lost():
                    _drain()
    finally:
        if lost():  # it may hang
            process.kill()
        _stop(process)


def _connect(warn: Callable[[str], None]) -> None:
    from tasks.guarded.connection import connect

    tame_logs()  # Prefect has made its handlers by now
    connect(warn)


def _warn(message: str) -> None:
    render.complain(message, logging.WARNING)


def _check(url: str) -> None:
    """Ask the server that the user named what only a Prefect server answers, and only to those whom it trusts."""
    from prefect.client.orchestration import ServerType, get_client

    try:
        with get_client(sync_client=True, httpx_settings={"timeout": ANSWER_SECONDS}) as client:
            if client.server_type == ServerType.CLOUD:
                client.raise_for_api_version_mismatch()
                if failure := client.api_healthcheck():
                    raise failure
            else:
                client.api_version()
                client.raise_for_api_version_mismatch()
    except Exception as error:
        reason = without_secrets(" ".join(f"{error}".split()) or type(error).__name__).partition(" For more info")[0]
        raise ResourceError(
            f"no Prefect server can be used at {without_secrets(url)}, which {_named_by()} names ({reason}); "
            "start it, name another, or name none to have one made for each command"
        ) from error


def _named_by() -> str:
    if os.environ.get("PREFECT_API_URL"):
        return "the environment variable PREFECT_API_URL"
    return f"PREFECT_API_URL of the active profile in {os.environ.get('PREFECT_PROFILES_PATH', 'profiles.toml')}"


def _start(
    home: Path, secret: str, meanwhile: Callable[[], object] = lambda: None
) -> tuple[subprocess.Popen[bytes], str]:
    log = home / "lsb-server.log"
    environment = {
        **os.environ,
        "PREFECT_HOME": str(home),
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
        "PREFECT_SERVER_API_AUTH_STRING": secret,
        "PREFECT_API_AUTH_STRING": secret,
    }
    if places := environment.get("PYTHONPATH"):
        environment["PYTHONPATH"] = os.pathsep.join(
            os.path.abspath(place) for place in places.split(os.pathsep) if place
        )
    with ExitStack() as stack:
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            # The lock keeps two first runs from creating the same database at the same time.
            lock = stack.enter_context((home / "lsb-server.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
            errors = stack.enter_context(log.open("w"))
        except OSError as error:
            raise ResourceError(
                f"cannot write to PREFECT_HOME {home}: {error.strerror}; make room or set it to a writable folder"
            ) from error
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        ready, tell = os.pipe()
        answer = stack.enter_context(os.fdopen(ready, "rb"))
        try:
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-m", "lsb.cli.local_server", str(listener.fileno()), str(tell)],
                env=environment,
                cwd="/",  # Prefect's migrations put `.` on the import path
                stdin=subprocess.PIPE,
                stdout=errors,
                stderr=errors,
                pass_fds=(listener.fileno(), tell),
                start_new_session=True,
            )
        finally:
            os.close(tell)
        try:
            meanwhile()
            said = answer.readline().decode().strip()  # empty when the child has gone
        except BaseException:
            _stop(process)
            raise
    if said != READY:
        _stop(process)
        raise ResourceError(f"the local Prefect server did not start: {said or 'it ended'}; its log is {log}")
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
    """Serve on a bound socket until standard input ends. `ready` gets one line: READY once it answers, or why not."""
    from lsb.cli.working_folder import ignore_working_folder

    ignore_working_folder()
    # SIGINT from a terminal is meant for the run, not for its server.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if reason := _unusable_database():
        os.write(ready, f"{' '.join(reason.split())}\n".encode())
        sys.exit(1)
    import uvicorn

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
            os.write(ready, f"{READY}\n".encode())
            sys.stdin.buffer.read()
        except OSError:  # the parent is gone already
            pass
        finally:
            server.should_exit = True

    threading.Thread(target=announce_then_wait, daemon=True).start()
    server.run(sockets=[listener])


def _unusable_database() -> str | None:
    """Bring the database up to date, as the server would without a word in its log; why that cannot be done."""
    from alembic.util import CommandError
    from prefect.server.database import provide_database_interface
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
    from sqlalchemy.exc import SQLAlchemyError

    async def migrate() -> None:
        database = provide_database_interface()
        try:
            await database.create_db()
        finally:
            await (await database.engine()).dispose()

    where = without_secrets(PREFECT_API_DATABASE_CONNECTION_URL.value())
    way_out = "move it away, or set PREFECT_HOME to another folder"
    try:
        asyncio.run(migrate())
    except CommandError:
        traceback.print_exc()
        return f"its database {where} was written by another version of Prefect; {way_out}"
    except (SQLAlchemyError, OSError) as error:
        traceback.print_exc()
        reason = getattr(error, "orig", None) or error
        return f"its database {where} cannot be used ({without_secrets(str(reason))}); make room, {way_out}"
    return None


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
