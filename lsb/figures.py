"""What this process has done so far, in figures that somebody may want to watch."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Figures:
    """Counted since the process began; any thread may add.

    Attributes:
        records: committed rows by status.
        failures: committed rows without an output, by code.
        device_seconds: with the model.
        batches: that the model was asked for and answered.
        waiting: pictures that are read and wait for the model, now.
    """

    records: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    device_seconds: float = 0.0
    batches: int = 0
    waiting: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def commit(self, records: Counter[str], failures: Counter[str]) -> None:
        with self._lock:
            self.records += records
            self.failures += failures

    def batch(self, device_seconds: float) -> None:
        with self._lock:
            self.batches += 1
            self.device_seconds += device_seconds

    def wait(self, pictures: int) -> None:
        """So many more, or fewer, wait."""
        with self._lock:
            self.waiting += pictures


FIGURES = Figures()
