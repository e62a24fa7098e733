"""What the study tries of each method: which settings are free, and what it may cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import Trial
from pydantic import ValidationError

from lsb.bridge.method import Method
from lsb.bridge.methods import METHODS
from lsb.errors import BridgeError

Settings = Mapping[str, Any]
MARK = "mark"  # of settings the one that is no method's: a word before the styles' words, or none
GUIDED = 1.05  # at 1 a method would leave out the prompt that it is guided away from
Suggest = Callable[[Trial, float | None], Settings]


@dataclass(frozen=True)
class Candidate:
    """One method in the study.

    Attributes:
        suggest: settings of a trial, for the largest sigma at which the network may be asked, None where it is free.
        strength: the setting that says how far a picture is moved.
        weakest: the least that the strength may be.
    """

    name: str
    suggest: Suggest
    strength: str = "guidance"
    weakest: float = 0.0

    def at(self, settings: Settings, forwards: int) -> Method | None:
        """The method with the most evaluations of which a picture costs no more network forwards; None if none does."""
        kind, best = METHODS[self.name], None
        settings = {name: value for name, value in settings.items() if name != MARK}
        for nfe in range(1, forwards + 1):
            try:
                method = kind.model_validate({**settings, "nfe": nfe})
            except (BridgeError, ValidationError):  # an odd number, or too small a one
                continue
            if method.forwards <= forwards:
                best = method
        return best

    def weaker_and_stronger(self, settings: Settings, factors: tuple[float, ...]) -> list[Settings]:
        """The settings with their strength multiplied by each factor."""
        value = settings[self.strength]
        strengths = sorted({round(max(self.weakest, value * factor), 6) for factor in factors})
        return [{**settings, self.strength: strength} for strength in strengths]


def _lsb(trial: Trial, sigma: float | None) -> Settings:
    """The noise of a bridge is at most half of its tau."""
    tau = trial.suggest_float("tau", 0.05, 2.4, log=True) if sigma is None else 2.0 * sigma
    return {
        "tau": tau,
        "t0": trial.suggest_float("t0", 0.05, 0.3),
        "guidance": trial.suggest_float("guidance", 1.0, 16.0, log=True),
        "noise": "mix",
        "start": "centred",
        "solver": "adams_moulton",
    }


def _published(trial: Trial, sigma: float | None) -> Settings:
    tau = trial.suggest_float("tau", 0.05, 2.4, log=True) if sigma is None else 2.0 * sigma
    guidance = trial.suggest_float("guidance", 1.0, 16.0, log=True)
    return {"preset": "published", "tau": tau, "t0": trial.suggest_float("t0", 0.05, 0.3), "guidance": guidance}


def _dials(trial: Trial, sigma: float | None, highest: float, weakest: float, strongest: float) -> dict[str, Any]:
    level = trial.suggest_float("sigma", 0.03, highest, log=True) if sigma is None else sigma
    return {"sigma": level, "guidance": trial.suggest_float("guidance", weakest, strongest, log=True)}


def _sdedit(trial: Trial, sigma: float | None) -> Settings:
    return _dials(trial, sigma, 3.0, GUIDED, 10.0)


def _ddib(trial: Trial, sigma: float | None) -> Settings:
    return _dials(trial, sigma, 10.0, GUIDED, 10.0)


def _cyclediffusion(trial: Trial, sigma: float | None) -> Settings:
    return {**_dials(trial, sigma, 3.0, GUIDED, 10.0), "eta": trial.suggest_float("eta", 0.0, 1.0)}


def _flowedit(trial: Trial, sigma: float | None) -> Settings:
    noise = trial.suggest_categorical("noise", ["fixed", "step"])
    return {**_dials(trial, sigma, 3.0, 0.5, 16.0), "noise": noise}


CANDIDATES = (
    Candidate("lsb", _lsb),
    Candidate("sdedit", _sdedit, weakest=GUIDED),
    Candidate("ddib", _ddib, weakest=GUIDED),
    Candidate("cyclediffusion", _cyclediffusion, weakest=GUIDED),
    Candidate("flowedit", _flowedit),
)
PUBLISHED = Candidate("lsb", _published)
