"""Copies on a Ray cluster that is there, each a task that has its GPUs until the run holds nothing more for it.

Submitted through prefect-ray, so that Prefect shows them where Ray's workers reach its server; where they do not, it
makes no difference to the work. The model is loaded once by each copy, which keeps it from shard to shard.
"""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from contextvars import Context
from functools import partial
from importlib.util import find_spec
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_KEY,
    PREFECT_API_URL,
    PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED,
    temporary_settings,
)

from flows.runners.part import Part, VanishedError, do, ending, part_of, told
from lsb.config.job import JobConfig
from lsb.errors import ResourceError
from lsb.redaction import redact, without_secrets
from tasks.guarded.connection import guard

CONNECT_SECONDS = 10.0
guard()  # in Ray's workers, too


@task(name="work", persist_result=False, cache_policy=NO_CACHE)
def work(document: dict[str, Any]) -> dict[str, str]:
    """In a worker of Ray's: a part; how it ended."""
    return told(partial(do, part_of(document)))


WORK = work


class RayRunner:
    """Tasks of Ray's by their marks."""

    def __init__(self, config: JobConfig) -> None:
        self._config = config
        self._tasks: dict[str, Any] = {}
        self._runner: Any = None
        self._open = ExitStack()

    def __enter__(self) -> RayRunner:
        """Connect.

        Raises:
            ResourceError: Ray is not installed, or no cluster lets us in at the address.
        """
        for package in ("ray", "prefect_ray"):
            if find_spec(package) is None:
                raise ResourceError(f"execution.runner ray needs the package {package}; pip install 'lsb[ray]'")
        address = self._config.execution.ray.address
        assert address is not None
        _refuse_silence(address)
        from prefect_ray import RayTaskRunner

        # Ray says on standard output that a worker has died, where a command's result is to stand alone.
        self._open.enter_context(redirect_stdout(sys.stderr))
        self._runner = RayTaskRunner(address, {"log_to_driver": False, "logging_level": "ERROR"})
        try:
            with _handlers_kept():
                self._runner.__enter__()
        except Exception as error:
            self._open.close()
            raise ResourceError(
                f"no Ray cluster lets us in at {address} ({without_secrets(' '.join(f'{error}'.split()))}); see "
                "execution.ray.address, and RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH for its token"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        """End at once what is still there, and disconnect."""
        import ray

        for one in self._tasks.values():
            with suppress(Exception):
                ray.cancel(one, force=True)
        with self._open:
            self._runner.__exit__(None, None, None)

    def start(self, number: int, part: Part) -> None:
        """Submit a task. Ray tries none again by itself."""
        assert part.mark is not None
        # In a context without the flow run, which Ray would have to take along.
        self._tasks[part.mark] = Context().run(self._submit, part, PREFECT_API_URL.value())

    def _submit(self, part: Part, server: str | None) -> Any:
        from prefect_ray.context import remote_options

        asked = self._config.execution.ray
        settings = temporary_settings(
            # A worker that knows a server asks it for its version, and would fail where it cannot reach it.
            {PREFECT_API_URL: server, PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED: False},
            restore_defaults={PREFECT_API_KEY, PREFECT_API_AUTH_STRING},  # no secret of ours is Ray's to keep
        )
        with settings, remote_options(num_gpus=asked.num_gpus, num_cpus=asked.num_cpus, max_retries=0):
            return self._runner.submit(WORK, {"document": part.document()}).wrapped_future

    def ended(self) -> dict[str, Exception | None]:
        """Those that Ray has an answer of."""
        import ray

        if not self._tasks:
            return {}
        marks = {one: mark for mark, one in self._tasks.items()}
        done, _ = ray.wait([*marks], num_returns=len(marks), timeout=0)
        return {marks[one]: _ending(self._tasks.pop(marks[one])) for one in done}

    def stop(self, marks: Iterable[str]) -> None:
        """Ray interrupts those that run, as Ctrl-C would, and never begins the others."""
        import ray

        for mark in marks:
            if mark in self._tasks:
                ray.cancel(self._tasks[mark], force=False, recursive=False)


def _ending(one: Any) -> Exception | None:
    import ray

    try:
        state = ray.get(one)
        if state.is_completed():
            return ending(state.result())
        return VanishedError(redact(f"{state.name}: {state.message}"))
    except Exception as error:  # noqa: BLE001 Ray has many, and each says that it did not come to its end
        return VanishedError(redact(f"{type(error).__name__}: {error}"))


def _refuse_silence(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ResourceError(
            f"no Ray cluster answers at {address} ({error}); start it, or put right execution.ray.address"
        ) from error


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray puts a handler of its own in the place of ours."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
