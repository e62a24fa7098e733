"""A network asked as the published LSB code asks it, which preset `published` repeats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lsb.bridge.schedule import NoiseSchedule
from lsb.errors import BridgeError
from lsb.models.protocol import Backbone, Timed

if TYPE_CHECKING:
    from torch import Tensor


class Published:
    """Asks a backbone at the integer times of `NoiseSchedule.published_time` in place of fractional ones.

    Raises:
        BridgeError: the backbone has no table of noise levels.
    """

    def __init__(self, backbone: Backbone) -> None:
        if not isinstance(backbone, Timed):
            raise BridgeError("preset published needs a model with a noise schedule; use preset default")
        self._backbone = backbone

    @property
    def schedule(self) -> NoiseSchedule:
        """The backbone's own."""
        return self._backbone.schedule

    def predict(self, x_t: Tensor, sigma: float, condition: Tensor) -> Tensor:
        """As `Backbone.predict`, with one sigma for all rows."""
        return self._backbone.predict_at(x_t, [sigma], [self.schedule.published_time(sigma)], condition)
