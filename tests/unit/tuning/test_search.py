"""A search finds what is good, remembers what it tried, and goes on from there."""

from __future__ import annotations

import math
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from lsb.bridge.methods.sdedit import Sdedit
from lsb.bridge.settings import BridgeSettings
from lsb.progress import NoProgress
from lsb.tuning import search as module
from lsb.tuning.book import Book, Tried
from lsb.tuning.choice import choose
from lsb.tuning.search import search, try_all
from lsb.tuning.space import Space
from tests.unit.tuning.standin import StandIn, by_formula, figures

SPACE = Space(BridgeSettings(tau=0.575), 16, 15.0)


def searched(book: Book, tries: int, bench: Any = None, space: Space = SPACE) -> StandIn:
    """There is time for so many settings, the job's own not counted."""
    bench, end = bench or StandIn(), len(book.tried) + tries + (not book.tried)
    search(bench, space, book, lambda: 1e6 if len(book.tried) < end else 0.0, 0, NoProgress())
    return bench


def test_it_comes_near_the_best_and_gives_up_what_is_not(tmp_path: Path) -> None:
    book = Book(tmp_path / "tune" / "tried.jsonl", "key")
    bench = searched(book, 60)
    best = choose(book.tried, bench).best  # type: ignore[arg-type]
    assert best is not None
    assert best.figures.gain > by_formula(BridgeSettings(tau=0.575)).gain + 0.1
    assert best.figures.gain == pytest.approx(0.72, abs=0.09)  # a step of 0.42 by a tau of 0.05
    given_up = [one for one in book.tried if not one.is_complete and not one.failed]
    assert 5 < len(given_up) < 50
    assert len(bench.asked) < 3 * len(book.tried)
    assert book.tried[0].settings == SPACE.full({})


