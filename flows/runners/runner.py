"""What a runner is: it starts copies, sees which have ended, and ends them. What they did is asked of the store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, Self

from flows.runners.part import Part
from lsb.config.job import JobConfig
from lsb.jobs.job import check_device


class AwayError(Exception):
    """Whoever starts the copies, such as Prefect's server, does not answer now."""


class Runner(Protocol):
    """Copies by their marks. Entered before anything else is asked of it; what is still there at its exit is ended."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def start(self, number: int, part: Part) -> None:
        """Start a copy.

        Args:
            number: which of those that are to be at work at once, from 0.

        Raises:
            AwayError: it cannot be told whether it was.
            LsbError: it cannot, and will not be.
        """

    def ended(self) -> dict[str, Exception | None]:
        """Copies that have ended since this was last asked, each with its `flows.runners.part.ending`.

        Raises:
            AwayError: nobody can tell.
        """

    def stop(self, marks: Iterable[str]) -> None:
        """Ask copies to end in order; AwayError if they cannot be asked."""


def runner_of(config: JobConfig) -> Runner:
    """The runner of a job's settings. What it needs is imported now, and no other's."""
    if config.execution.runner == "prefect":
        from flows.runners.pool import PoolRunner

        return PoolRunner(config)
    if config.execution.runner == "ray":
        from flows.runners.ray_cluster import RayRunner

        return RayRunner(config)
    from flows.runners.local import LocalRunner

    return LocalRunner(config)


def check_runner(config: JobConfig) -> None:
    """Refuse a job that cannot be translated where its settings say, before any time of a device is spent.

    Raises:
        ConfigError: this machine has no such device, of runner `local`.
        ResourceError: what the runner needs is not installed, does not answer, or has nobody at work.
    """
    if config.execution.runner == "local":
        check_device(config)
        return
    with runner_of(config):
        pass
