from __future__ import annotations

import io

from flows.watching.display import BarProgress, LineProgress, ManyProgress, terminal_progress
from lsb.progress import PartProgress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_say_start_pace_and_end() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = LineProgress(stream, clock)
    progress.start("translate", 40)
    progress.advance("translate", 1, ok=1)
    clock.now = 10.0
    progress.advance("translate", 19, ok=18, failed=1, loss=0.5)
    progress.advance("translate", 20, ok=20, failed=0, loss=0.25)
    progress.finish("translate")
    assert stream.getvalue().splitlines() == [
        "translate: 0 of 40",
        "translate: 20 of 40, ok 19, failed 1, loss 0.5, 2.0/s, 10 s left",
        "translate: 40 of 40, ok 39, failed 1, loss 0.25, done in 10.0 s",
    ]


def test_nothing_is_said_twice_nor_of_an_end_that_was_not_reached() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = LineProgress(stream, clock)
    progress.start("translate", 2)
    clock.now = 10.0
    progress.advance("translate", 0)
    progress.finish("translate")
    assert stream.getvalue().splitlines() == [
        "translate: 0 of 2",
        "translate: 0 of 2, left after 10.0 s",
    ]


def test_a_log_gets_lines_and_not_bars() -> None:
    assert isinstance(terminal_progress(io.StringIO()), LineProgress)


def test_bars_end_with_everything_done() -> None:
    stream = io.StringIO()
    progress = BarProgress(stream)
    progress.start("translate", 2)
    progress.advance("translate", 2, ok=2)
    progress.finish("translate")
    progress.close()
    assert "translate" in stream.getvalue()
    assert "2/2" in stream.getvalue()


def test_parts_advance_the_whole_on_every_display() -> None:
    first, second = io.StringIO(), io.StringIO()
    both = ManyProgress([LineProgress(first), LineProgress(second)])
    both.start("translate", 2)
    for shard in ("00000", "00001"):
        part = PartProgress(both, "translate")
        part.start(shard, 1)
        part.advance(shard)
        part.finish(shard)
    both.finish("translate")
    assert first.getvalue() == second.getvalue()
    assert first.getvalue().startswith("translate: 0 of 2\ntranslate: 2 of 2, done")
