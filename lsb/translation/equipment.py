"""What one process brings along to every shard it works on."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from PIL import Image

from lsb.ledger.schemas import ManifestRow
from lsb.metrics.truths import Truths, usable_truths
from lsb.pictures.decoder import Decoder, shared_decoder
from lsb.pictures.sources import Source
from lsb.translation.model import MakesImages


@dataclass(frozen=True)
class Equipment:
    """What one process brings along to every shard it works on; build it once per process."""

    model: MakesImages
    sources: Source
    execution: ManifestRow  # what lsb.translation.execution.describe returns
    truth: Source | None = None
    feature_sample: int = 10_000  # features are kept for this many of the smallest record ids
    try_seconds: float = 3600.0  # a try of one record that takes longer is that of a dead process
    decoder: Decoder = field(default_factory=shared_decoder)

    def truth_of(self, key: str) -> Image.Image | None:
        """What a perfect translation of `key` would be, see `lsb.metrics.truths.Truths.find`; None without a folder of
        them, or with one that cannot be listed."""
        return None if self._truths is None else self._truths.find(key)

    @cached_property
    def _truths(self) -> Truths | None:
        return usable_truths(self.truth)
