"""Which objects a check looks at when it does not look at all of them."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from lsb.records import sha256


def sampled(names: Iterable[str], count: int | None, seed: str = "") -> list[str]:
    """`count` of `names` in order, the same ones each time for the same seed; None: all of them."""
    if count is None:
        return sorted(names)
    return sorted(heapq.nsmallest(count, names, key=lambda name: sha256(f"{seed}{name}".encode())))
