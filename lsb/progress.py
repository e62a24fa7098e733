"""Progress as an injected object: the library reports, the caller decides what is shown."""

from __future__ import annotations

import threading
from typing import Protocol


class Progress(Protocol):
    """Named bars. `advance` may carry figures, such as a loss, to be shown beside the bar."""

    def start(self, name: str, total: int) -> None: ...

    def advance(self, name: str, n: int = 1, **figures: float) -> None: ...

    def finish(self, name: str) -> None: ...


class NoProgress:
    """Shows nothing."""

    def start(self, name: str, total: int) -> None:
        del name, total

    def advance(self, name: str, n: int = 1, **figures: float) -> None:
        del name, n, figures

    def finish(self, name: str) -> None:
        del name


class PartProgress(Progress):
    """Parts of one thing that is under way: what advances a part advances the whole."""

    def __init__(self, whole: Progress, name: str) -> None:
        self._whole = whole
        self._name = name
        self._lock = threading.Lock()

    def start(self, name: str, total: int) -> None:
        del name, total

    def advance(self, name: str, n: int = 1, **figures: float) -> None:
        del name
        with self._lock:  # parts may be done in several threads
            self._whole.advance(self._name, n, **figures)

    def finish(self, name: str) -> None:
        del name
