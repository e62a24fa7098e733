"""What the study makes and measures: directions, rows of figures, and how settings are chosen."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from PIL import Image
from quality_methods import CANDIDATES, MARK, PUBLISHED, Candidate, Settings
from safetensors import safe_open
from safetensors.numpy import save_file

import pictures as styles
from directions import Shown, Workshop, in_words, read
from judges import Judge
from lsb.bridge.method import Method
from lsb.errors import LsbError
from lsb.metrics.colour import colour_moments, match_colours
from lsb.metrics.comparison import through_vae
from lsb.metrics.distances import kernel_samples
from lsb.metrics.features import EfficientNetLite0
from lsb.metrics.picture.tone_distance import tone_distance
from lsb.metrics.pixels import unit_pixels
from lsb.translation.translator import Translator

COSTS = (2, 4, 8, 16, 32, 100)
TUNED_AT = 16
TRIALS, STRENGTHS = 24, (0.6, 0.8, 1.0, 1.25)
NEARBY = (0.85, 1.0, 1.1, 1.2)  # strengths of which one is chosen for its style accuracy
ENOUGH = 0.93  # share of translations that `guide` has to call the target style
SEEDS = ("0", "1", "2")
MATCHED = 0.95  # the share at which methods are also compared, each at the strength that comes nearest
MAIN = ("flat", "3d")
CHUNK = 16
EXAMPLE = "lsb, the example's settings"  # which examples/emoji/choose.py has found with more trials
MARKS = ("", styles.RESTORED)
SHOWN = 12  # pictures in a row of the sheet


@dataclass(frozen=True)
class Regime:
    """A direction, and the largest noise level at which a method may ask the network; None where it chooses."""

    source: str
    target: str
    sigma: float | None = None

    @property
    def title(self) -> str:
        free = "" if self.sigma is None else f", sigma {self.sigma:g}"
        return f"{self.source} to {self.target}{free}"

    @property
    def key(self) -> str:
        return self.title.replace(", ", "-").replace(" ", "-")

    @property
    def costs(self) -> tuple[int, ...]:
        """Where the noise level is fixed, the one cost at which settings are chosen."""
        return COSTS if self.sigma is None else (TUNED_AT,)


FREE = (Regime(*MAIN), Regime("noto", "twemoji"), Regime("twemoji", "3d"))
FIXED = (Regime(*MAIN, sigma=0.2875), Regime(*MAIN, sigma=1.0))


@dataclass(frozen=True)
class Side:
    """Pictures of one split and direction, and what of them does not depend on a method."""

    sources: Shown
    truths: Shown
    real: torch.Tensor  # features of the target style's pictures, all of the split
    limit: float  # tone distance of the source through the VAE

    @cached_property
    def true_pixels(self) -> torch.Tensor:
        return unit_pixels(self.truths.images)


@dataclass(frozen=True)
class Figures:
    """What came of one row of pictures; arrays are by picture, in the order of the symbols."""

    features: np.ndarray  # (N, D) float32
    called: np.ndarray  # (N,) bool, whether the judge calls it the target style
    tone: np.ndarray  # (N,) float64
    pixels: np.ndarray  # (N, H, W, 3) uint8
    about: Mapping[str, Any]  # method, settings, forwards

    @property
    def accuracy(self) -> float:
        return float(self.called.mean())

    def save(self, file: Path) -> None:
        tensors = {name: getattr(self, name) for name in ("features", "called", "tone", "pixels")}
        part = file.with_suffix(".part")
        save_file(tensors, part, metadata={"about": json.dumps(dict(self.about))})
        part.replace(file)

    @classmethod
    def load(cls, file: Path) -> Figures:
        with safe_open(file, "np") as found:
            tensors = {name: found.get_tensor(name) for name in ("features", "called", "tone", "pixels")}
            return cls(**tensors, about=json.loads(found.metadata()["about"]))


class Bench:
    """Makes and measures pictures; each row is made once and kept in `work`."""

    def __init__(self, workshop: Workshop, work: Path, step: int) -> None:
        self.workshop, self.work, self.step = workshop, work, step
        self.extractor, self.guide, self.judge = EfficientNetLite0(), Judge("guide"), Judge("judge")
        self._sides: dict[tuple[str, str, str], Side] = {}
        for name in ("rows", "trials"):
            (work / name).mkdir(parents=True, exist_ok=True)

    def side(self, regime: Regime, split: str) -> Side:
        """On validation every third symbol; with `--quick` fewer of both."""
        key = (regime.source, regime.target, split)
        if key not in self._sides:
            sources, targets = read(regime.source, split), read(regime.target, split)
            step = self.step * (3 if split == "validation" else 1)
            chosen = [*range(0, len(sources.ids), step)]
            sources, truths = sources.only(chosen), targets.only(chosen)
            assert sources.symbols == truths.symbols
            blurred = unit_pixels(self.through_vae(sources.images))
            limit = float(tone_distance(blurred, unit_pixels(truths.images)).mean())
            self._sides[key] = Side(sources, truths, torch.from_numpy(self.extractor(targets.images).pooled), limit)
        return self._sides[key]

    def through_vae(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        backbone = self.workshop.backbone
        return [
            one
            for start in range(0, len(images), CHUNK)
            for one in through_vae(images[start : start + CHUNK], backbone)
        ]

    def translated(
        self, regime: Regime, side: Side, method: Method, mark: str, seed: str = SEEDS[0]
    ) -> list[Image.Image]:
        translator = Translator(
            self.workshop.backbone,
            in_words(regime.source, mark),
            in_words(regime.target, mark),
            settings=method,
            seed=seed,
            batch=self.workshop.config.execution.batch,
        )
        return translator.translate(side.sources.images, side.sources.digests)

    def figures(self, images: Sequence[Image.Image], regime: Regime, side: Side, judge: Judge, **about: Any) -> Figures:
        wanted = styles.STYLES.index(regime.target)
        return Figures(
            features=self.extractor(images).pooled,
            called=(judge(images) == wanted).numpy(),
            tone=tone_distance(unit_pixels(images), side.true_pixels).double().numpy(),
            pixels=np.stack([np.asarray(image) for image in images]),
            about=about,
        )

    def kept(self, name: str, make: Any) -> Figures:
        """The row of that name, made now or before."""
        file = self.work / "rows" / f"{name}.safetensors"
        if not file.exists():
            started = time.monotonic()
            make().save(file)
            print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
        return Figures.load(file)

    def row(self, regime: Regime, candidate: Candidate, settings: Settings, cost: int, name: str, seed: str) -> Figures:
        """A method's figures on test."""
        method = candidate.at(settings, cost)
        assert method is not None
        side = self.side(regime, "test")
        about = {"settings": dict(settings), "forwards": method.forwards, "seed": seed}
        return self.kept(
            f"{regime.key}-{name}-{cost}-{seed}",
            lambda: self.figures(
                self.translated(regime, side, method, settings[MARK], seed), regime, side, self.judge, **about
            ),
        )


