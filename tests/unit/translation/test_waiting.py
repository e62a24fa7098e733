"""Pictures that wait for others of their size."""

from __future__ import annotations

from PIL import Image

from lsb.pictures.geometry import Size
from lsb.translation.batch import Picture
from lsb.translation.waiting import Waiting
from tests.ledger import tasks

WIDE, TALL, SQUARE = (4, 2), (2, 4), (3, 3)


def picture(name: str, size: Size) -> Picture:
    (task,) = tasks([Image.new("RGB", size)], [name])
    return Picture([{"record_id": name}], {}, task)


def names(batches: object) -> list[str]:
    return ["".join(picture.task.digest for picture in batch) for batch in batches]  # type: ignore[attr-defined]


def filled(waiting: Waiting, *named: tuple[str, Size]) -> Waiting:
    for name, size in named:
        waiting.add(picture(name, size))
    return waiting


def test_a_batch_is_of_one_size_and_goes_when_it_is_full() -> None:
    waiting = filled(Waiting(), ("a", WIDE), ("b", TALL), ("c", WIDE), ("d", SQUARE))
    assert names(waiting.full(2)) == ["ac"]
    assert names(waiting.full(2)) == []
    filled(waiting, ("e", TALL), ("f", TALL), ("g", TALL), ("h", TALL))
    assert names(waiting.full(2)) == ["be", "fg"]
    assert names(waiting.rest(2)) == ["h", "d"]
    assert names(waiting.rest(2)) == []


def test_the_rest_is_cut_into_batches() -> None:
    waiting = filled(Waiting(), *((name, WIDE) for name in "abcde"))
    assert names(waiting.rest(2)) == ["ab", "cd", "e"]


def test_what_waits_is_bounded() -> None:
    """Each of these has 48 or 54 bytes, its source included: three may wait, and the largest group goes first."""
    waiting = filled(Waiting(largest=160), ("a", WIDE), ("b", TALL), ("c", TALL))
    assert names(waiting.full(8)) == []
    waiting.add(picture("d", SQUARE))
    assert names(waiting.full(8)) == ["bc"]
    assert names(waiting.rest(8)) == ["a", "d"]


def test_a_single_picture_larger_than_all_that_may_wait_goes_at_once() -> None:
    waiting = filled(Waiting(largest=10), ("a", WIDE))
    assert names(waiting.full(8)) == ["a"]
