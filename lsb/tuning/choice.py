"""Which of what was tried is worth having: the front, what KID vetoes, what is recommended, and what to think of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lsb.tuning.bench import Bench, Figures
from lsb.tuning.book import Tried

SLACK = 0.025  # of the KID that lies between the two looks: worse by more than that is worse
COLUMNS = 5  # settings of the front on a sheet
_ERRORS = 2.0  # standard errors that a gain must exceed
_LAYOUT = 0.5  # what it costs that nothing is left of the layout, if all of the KID between the looks is worth 1


@dataclass(frozen=True)
class Choice:
    """What is to be said of a search.

    Attributes:
        front: settings from the most faithful to the likest, of which none is both less like and less faithful than
            another, and the recommended one among them; at most `COLUMNS`.
        best: the one that is recommended; None if all were vetoed or failed.
        beyond: the nearest one that goes farther than that and was vetoed, if there is one.
        remarks: what somebody should know, a sentence each.
    """

    front: Sequence[Tried]
    best: Tried | None
    beyond: Tried | None
    remarks: Sequence[str]


def excess(figures: Figures, others: Sequence[Figures], gap: float) -> float:
    """By what share of the gap KID is worse than it may be: it has grown though pictures came farther.

    Args:
        others: of other settings, or of pictures that were left alone, on the same sources.
        gap: the KID that lies between the two looks; nothing is vetoed where there is none.
    """
    if gap <= 0:
        return 0.0
    least = min((other.kid for other in others if other.likeness <= figures.likeness), default=figures.kid)
    return max(0.0, (figures.kid - least) / gap - SLACK)


def worth(figures: Figures, nothing: Figures, gap: float) -> float:
    """The share of the gap that KID has closed, less half of what has changed of the layout.

    Likeness goes on rising where pictures get no nearer to the target's: what KID closes has its greatest value before.
    Where KID tells nothing, the gain.

    Args:
        nothing: of the same pictures, left alone.
        gap: the KID that lies between the two looks.
    """
    if gap <= 0:
        return figures.gain
    return (nothing.kid - figures.kid) / gap - _LAYOUT * figures.change


def choose(tried: Sequence[Tried], bench: Bench) -> Choice:
    """What to make of settings that were tried."""
    complete = [one for one in tried if one.is_complete]
    others = [bench.nothing, *(one.figures for one in complete)]
    allowed = [one for one in complete if excess(one.figures, others, bench.gap) == 0]
    best = max(allowed, key=lambda one: worth(one.figures, bench.nothing, bench.gap), default=None)
    least = best.figures.likeness if best else 0.0
    farther = [one for one in complete if one not in allowed and one.figures.likeness > least]
    beyond = min(farther, key=lambda one: one.figures.likeness, default=None)
    return Choice(_spread(_front(allowed), best), best, beyond, [*_remarks(best, bench)])


def _front(tried: Sequence[Tried]) -> list[Tried]:
    found: list[Tried] = []
    for one in sorted(tried, key=lambda one: (one.figures.change, -one.figures.likeness)):
        if not found or one.figures.likeness > found[-1].figures.likeness:
            found.append(one)
    return found


def _spread(front: Sequence[Tried], best: Tried | None) -> list[Tried]:
    """Those that stand evenly between nothing and all, the recommended one among them, by likeness."""
    chosen = [*front]
    if len(front) > COLUMNS:
        low, high = front[0].figures.likeness, front[-1].figures.likeness
        wanted = [low + (high - low) * place / (COLUMNS - 1) for place in range(COLUMNS)]
        nearest = [min(front, key=lambda one: abs(one.figures.likeness - goal)) for goal in wanted]
        chosen = [one for one in front if one in nearest]
    if best is not None and best not in chosen:
        if len(chosen) == COLUMNS:
            chosen.remove(min(chosen, key=lambda one: abs(one.figures.likeness - best.figures.likeness)))
        chosen.append(best)
    return sorted(chosen, key=lambda one: one.figures.likeness)


def _remarks(best: Tried | None, bench: Bench) -> Iterator[str]:
    if bench.gap <= 0:
        yield "KID does not tell the two looks apart on these pictures, so that it vetoed nothing."
    if best is None:
        yield "No settings were found that may be recommended: KID vetoed all of them, or they failed."
        return
    figures = best.figures
    if figures.gain <= _ERRORS * figures.error or worth(figures, bench.nothing, bench.gap) <= 0:
        yield (
            "Doing nothing is as good: what is won in likeness, or by KID, is no more than what is lost of the layout, "
            "or chance. Perhaps the prompts say nothing to this model."
        )
    for share, blurred in bench.blurred():
        is_near = blurred.kid <= figures.kid + SLACK * max(bench.gap, 0.0)
        if blurred.gain >= figures.gain - _ERRORS * figures.error and is_near:
            side = f"{100 * share:g} % of their side"
            yield f"Blurring is as good: pictures that are blurred by {side} come as far by all measures."
            return
