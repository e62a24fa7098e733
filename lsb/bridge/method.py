"""What a method is: settings that say how source latents become target latents, and what follows from them.

A method asks the network under the prompts `source`, `target` and `negative`, and knows neither pictures nor models.
Nothing here, and in a method's file, needs torch before latents are made: settings are checked without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import ModelWrapValidatorHandler, ValidationError, model_validator

from lsb.errors import BridgeError
from lsb.fields import RANGE_ERRORS, Frozen, range_in_words
from lsb.redaction import shortened

if TYPE_CHECKING:
    from torch import Tensor

    from lsb.bridge.noise import Noise
    from lsb.bridge.schedule import NoiseSchedule
    from lsb.bridge.velocity import Domain, Predict


@dataclass(frozen=True)
class Levels:
    """The noise levels of a network.

    Attributes:
        sigma_max: the largest.
        schedule: its table, of a network that has one.
    """

    sigma_max: float
    schedule: NoiseSchedule | None = None

    def falling(self, sigma: float, steps: int) -> tuple[float, ...]:
        """`steps` + 1 levels from sigma to 0, even in the network's time but for the last step.

        The time of a network without a table is taken for a rectified flow's, sigma / (1 + sigma).

        Raises:
            BridgeError: sigma is above the schedule's largest.
        """
        if self.schedule is None:
            time = sigma / (1.0 + sigma)
            inner = [share / (1.0 - share) for share in (time * (steps - step) / steps for step in range(1, steps))]
        else:
            time = self.schedule.network_time(sigma)
            inner = [self.schedule.sigma_of(time * (steps - step) / steps) for step in range(1, steps)]
        return (sigma, *inner, 0.0)


class Method(Frozen, ABC):
    """One way from source latents to target latents, with its settings. Part of the transform id.

    Every row of a run names the method and its `nfe`, a whole number that all methods have, and its `tau`, `t0` and
    `guidance`, numbers that it may have.

    Raises:
        BridgeError: a value outside what is allowed; `field` names it, and `place` says where a job holds it.
    """

    section: ClassVar[str] = "method"  # of a job, where its settings stand
    strength: ClassVar[str] = "sigma"  # the setting to which all noise levels are proportional
    # The settings that are to be chosen for model and pictures.
    dials: ClassVar[tuple[str, ...]] = ("sigma", "guidance")

    @property
    @abstractmethod
    def forwards(self) -> int:
        """Network forwards per image, inversion and guidance included."""

    @property
    @abstractmethod
    def largest_sigma(self) -> float | None:
        """The largest noise level at which the network is asked; None for the largest that it has."""

    @property
    @abstractmethod
    def asks(self) -> frozenset[Domain]:
        """Under which prompts the network is asked."""

    @abstractmethod
    def translate(self, x_0: Tensor, predict: Predict, noise: Noise, levels: Levels) -> Tensor:
        """Target latents of source latents x_0, both (B, C, h, w), in x_0's dtype and on its device.

        Args:
            predict: the network, `predict(x_t, sigma, domain)`; called `forwards` times.
            noise: unit Gaussian noise by purpose and step.
            levels: the network's.

        Raises:
            BridgeError: the method needs something of the levels that they do not have.
        """

    @property
    def untuned(self) -> bool:
        """Whether all dials stand at their defaults: nobody has chosen them for a model and pictures."""
        strengths = (name for name in type(self).model_fields if name.endswith("guidance"))
        return all(self._at_default(name) for name in {*self.dials, *strengths})

    def _at_default(self, name: str) -> bool:
        field = type(self).model_fields.get(name)
        return field is None or getattr(self, name) == field.default

    def refuse_beyond(self, sigma_max: float, scale: float = 1.0) -> None:
        """Refuse noise that a network's schedule does not reach.

        Args:
            sigma_max: the network's largest sigma.
            scale: what all noise levels are multiplied by, see `lsb.pictures.geometry.sigma_scale`.

        Raises:
            BridgeError: names the largest value that may stand in place of the one that does.
        """
        widest = self.scaled(scale).largest_sigma
        if widest is None or widest <= sigma_max:
            return
        value = getattr(self, self.strength)
        largest = value * (sigma_max / widest)
        where = "" if scale == 1.0 else " at this geometry.area"
        message = (
            f"{self.strength} {value} is too large for this model's noise schedule{where}; the largest is {largest:.6g}"
        )
        raise BridgeError(message, field=self.strength, largest=largest, place=(self.section, self.strength))

    def scaled(self, factor: float) -> Self:
        """The same with all noise levels multiplied by a factor, where they do not end at the network's own."""
        value = getattr(self, self.strength)
        if value is None or factor == 1.0:
            return self
        return self.model_copy(update={self.strength: value * factor})

    @model_validator(mode="wrap")
    @classmethod
    def _check_ranges(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(values)
        except ValidationError as error:
            first, *others = error.errors()
            if any(found["type"] not in RANGE_ERRORS for found in (first, *others)):
                raise
            name = str(first["loc"][0])
            allowed = range_in_words(cls.model_json_schema()["properties"][name])
            if first["type"] == "finite_number":
                allowed = f"a finite number {allowed}".rstrip()
            shown = shortened(str(first["input"]), 80)
            raise cls._refusal(f"{name} is {shown}; it must be {allowed}", name, first["input"]) from error

    def _require(self, holds: bool, name: str, allowed: str) -> None:
        """Refuse the value of a setting unless that holds."""
        if not holds:
            value = getattr(self, name)
            raise self._refusal(f"{name} is {value!r}; it must be {allowed}", name, value)

    @classmethod
    def _refusal(cls, message: str, name: str, value: object = None) -> BridgeError:
        return BridgeError(message, field=name, value=value, place=(cls.section, name))
