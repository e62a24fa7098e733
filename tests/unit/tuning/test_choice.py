"""What is recommended, and what is said of it."""

from __future__ import annotations

from typing import Any

import pytest

from lsb.tuning.bench import PARTS, Figures
from lsb.tuning.book import Tried
from lsb.tuning.choice import COLUMNS, choose, excess
from tests.unit.tuning.standin import NOTHING, StandIn, figures


def tried(name: str, found: Figures) -> Tried:
    return Tried({"name": name}, (found,) * PARTS)


def names(choice: Any) -> list[str]:
    return [one.settings["name"] for one in choice.front]


def choice_of(*found: tuple[str, Figures], **bench: Any) -> Any:
    return choose([tried(*one) for one in found], StandIn(**bench))  # type: ignore[arg-type]


def test_what_goes_farther_and_comes_out_worse_is_shown_as_beyond() -> None:
    """As on the emoji: beyond a guidance pictures come farther, and are worse by KID."""
    choice = choice_of(
        ("w 4", figures(0.41, 0.07, 7.0)),
        ("w 10", figures(0.82, 0.15, 0.5)),
        ("w 12", figures(0.94, 0.17, 1.6)),
        ("w 10, larger tau", figures(0.80, 0.20, 0.6)),
    )
    assert choice.best.settings == {"name": "w 10"}
    assert names(choice) == ["w 4", "w 10"]
    assert choice.beyond.settings == {"name": "w 12"}
    assert not choice.remarks


def test_likeness_that_brings_pictures_no_nearer_to_the_target_is_not_recommended() -> None:
    """Measured on 48 emoji along the guidance: at 9, which is the likest that KID allows, colours suffer already.

    KID is shifted by as much for all, since doing nothing has 30 here and had 21.8.
    """
    choice = choice_of(
        ("w 6", figures(0.555, 0.098, 6.51)),
        ("w 7", figures(0.632, 0.111, 5.66)),
        ("w 8", figures(0.701, 0.126, 5.41)),
        ("w 9", figures(0.768, 0.139, 5.44)),
        ("w 10", figures(0.830, 0.152, 6.31)),
        gap=27.5,
    )
    assert choice.best.settings == {"name": "w 8"}
    assert choice.beyond.settings == {"name": "w 10"}


def test_where_kid_tells_nothing_likeness_less_change_decides() -> None:
    for gap in (-1.0, 0.0):
        choice = choice_of(("near", figures(0.5, 0.1, 9.0)), ("far", figures(0.9, 0.2, 3.0)), gap=gap)
        assert choice.best.settings == {"name": "far"}


def test_the_recommended_one_is_shown_where_another_is_likelier_and_keeps_more() -> None:
    """By KID it is better all the same."""
    found = [("a", figures(0.70, 0.12, 5.8)), ("best", figures(0.68, 0.125, 5.3)), ("weak", figures(0.3, 0.05, 20.0))]
    choice = choice_of(*found)
    assert choice.best.settings == {"name": "best"}
    assert names(choice) == ["weak", "best", "a"]
    more = [(str(place), figures(0.3 + place / 50, 0.05 + place / 500, 20.0 - place)) for place in range(1, 8)]
    longer = choice_of(*found, *more)
    assert (longer.best.settings, len(longer.front)) == ({"name": "best"}, COLUMNS)
    likeness = [one.figures.likeness for one in longer.front]
    assert likeness == sorted(likeness)
    assert longer.best in longer.front


def test_what_kid_finds_worse_than_nothing_is_said_to_be_no_better() -> None:
    choice = choice_of(("likelier", figures(0.2, 0.05, 30.5)))
    assert choice.remarks[0].startswith("Doing nothing is as good")


def test_what_is_lost_of_the_layout_counts() -> None:
    """Pictures that are drawn anew are like the target, and have nothing of the source."""
    choice = choice_of(("drawn anew", figures(1.0, 0.9, -2.0)), ("translated", figures(0.7, 0.2, 5.0)))
    assert choice.best.settings == {"name": "translated"}
    assert names(choice) == ["translated", "drawn anew"]


def test_kid_vetoes_only_what_goes_farther_and_comes_out_worse() -> None:
    gap, others = 30.0, [NOTHING, figures(0.5, 0.1, 5.0)]
    assert excess(figures(0.6, 0.1, 5.7), others, gap) == 0
    assert excess(figures(0.6, 0.1, 6.5), others, gap) == pytest.approx(0.025)
    assert excess(figures(0.4, 0.1, 29.0), others, gap) == 0
    assert excess(figures(0.6, 0.1, 99.0), others, 0.0) == 0


def test_a_front_that_is_long_is_shown_in_part_with_the_recommended_one() -> None:
    found = [(str(place), figures(place / 20, place**2 / 700, 30 - place)) for place in range(1, 20)]
    choice = choice_of(*found)
    assert len(choice.front) <= COLUMNS
    assert choice.best in choice.front
    assert names(choice)[0] == "1"
    likeness = [one.figures.likeness for one in choice.front]
    assert likeness == sorted(likeness)


def test_doing_nothing_is_said_to_be_as_good() -> None:
    choice = choice_of(("weak", figures(0.03, 0.02, 29.0)))
    assert len(choice.remarks) == 1
    assert choice.remarks[0].startswith("Doing nothing is as good")


@pytest.mark.parametrize(("blur", "is_as_good"), [(figures(0.8, 0.1, 6.0), True), (figures(0.8, 0.1, 60.0), False)])
def test_blurring_is_said_to_be_as_good(blur: Figures, is_as_good: bool) -> None:
    """By likeness alone it often is: a network sees softness where the target is soft. KID tells them apart."""
    choice = choice_of(("good", figures(0.8, 0.15, 5.5)), blurs=[(0.01, figures(0, 0, 30)), (0.02, blur)])
    assert [remark.startswith("Blurring is as good") for remark in choice.remarks] == [True] * is_as_good
    if is_as_good:
        assert "2 % of their side" in choice.remarks[0]


def test_where_nothing_may_be_recommended_that_is_said() -> None:
    choice = choose([Tried({"name": "broken"}, (), "NaN"), Tried({"name": "early"}, (NOTHING,))], StandIn())  # type: ignore[arg-type]
    assert choice.best is None
    assert not choice.front
    assert choice.remarks[0].startswith("No settings were found")
    assert choice_of(("one", figures(0.5, 0.1, 3.0)), gap=-1.0).remarks[0].startswith("KID does not tell")
