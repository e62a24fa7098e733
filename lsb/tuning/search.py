"""Settings tried one after another: a plain grid, or those that Optuna asks for by what came of the ones before."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lsb.errors import BridgeError, ModelError
from lsb.progress import Progress
from lsb.tuning.bench import PARTS, Bench, Figures
from lsb.tuning.book import Book, Tried
from lsb.tuning.choice import excess, worth
from lsb.tuning.space import Dial, Space

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution

NAME, SECONDS = "tune", "tune, seconds"
TRIALS = 120  # with those of earlier calls
_AT_RANDOM = 16  # of them, before what came of them is asked
_KEPT_AT_FIRST = 8  # that are never given up
_VETO = 10.0  # what a share of KID that is too much costs


def try_all(bench: Bench, space: Space, settings: Iterable[Mapping[str, Any]], book: Book, progress: Progress) -> None:
    """Try settings that are given, each unless the book has it."""
    wanted = [space.full(one) for one in settings]
    progress.start(NAME, len(wanted))
    for one in wanted:
        _try_once(bench, space, one, book)
        progress.advance(NAME)
    progress.finish(NAME)


def search(
    bench: Bench,
    space: Space,
    book: Book,
    left: Callable[[], float],
    seed: int,
    progress: Progress,
    tries: int | None = None,
) -> None:
    """Try the job's own settings, and others while there is time, `TRIALS` in all at most.

    What was begun when the time is over is dropped, as if it had not been begun.

    Args:
        book: what earlier calls have tried, and where what this one tries is kept.
        left: gives the seconds that are left, for the sheet as well, which takes about as long as one setting.
        tries: settings that this call tries at most; None for as many as there is time for.
    """
    before = len(book.tried)
    most = TRIALS if tries is None else min(TRIALS, before + tries)
    bar = _Bar(bench, book, progress, left, None if tries is None else most - before)
    _try_once(bench, space, space.full({}), book)
    bar.show()
    study = _study(space, book, bench, seed)
    while len(book.tried) < most and left() > (reserve := _seconds_of_one(book)):
        trial = study.ask()
        values: dict[str, Any] = {dial.name: _asked(trial, dial) for dial in space.dials}
        values |= {name: trial.suggest_categorical(name, among) for name, among in space.choices.items()}

        def give_up(step: int, figures: Figures, trial: Trial = trial) -> bool:
            # KID of few pictures is mostly chance, but they are the same pictures for all settings: so is the chance.
            trial.report(worth(figures, bench.untouched[step], bench.gap), step)
            return trial.should_prune()

        tried = _try(bench, space, values, give_up, lambda reserve=reserve: left() <= reserve)  # type: ignore[misc]
        if tried is None:
            break
        book.add(tried)
        bar.show()
        _tell(study, trial, tried, book, bench)
    bar.finish()


class _Bar:
    """Counts the tries where these are counted, else the seconds; with the figures of the best so far."""

    def __init__(
        self, bench: Bench, book: Book, progress: Progress, left: Callable[[], float], tries: int | None
    ) -> None:
        self._bench, self._book, self._progress, self._left, self._tries = bench, book, progress, left, tries
        self._name, self._total = (SECONDS, max(1, round(left()))) if tries is None else (NAME, max(0, tries))
        self._done, self._told, self._before = 0, 0, len(book.tried)
        progress.start(self._name, self._total)

    def show(self) -> None:
        """What has been tried by now."""
        self._show(len(self._book.tried) - self._before if self._tries is not None else self._total - self._left())

    def finish(self) -> None:
        if self._tries is None:
            self._show(self._total)
        self._progress.finish(self._name)

    def _show(self, passed: float) -> None:
        best = _best(self._book, self._bench)
        done, tried = min(self._total, max(self._done, round(passed))), len(self._book.tried)
        self._progress.advance(
            self._name,
            done - self._done,
            tried=tried - self._told,
            likeness=round(best.likeness, 4) + 0.0,  # not -2e-17
            change=round(best.change, 4) + 0.0,
        )
        self._done, self._told = done, tried


def _seconds_of_one(book: Book) -> float:
    """What settings that are not given up have taken lately."""
    lately = [tried.seconds for tried in book.tried if tried.is_complete][-5:]
    return sum(lately) / len(lately) if lately else 0.0


def _try_once(bench: Bench, space: Space, values: Mapping[str, Any], book: Book) -> None:
    """Try settings to the end, unless the book has that."""
    if not any(before.settings == values and (before.is_complete or before.failed) for before in book.tried):
        tried = _try(bench, space, values, lambda *_: False, lambda: False)
        assert tried is not None
        book.add(tried)


def _try(
    bench: Bench,
    space: Space,
    values: Mapping[str, Any],
    give_up: Callable[[int, Figures], bool],
    is_over: Callable[[], bool],
) -> Tried | None:
    """What came of settings; None if the time was over before it was known."""
    started, steps = time.monotonic(), list[Figures]()
    failed = ""
    try:
        for step, figures in enumerate(bench.tried(space.method(values))):
            steps.append(figures)
            if give_up(step, figures):
                break
            if len(steps) < PARTS and is_over():
                return None
    except (BridgeError, ModelError) as error:
        failed, steps = str(error), []
    return Tried(dict(values), tuple(steps), failed, round(time.monotonic() - started, 3))


def _study(space: Space, book: Book, bench: Bench, seed: int) -> Study:
    """A study that knows what was tried. Nothing of it is kept: the book is."""
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        direction="maximize",
        # As many numbers as were drawn before are drawn anew by another seed.
        sampler=optuna.samplers.TPESampler(
            seed=(seed + len(book.tried)) % 2**32, n_startup_trials=_AT_RANDOM, multivariate=True
        ),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_KEPT_AT_FIRST, n_min_trials=_KEPT_AT_FIRST // 2),
    )
    kinds: dict[str, BaseDistribution] = {
        dial.name: FloatDistribution(dial.low, dial.high, log=True) for dial in space.dials
    }
    kinds |= {name: CategoricalDistribution(among) for name, among in space.choices.items()}
    for tried in book.tried:
        values = {name: tried.settings[name] for name in kinds}
        if not tried.steps or not space.contains(values):
            continue
        seen = [worth(step, nothing, bench.gap) for step, nothing in zip(tried.steps, bench.untouched, strict=False)]
        state = optuna.trial.TrialState.COMPLETE if tried.is_complete else optuna.trial.TrialState.PRUNED
        study.add_trial(
            optuna.trial.create_trial(
                state=state,
                params=values,
                distributions=kinds,
                value=_final(tried, book, bench) if tried.is_complete else seen[-1],
                intermediate_values=dict(enumerate(seen)),
            )
        )
    return study


def _tell(study: Study, trial: Trial, tried: Tried, book: Book, bench: Bench) -> None:
    from optuna.trial import TrialState

    if tried.failed:
        study.tell(trial, state=TrialState.FAIL)
    elif not tried.is_complete:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, _final(tried, book, bench))


def _asked(trial: Trial, dial: Dial) -> float:
    """A number that people can read, within its bounds but for the rounding."""
    return float(f"{trial.suggest_float(dial.name, dial.low, dial.high, log=True):.3g}")


def _final(tried: Tried, book: Book, bench: Bench) -> float:
    """What the search makes large: what settings are worth, less what KID is beyond its veto."""
    others = [bench.nothing, *(other.figures for other in book.tried if other.is_complete)]
    beyond = excess(tried.figures, others, bench.gap)
    return worth(tried.figures, bench.nothing, bench.gap) - _VETO * beyond


def _best(book: Book, bench: Bench) -> Figures:
    """Of the best so far, for whoever looks on."""
    complete = [tried.figures for tried in book.tried if tried.is_complete]
    others = [bench.nothing, *complete]
    allowed = [figures for figures in complete if excess(figures, others, bench.gap) == 0]
    return max(allowed, key=lambda figures: worth(figures, bench.nothing, bench.gap), default=bench.nothing)
