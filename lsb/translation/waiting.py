"""Pictures that wait for others of their size, so that a batch holds one size and few are padded.

One in tiles fills batches by itself and waits for none.
"""

from __future__ import annotations

from collections.abc import Iterator

from lsb.figures import FIGURES
from lsb.pictures.geometry import Size
from lsb.pictures.tiles import Tiles
from lsb.translation.batch import Picture

Group = tuple[Size, Tiles | None]

LARGEST = 256 << 20  # bytes that may wait


class Waiting:
    """Of one shard, by size, in the order in which they came."""

    def __init__(self, largest: int = LARGEST) -> None:
        """`largest`: bytes that may wait; beyond that the largest group goes as it is."""
        self._largest = largest
        self._bytes = 0
        self._groups: dict[Group, list[Picture]] = {}

    def add(self, picture: Picture) -> None:
        frame = picture.task.frame
        FIGURES.wait(1)
        self._bytes += picture.held_bytes
        self._groups.setdefault((frame.working, frame.tiles), []).append(picture)

    def full(self, batch: int) -> Iterator[list[Picture]]:
        """Batches that need not wait any longer: whole ones, then others as long as too much is held."""
        for group in list(self._groups):
            while len(self._groups.get(group, ())) >= _most(group, batch):
                yield self._take(group, batch)
        while self._bytes > self._largest:
            yield self._take(max(self._groups, key=lambda group: len(self._groups[group])), batch)

    def rest(self, batch: int) -> Iterator[list[Picture]]:
        """All the others."""
        while self._groups:
            yield self._take(next(iter(self._groups)), batch)

    def _take(self, group: Group, batch: int) -> list[Picture]:
        most = _most(group, batch)
        taken, left = self._groups[group][:most], self._groups[group][most:]
        if left:
            self._groups[group] = left
        else:
            del self._groups[group]
        self._bytes -= sum(picture.held_bytes for picture in taken)
        FIGURES.wait(-len(taken))
        return taken

    def leave(self) -> None:
        """Nobody takes the others any more."""
        FIGURES.wait(-sum(map(len, self._groups.values())))
        self._groups, self._bytes = {}, 0


def _most(group: Group, batch: int) -> int:
    """Pictures of a group that go to the model at once."""
    return batch if group[1] is None else 1