def score(kid: float, accuracy: float, tone: float, limit: float) -> float:
    """What a trial is to make small: KID, and much more for each part of the rule that does not hold."""
    return kid + 400 * max(0.0, ENOUGH - accuracy) + 4000 * max(0.0, tone - limit)


class Choice:
    """Settings of one method in one regime, as they are tried on validation pictures."""

    def __init__(self, bench: Bench, regime: Regime, candidate: Candidate, name: str, trials: int) -> None:
        self.bench, self.regime, self.candidate, self.trials = bench, regime, candidate, trials
        self.name = f"{regime.key}-{name}"
        storage = JournalStorage(JournalFileBackend(str(bench.work / "trials" / f"{self.name}.log")))
        self.study = optuna.create_study(study_name=self.name, storage=storage, load_if_exists=True)

    def tune(self) -> Settings:
        """The best of `trials`."""
        done = len(self.study.get_trials(states=[optuna.trial.TrialState.COMPLETE]))
        self.study.sampler = optuna.samplers.TPESampler(seed=done)
        if done < self.trials:
            self.study.optimize(self._objective, n_trials=self.trials - done)
        return self._settings(self.study.best_trial)

    def matched(self, settings: Settings) -> Settings:
        """The settings with the strength whose style accuracy is nearest to MATCHED, then of least KID."""
        return self._strength(
            settings, NEARBY, TUNED_AT, "matched", lambda found: (abs(found["accuracy"] - MATCHED), found["kid"])
        )

    def at_cost(self, settings: Settings, cost: int) -> Settings | None:
        """The settings with the strength that is best at another cost; None where the method can't be so cheap."""
        if self.candidate.at(settings, cost) is None or cost == TUNED_AT:
            return settings if cost == TUNED_AT else None
        return self._strength(settings, STRENGTHS, cost, f"{cost}", lambda found: score(**found))

    def _strength(
        self,
        settings: Settings,
        factors: tuple[float, ...],
        cost: int,
        name: str,
        goal: Callable[[Mapping[str, float]], Any],
    ) -> Settings:
        """The settings with the strength, of these multiples, for which `goal` is least; kept under a name."""
        file = self.bench.work / "trials" / f"{self.name}-{name}.json"
        if not file.exists():
            tried = [(self._try(one, cost), one) for one in self.candidate.weaker_and_stronger(settings, factors)]
            found = min(tried, key=lambda pair: goal(pair[0]))
            file.write_text(json.dumps({"settings": dict(found[1]), "found": found[0]}, indent=2))
        chosen: Settings = json.loads(file.read_text())["settings"]
        return chosen

    def _objective(self, trial: optuna.trial.Trial) -> float:
        settings = dict(self.candidate.suggest(trial, self.regime.sigma))
        settings[MARK] = trial.suggest_categorical(MARK, MARKS)
        found = self._try(settings, TUNED_AT)
        for name, value in {**found, "settings": settings}.items():
            trial.set_user_attr(name, value)
        return score(**found)

    def _try(self, settings: Settings, cost: int) -> dict[str, float]:
        bench, side = self.bench, self.bench.side(self.regime, "validation")
        method = self.candidate.at(settings, cost)
        assert method is not None
        try:
            images = bench.translated(self.regime, side, method, settings[MARK])
        except LsbError:  # the network's answer was no number
            return {"kid": 1e4, "accuracy": 0.0, "tone": 1.0, "limit": side.limit}
        found = bench.figures(images, self.regime, side, bench.guide)
        kid = float(kernel_samples(torch.from_numpy(found.features), side.real, resamples=0)[0])
        return {"kid": kid, "accuracy": found.accuracy, "tone": float(found.tone.mean()), "limit": side.limit}

    @staticmethod
    def _settings(trial: optuna.trial.FrozenTrial) -> Settings:
        return dict(trial.user_attrs["settings"])


