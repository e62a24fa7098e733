"""Pictures that wait for others of their size, so that a batch holds one size and few are padded."""

from __future__ import annotations

from collections.abc import Iterator

from lsb.pictures.geometry import Size
from lsb.translation.batch import Picture

LARGEST = 256 << 20  # bytes that may wait


class Waiting:
    """Of one shard, by size, in the order in which they came."""

    def __init__(self, largest: int = LARGEST) -> None:
        """`largest`: bytes of pixels that may wait; beyond that the largest group goes as it is."""
        self._largest = largest
        self._groups: dict[Size, list[Picture]] = {}

    def add(self, picture: Picture) -> None:
        self._groups.setdefault(picture.task.frame.working, []).append(picture)

    def full(self, batch: int) -> Iterator[list[Picture]]:
        """Batches that need not wait any longer: whole ones, then others as long as too much is held."""
        for size in list(self._groups):
            while len(self._groups.get(size, ())) >= batch:
                yield self._take(size, batch)
        while self._bytes() > self._largest:
            yield self._take(max(self._groups, key=lambda size: len(self._groups[size])), batch)

    def rest(self, batch: int) -> Iterator[list[Picture]]:
        """All the others."""
        while self._groups:
            yield self._take(next(iter(self._groups)), batch)

    def _take(self, size: Size, batch: int) -> list[Picture]:
        taken, left = self._groups[size][:batch], self._groups[size][batch:]
        if left:
            self._groups[size] = left
        else:
            del self._groups[size]
        return taken

    def _bytes(self) -> int:
        return sum(picture.held_bytes for group in self._groups.values() for picture in group)
