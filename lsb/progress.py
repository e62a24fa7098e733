"""Progress as an injected object: the library reports, the caller decides what is shown."""

from __future__ import annotations

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