def references(bench: Bench, regime: Regime) -> dict[str, Figures]:
    """Rows that no method made, by title."""
    side = bench.side(regime, "test")
    sources, truths = side.sources.images, side.truths.images
    moments = colour_moments(sources), colour_moments(truths)
    images = {
        "source": lambda: sources,
        "source through the VAE": lambda: bench.through_vae(sources),
        "target through the VAE": lambda: bench.through_vae(truths),
        "source, colours matched": lambda: [match_colours(image, *moments) for image in sources],
    }
    return {
        title: bench.kept(
            f"{regime.source}-to-{regime.target}-{title.replace(', ', '-').replace(' ', '-')}",
            lambda make=make: bench.figures(make(), regime, side, bench.judge),
        )
        for title, make in images.items()
    }


def there_and_back(bench: Bench, regime: Regime, sigma: float, mark: str) -> Figures:
    """Target pictures noised to sigma and denoised under the target's words: what the network itself loses there."""
    from lsb.bridge.methods.sdedit import Sdedit

    side = bench.side(regime, "test")
    onto_itself, method = replace(regime, source=regime.target), Sdedit(sigma=sigma, nfe=TUNED_AT)
    truths = replace(side, sources=side.truths)
    return bench.kept(
        "-".join(filter(None, (regime.target, mark, f"back-from-{sigma:.4g}"))),
        lambda: bench.figures(
            bench.translated(onto_itself, truths, method, mark), regime, side, bench.judge, forwards=method.forwards
        ),
    )


