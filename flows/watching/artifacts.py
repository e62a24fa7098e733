"""What a run shows in Prefect's pages: progress, a table of shards that failed, where the report lies."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import copy_context
from functools import partial
from threading import Thread
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectException

from lsb.pictures.sources import described
from lsb.progress import Progress
from lsb.redaction import redact, shortened, visible
from lsb.views.problems import ProblemGroup
from tasks.guarded.connection import lose, lost

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_UPDATES = 2.0
UNREACHABLE = (httpx.HTTPError, PrefectException, OSError)


class ArtifactProgress(Progress):
    """One progress artifact for each thing under way. Work does not wait for updates, and those that a slow server has
    no time for are left out."""

    def __init__(self, run: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._run = run
        self._clock = clock
        self._artifacts: dict[str, UUID] = {}
        self._done: dict[str, int] = {}
        self._total: dict[str, int] = {}
        self._said: dict[str, float] = {}
        self._telling: Thread | None = None

    def start(self, name: str, total: int) -> None:
        self._done[name], self._total[name], self._said[name] = 0, total, self._clock()
        key = artifact_key(self._run, name)
        made = _tell(lambda: create_progress_artifact(0.0, key=key, description=f"{name} of {self._run}"))
        if isinstance(made, UUID):
            self._artifacts[name] = made

    def advance(self, name: str, n: int = 1, **figures: float) -> None:
        self._done[name] = self._done.get(name, 0) + n
        now = self._clock()
        idle = self._telling is None or not self._telling.is_alive()
        if idle and name in self._artifacts and now - self._said[name] >= SECONDS_BETWEEN_UPDATES:
            self._said[name] = now
            percent = min(100.0, 100.0 * self._done[name] / max(1, self._total[name]))
            update = partial(copy_context().run, self._update, self._artifacts[name], percent)
            self._telling = Thread(target=update, daemon=True)
            self._telling.start()

    def finish(self, name: str) -> None:
        if name in self._artifacts:
            if self._telling is not None:
                self._telling.join()
            complete = self._done[name] >= self._total[name]
            percent = 100.0 if complete else 100.0 * self._done[name] / self._total[name]
            self._update(self._artifacts.pop(name), percent)

    def _update(self, artifact: UUID, percent: float) -> None:
        _tell(lambda: update_progress_artifact(artifact, percent))


def show_failed_shards(run_id: str, failures: Mapping[str, str]) -> None:
    """A table of shards and reasons."""
    show_table(
        f"{run_id}-failed-shards", [{"shard": shard, "reason": reason} for shard, reason in sorted(failures.items())]
    )


def show_table(name: str, rows: Sequence[Mapping[str, str]]) -> None:
    """A table of texts; paths and secrets in them are not shown."""
    shown = [{column: redact(text) for column, text in row.items()} for row in rows]
    _tell(lambda: create_table_artifact(shown, key=artifact_key(name)))


def show_report(
    run_id: str,
    report: str,
    counts: Mapping[str, int],
    left_out: Mapping[str, int],
    problems: Sequence[ProblemGroup] = (),
) -> None:
    """Where the report lies, counts, what of the source is no record, and pictures without an output, with remedies."""
    lines = [f"- {status}: {count}" for status, count in sorted(counts.items())]
    lines += [f"- left out: {described(left_out)}"] if left_out else []
    # No link: a path or an s3:// address leads nowhere in a browser.
    text = "\n".join([f"# {run_id}", "", f"    {visible(report)}", "", *lines, "", *_problem_lines(problems), ""])
    _tell(lambda: create_markdown_artifact(text, key=artifact_key(run_id, "report")))


def _problem_lines(problems: Sequence[ProblemGroup]) -> Iterator[str]:
    """Markdown. Whatever comes from a file's name or from an error stands in indented code, one line each."""
    for group in problems:
        yield from (f"## {group.count} {group.status} {group.code}", "", group.remedy, "")
        if group.command:
            yield from (f"    {visible(group.command)}", "", "Without an output:", "")
        yield from (f"    {shortened(problem.key)}  {shortened(problem.detail)}" for problem in group.pictures)
        if group.count > len(group.pictures):
            yield f"    and {group.count - len(group.pictures)} more"
        yield ""


def artifact_key(*parts: str) -> str:
    """Prefect's keys are lower-case letters, digits and dashes."""
    raw = "-".join(parts).lower()
    return "-".join(filter(None, "".join(c if c.isascii() and c.isalnum() else "-" for c in raw).split("-")))


def _tell(make: Callable[[], object]) -> object:
    """Tell Prefect's server, unless it is lost, and never again after it did not answer."""
    if lost():
        return None
    try:
        return make()
    except httpx.HTTPStatusError as error:
        # It is there, and may have had too much to do: a page that lacks this is no reason to tell it nothing more.
        logger.info("Prefect's server did not take an artifact: %s", redact(str(error)))
        return None
    except UNREACHABLE as error:
        lose(error)
        return None