def test_what_the_network_cannot_do_is_passed_over(tmp_path: Path) -> None:
    book = Book(tmp_path / "tried.jsonl", "key")
    searched(book, 40)
    failed = [one for one in book.tried if one.failed]
    assert failed
    assert all(one.failed == "the network returned NaN" and not one.steps for one in failed)


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Killed at any byte of the file: what was whole counts, and nothing is tried twice."""
    path = tmp_path / "tried.jsonl"
    searched(Book(path, "key"), 12)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    book = Book(path, "key")
    assert len(book.tried) == 12
    searched(book, 5)
    again = Book(path, "key")
    assert [one.settings for one in again.tried] == [one.settings for one in book.tried]
    assert len(again.tried) == 17
    settings = [tuple(sorted(one.settings.items())) for one in again.tried]
    assert len(set(settings)) == len(settings)


def test_a_book_tells_searches_apart(tmp_path: Path) -> None:
    searched(Book(tmp_path / "tried.jsonl", "one"), 3)
    assert not Book(tmp_path / "tried.jsonl", "other").tried
    searched(Book(tmp_path / "tried.jsonl", "other"), 2)
    assert [len(Book(tmp_path / "tried.jsonl", key).tried) for key in ("one", "other")] == [4, 3]


def test_a_search_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRIALS", 6)
    book = Book(tmp_path / "tried.jsonl", "key")
    assert len(searched(book, 1000).asked) <= 18
    assert len(book.tried) == 6
    assert not searched(book, 1000).asked


def test_an_interrupted_search_leaves_what_it_tried(tmp_path: Path) -> None:
    calls = count()

    def interrupted(method: Any) -> Any:
        if next(calls) == 17:
            raise KeyboardInterrupt
        return by_formula(method)

    with pytest.raises(KeyboardInterrupt):
        searched(Book(tmp_path / "tried.jsonl", "key"), 100, StandIn(interrupted))
    left = Book(tmp_path / "tried.jsonl", "key").tried
    assert left
    assert left[0].settings == SPACE.full({})


def test_time_that_is_over_ends_what_was_begun(tmp_path: Path) -> None:
    """After the first third of a setting: it is not in the book, and no worse for it."""
    book, bench = Book(tmp_path / "tried.jsonl", "key"), StandIn()
    bars = Bars()
    search(bench, SPACE, book, lambda: 8.0 if len(bench.asked) <= 3 * 4 else 0.0, 0, bars)  # type: ignore[arg-type]
    assert len(bench.asked) == 3 * 4 + 1
    assert len(book.tried) == len(Book(tmp_path / "tried.jsonl", "key").tried) == 4
    assert bars.calls[0] == ("tune, seconds", 8)
    assert sum(tried for _, tried in bars.calls[1:]) == 4
    assert sum(passed for passed, _ in bars.calls[1:]) == 8


def test_a_count_bounds_it_however_long_it_takes(tmp_path: Path) -> None:
    """Of each call; the bar counts the same, and is not one try behind when it ends."""
    for tried in (5, 10):
        book, bars = Book(tmp_path / "tried.jsonl", "key"), Bars()
        search(StandIn(), SPACE, book, lambda: math.inf, 0, bars, 5)  # type: ignore[arg-type]
        assert len(book.tried) == tried
        assert bars.calls[0] == ("tune", 5)
        assert [sum(column) for column in zip(*bars.calls[1:], strict=True)] == [5, tried]


def test_time_for_the_sheet_is_left(tmp_path: Path) -> None:
    """As much as settings take that are not given up."""
    book = Book(tmp_path / "tried.jsonl", "key")
    book.add(Tried(SPACE.full({}), (figures(0.1, 0.1, 9.0),) * 3, "", 40.0))
    assert not searched_within(book, 39.0).asked
    assert searched_within(book, 41.0).asked


def searched_within(book: Book, seconds: float) -> StandIn:
    bench = StandIn()
    left = iter([seconds, seconds, seconds])
    search(bench, SPACE, book, lambda: next(left, 0.0), 0, NoProgress())  # type: ignore[arg-type]
    return bench


class Bars(NoProgress):
    def __init__(self) -> None:
        self.calls: list[tuple[Any, float]] = []

    def start(self, name: str, total: int) -> None:
        self.calls.append((name, total))

    def advance(self, name: str, n: int = 1, **figures: float) -> None:
        self.calls.append((n, figures["tried"]))


def test_a_grid_is_tried_whole_and_once(tmp_path: Path) -> None:
    book, bench = Book(tmp_path / "tried.jsonl", "key"), StandIn()
    wanted = [{"tau": 0.1}, {"tau": 0.3, "guidance": 5.0}]
    for _ in range(2):
        try_all(bench, SPACE, wanted, book, NoProgress())  # type: ignore[arg-type]
    assert [one.settings for one in book.tried] == [SPACE.full(values) for values in wanted]
    assert [(method.tau, method.guidance) for method in bench.asked[::3]] == [(0.1, 11.0), (0.3, 5.0)]  # type: ignore[attr-defined]


def test_dials_reach_no_farther_than_the_model() -> None:
    low, high = next((dial.low, dial.high) for dial in SPACE.dials if dial.name == "tau")
    assert (low, high) == (pytest.approx(0.023), pytest.approx(0.8625))
    narrow = Space(BridgeSettings(tau=0.1), 16, 0.2)
    tau = next(dial for dial in narrow.dials if dial.name == "tau")
    assert tau.high == pytest.approx(0.4)
    BridgeSettings(tau=tau.high).refuse_beyond(0.2 + 1e-9)
    sigma = next(dial for dial in Space(Sdedit(), 64, 0.5).dials if dial.name == "sigma")
    assert sigma.high == pytest.approx(0.5)
    assert {dial.name for dial in Space(Sdedit(), 64, 15.0).dials} == {"sigma", "guidance"}


def test_what_somebody_has_chosen_is_not_tried() -> None:
    chosen = BridgeSettings(solver="adams_moulton", noise="mix")
    assert Space(chosen, 16, 15.0).choices == {"start": ("published", "centred")}
    assert Space(BridgeSettings(preset="published"), 16, 15.0).choices == {}
    assert "solver" not in Space(BridgeSettings(gamma=0.5), 16, 15.0).choices
    assert figures(1.5, 0.2, 0).gain == pytest.approx(0.8)