def picture_forwards(regime: Regime, costs: Sequence[int], validation: int, test: int) -> int:
    """How many forwards of a picture one method needs in a regime."""
    others = [cost for cost in costs if cost != TUNED_AT and cost in regime.costs]
    chosen = (TRIALS + len(NEARBY)) * validation * TUNED_AT + (len(SEEDS) + 1) * test * TUNED_AT
    return chosen + sum((len(STRENGTHS) * validation + test) * cost for cost in others)


def affordable(seconds: float, minutes: float, validation: int, test: int) -> tuple[int, ...]:
    """The costs that fit into the time, the dearest left out first.

    Args:
        seconds: that one forward of one picture takes.
        minutes: that all of it may take.
        validation: pictures on which settings are chosen.
        test: pictures on which figures are taken.
    """
    costs = list(COSTS)
    while len(costs) > 1:
        work = sum(picture_forwards(regime, costs, validation, test) for regime in (*FREE, *FIXED))
        if work * len(CANDIDATES) * seconds <= 60 * minutes:
            break
        costs.remove(max(cost for cost in costs if cost != TUNED_AT))
    return tuple(costs)


def measured_forward(bench: Bench) -> float:
    """Seconds that one forward of one picture takes, everything included."""
    side = bench.side(FREE[0], "validation")
    method = CANDIDATES[0].at({"tau": 0.5, "solver": "adams_moulton"}, TUNED_AT)
    assert method is not None
    started = time.monotonic()
    images = bench.translated(FREE[0], side, method, MARKS[0])
    bench.figures(images, FREE[0], side, bench.guide)
    return (time.monotonic() - started) / (method.forwards * len(images))


def study(
    bench: Bench, regimes: Sequence[Regime], costs: Sequence[int], trials: int
) -> Iterator[tuple[Regime, str, str, Figures]]:
    """Regime, method, kind of row and its figures, of everything."""
    for regime in regimes:
        for candidate in CANDIDATES:
            choice = Choice(bench, regime, candidate, candidate.name, trials)
            tuned = choice.tune()
            for cost in [cost for cost in costs if cost in regime.costs]:
                settings = choice.at_cost(tuned, cost)
                if settings is None:
                    continue
                for seed in SEEDS if cost == TUNED_AT else SEEDS[:1]:
                    kind = f"{cost}" if seed == SEEDS[0] else f"{cost}, seed {seed}"
                    yield (
                        regime,
                        candidate.name,
                        kind,
                        bench.row(regime, candidate, settings, cost, candidate.name, seed),
                    )
            near = choice.matched(tuned)
            matched = bench.row(regime, candidate, near, TUNED_AT, f"{candidate.name}-matched", SEEDS[0])
            yield regime, candidate.name, "matched", matched
            method = candidate.at(tuned, TUNED_AT)
            assert method is not None
            widest = method.largest_sigma or bench.workshop.backbone.sigma_max
            yield regime, candidate.name, "back", there_and_back(bench, regime, widest, tuned[MARK])
        for title, found in references(bench, regime).items():
            yield regime, title, "reference", found
    choice = Choice(bench, FREE[0], PUBLISHED, "published", trials)
    tuned = choice.tune()
    yield FREE[0], "published Euler, NFE 8", "16", bench.row(FREE[0], PUBLISHED, tuned, TUNED_AT, "published", SEEDS[0])
    own = bench.workshop.config.bridge.model_dump(mode="json", exclude_defaults=True) | {MARK: styles.RESTORED}
    yield FREE[0], EXAMPLE, "16", bench.row(FREE[0], CANDIDATES[0], own, TUNED_AT, "example", SEEDS[0])
