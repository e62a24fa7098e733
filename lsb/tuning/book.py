"""What was tried, a line of JSON each, so that a search goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lsb.errors import UsageError
from lsb.tuning.bench import PARTS, Figures

SCHEMA = "lsb.tried/1"


@dataclass(frozen=True)
class Tried:
    """Settings that differ from the job's, and their figures after each part of the sample.

    Attributes:
        steps: fewer than there are parts if the settings were given up.
        failed: why there are none.
        seconds: that it took.
    """

    settings: Mapping[str, Any]
    steps: Sequence[Figures] = ()
    failed: str = ""
    seconds: float = 0.0

    @property
    def is_complete(self) -> bool:
        return len(self.steps) == PARTS

    @property
    def figures(self) -> Figures:
        """Of all that was seen."""
        return self.steps[-1]


@dataclass
class Book:
    """The lines of one file about one search; lines about others, and what is no line, are left alone.

    Args:
        key: of all that the figures depend on beside the settings.

    Raises:
        UsageError: the file cannot be read, or written.
    """

    path: Path
    key: str
    tried: list[Tried] = field(default_factory=list)

    def __post_init__(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        except OSError as error:
            raise self._unusable(error) from error
        self.tried = [found for found in map(self._read, lines) if found is not None]

    def add(self, tried: Tried) -> None:
        """Remember it; on the disk when this returns."""
        self.tried.append(tried)
        line = json.dumps({"schema": SCHEMA, "key": self.key, **asdict(tried)})
        try:
            with self.path.open("ab") as file:
                # A line that was cut off stays one of its own.
                file.write(f"{'' if _ends_a_line(self.path) else chr(10)}{line}\n".encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._unusable(error) from error

    def _read(self, line: bytes) -> Tried | None:
        try:
            found = json.loads(line)
            if (found.pop("schema"), found.pop("key")) != (SCHEMA, self.key):
                return None
            return Tried(**{**found, "steps": tuple(Figures(**step) for step in found["steps"])})
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    def _unusable(self, error: OSError) -> UsageError:
        return UsageError(
            f"cannot keep what is tried in {self.path}: {error.strerror}; put the job where you may write"
        )


def _ends_a_line(path: Path) -> bool:
    data = path.read_bytes()
    return not data or data.endswith(b"\n")
