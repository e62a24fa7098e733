"""What a column of the table of measures is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """One measure. `digits` after the point; `better` is what an improvement looks like: `lower` or `higher`."""

    key: str
    title: str
    better: str
    meaning: str
    digits: int = 3
    percent: bool = False
