"""What one process brings along to every shard it works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from PIL import Image

from lsb.ledger.schemas import ManifestRow
from lsb.metrics.truths import Truths, usable_truths
from lsb.pictures.decoder import Decoder, shared_decoder
from lsb.pictures.sources import Source


class Translates(Protocol):
    """What a shard needs of `lsb.translation.translator.Translator`."""

    @property
    def batch(self) -> int: ...

    def translate(
        self, images: Sequence[Image.Image], digests: Sequence[str] | None = None, *, batch: int | None = None
    ) -> list[Image.Image]: ...


class ScoresImages(Protocol):
    """What a shard needs of `lsb.metrics.scores.Scorer`; each result has `.values` and `.features`."""

    def score(
        self, sources: Sequence[Image.Image], outputs: Sequence[Image.Image], truths: Sequence[Image.Image | None]
    ) -> Sequence[Any]: ...


@dataclass(frozen=True)
class Equipment:
    """What one process brings along to every shard it works on; build it once per process."""

    translator: Translates
    sources: Source
    execution: ManifestRow  # what lsb.translation.execution.describe returns
    truth: Source | None = None
    scorer: ScoresImages | None = None
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
