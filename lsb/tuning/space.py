"""Which settings of a method are tried, and within which bounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from pydantic import ValidationError

from lsb.bridge.method import Method
from lsb.bridge.settings import BridgeSettings
from lsb.errors import BridgeError, UsageError

# Of the paper's tau for the model's latents. A path's largest sigma is half of its tau.
_TAU, _SIGMA = (0.04, 1.5), (0.02, 1.5)
_BOUNDS = {"t0": (0.02, 0.4), "guidance": (1.0, 20.0)}
_CHOICES = {"noise": ("switch", "mix"), "start": ("published", "centred"), "solver": ("euler", "adams_moulton")}


@dataclass(frozen=True)
class Dial:
    """A number that is tried from `low` to `high`, evenly in its logarithm."""

    name: str
    low: float
    high: float


@dataclass(frozen=True)
class Space:
    """The settings around a job's own.

    Args:
        base: the method with the job's settings; what is no dial and what somebody has chosen stays as it is.
        latent_side: of the model's latents.
        sigma_max: the model's largest sigma, divided by what the job's area multiplies all sigmas by.
    """

    base: Method
    latent_side: int
    sigma_max: float

    @cached_property
    def dials(self) -> tuple[Dial, ...]:
        found = []
        for name in self.base.dials:
            if name not in type(self.base).model_fields:
                continue
            low, high = _BOUNDS.get(name, (0.0, 0.0))
            if name == self.base.strength:
                low, high = (share * BridgeSettings.tau_for(self.latent_side) for share in self._shares)
                high = min(high, self._largest_strength)
            found.append(Dial(name, min(low, high / 2), high))
        return tuple(found)

    @cached_property
    def choices(self) -> dict[str, tuple[str, ...]]:
        """What of `lsb` is tried beside its dials: settings at their defaults, which nobody has chosen."""
        base = self.base
        if not isinstance(base, BridgeSettings) or base.preset != "default":
            return {}
        found = {}
        for name, values in _CHOICES.items():
            if getattr(base, name) == type(base).model_fields[name].default:
                allowed = tuple(value for value in values if self._is_allowed({name: value}))
                if len(allowed) > 1:
                    found[name] = allowed
        return found

    def full(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """All dials and choices, those that are not given as they are in the job, and whatever else is given."""
        own = {name: getattr(self.base, name) for name in (*(dial.name for dial in self.dials), *self.choices)}
        return {**own, **values}

    def contains(self, values: Mapping[str, Any]) -> bool:
        """Whether values of all dials and choices are such as are tried."""
        dials = all(values[dial.name] is not None and dial.low <= values[dial.name] <= dial.high for dial in self.dials)
        return dials and all(values[name] in among for name, among in self.choices.items())

    def method(self, values: Mapping[str, Any]) -> Method:
        """The method with these settings in place of its own.

        Raises:
            BridgeError: one is outside what is allowed.
        """
        return type(self.base).model_validate(self.base.model_dump() | dict(values))

    def _is_allowed(self, values: Mapping[str, Any]) -> bool:
        try:
            self.method(values)
        except BridgeError:
            return False
        return True

    @property
    def _shares(self) -> tuple[float, float]:
        return _TAU if self.base.strength == "tau" else _SIGMA

    @property
    def _largest_strength(self) -> float:
        """All noise levels are proportional to the strength."""
        widest = self.base.model_copy(update={self.base.strength: 1.0}).largest_sigma
        return self.sigma_max / (widest or 1.0)


def grid(base: Method, settings: Mapping[str, tuple[str, ...]]) -> Iterator[dict[str, Any]]:
    """All combinations of the values that are given for each name, as a job's file would give them.

    Raises:
        UsageError: no such setting, or a value outside what is allowed.
    """
    fields = type(base).model_fields.keys() - {"name"}
    for name in settings:
        if name not in fields:
            raise UsageError(f"--settings {name}: no such setting; allowed are {', '.join(sorted(fields))}")
    for values in product(*settings.values()):
        given = dict(zip(settings, values, strict=True))
        try:
            method = type(base).model_validate(base.model_dump() | given)
        except BridgeError as error:
            raise UsageError(f"--settings {_shown(given)}: {error}") from error
        except ValidationError as error:  # not of the setting's type
            raise UsageError(f"--settings {_shown(given)}: {_first_line(error)}") from error
        yield {name: getattr(method, name) for name in settings}


def _shown(values: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items())


def _first_line(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{first['loc'][0]}: {first['msg']}"
