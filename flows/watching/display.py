"""Progress in the terminal: bars where somebody looks on, plain lines where a log is kept."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from lsb.logs import json_wanted
from lsb.progress import Progress
from lsb.redaction import visible

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


def terminal_progress(stream: TextIO | None = None) -> LineProgress | BarProgress:
    """Bars if `stream` (standard error by default) is a terminal, else lines; where JSON is wanted, in the log."""
    if json_wanted():
        return LoggedProgress(sys.stderr)
    stream = stream or sys.stderr
    return BarProgress(stream) if stream.isatty() else LineProgress(stream)


@dataclass
class _Line:
    total: int
    done: int = 0
    started: float = 0.0
    said: float = 0.0
    told: int = 0  # of what is done
    figures: dict[str, float] = field(default_factory=dict)


class LineProgress(Progress):
    """A line when something starts, every ten seconds, and when it ends."""

    def __init__(
        self, stream: TextIO, clock: Callable[[], float] = time.monotonic, *, every: float = SECONDS_BETWEEN_LINES
    ) -> None:
        """`every`: seconds."""
        self._stream = stream
        self._clock = clock
        self._every = every
        self._lines: dict[str, _Line] = {}

    def start(self, name: str, total: int) -> None:
        now = self._clock()
        self._lines[name] = _Line(total, started=now, said=now)
        self._say(f"{name}: 0 of {total}")

    def advance(self, name: str, n: int = 1, **figures: float) -> None:
        line = self._lines.setdefault(name, _Line(0, started=self._clock(), said=self._clock()))
        line.done += n
        _add(line.figures, figures)
        now = self._clock()
        if now - line.said >= self._every and line.told < line.done < line.total:
            line.said, line.told = now, line.done
            rate = line.done / (now - line.started)
            pace = f", {rate:.1f}/s, {(line.total - line.done) / rate:.0f} s left" if rate else ""
            self._say(f"{name}: {line.done} of {line.total}{_shown(line.figures)}{pace}")

    def finish(self, name: str) -> None:
        line = self._lines.pop(name, None)
        if line is not None:
            seconds = self._clock() - line.started
            ended = "done in" if line.done >= line.total else "left after"
            self._say(f"{name}: {line.done} of {line.total}{_shown(line.figures)}, {ended} {seconds:.1f} s")

    def close(self) -> None:
        """Nothing to give back."""

    def _say(self, text: str) -> None:
        self._stream.write(visible(text) + "\n")
        self._stream.flush()


class LoggedProgress(LineProgress):
    """The same lines in this process's log."""

    def _say(self, text: str) -> None:
        logger.info("%s", text)


class BarProgress(Progress):
    """One bar for each thing under way."""

    def __init__(self, stream: TextIO) -> None:
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=Console(file=stream),
        )
        self._tasks: dict[str, TaskID] = {}
        self._figures: dict[str, dict[str, float]] = {}

    def start(self, name: str, total: int) -> None:
        if not self._tasks:
            self._bars.start()
        self._figures[name] = {}
        self._tasks[name] = self._bars.add_task(visible(name), total=total, figures="")

    def advance(self, name: str, n: int = 1, **figures: float) -> None:
        if name not in self._tasks:
            self.start(name, 0)
        _add(self._figures[name], figures)
        self._bars.update(self._tasks[name], advance=n, figures=_shown(self._figures[name]).lstrip(", "))

    def finish(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            self._bars.stop_task(task)
        if not self._tasks:
            self._bars.stop()

    def close(self) -> None:
        """Give the terminal back, whatever is still under way."""
        self._tasks.clear()
        self._bars.stop()


class ManyProgress(Progress):
    """Several displays of the same progress."""

    def __init__(self, displays: Sequence[Progress]) -> None:
        self._displays = tuple(displays)

    def start(self, name: str, total: int) -> None:
        for display in self._displays:
            display.start(name, total)

    def advance(self, name: str, n: int = 1, **figures: float) -> None:
        for display in self._displays:
            display.advance(name, n, **figures)

    def finish(self, name: str) -> None:
        for display in self._displays:
            display.finish(name)


def _add(figures: dict[str, float], new: Mapping[str, float]) -> None:
    """Counts add up, measures such as a loss replace the one before."""
    for name, value in new.items():
        figures[name] = figures.get(name, 0) + value if isinstance(value, int) else value


def _shown(figures: Mapping[str, float]) -> str:
    parts = [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
    ]
    return "".join(f", {part}" for part in parts if not part.endswith(" 0"))
