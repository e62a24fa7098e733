"""What one process brings along to every shard it works on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Protocol

from PIL import Image

from lsb.decoder import Decoder, shared_decoder
from lsb.errors import DecodingError, ImageError, StoreError
from lsb.storage.store import Store

logger = logging.getLogger(__name__)


class Translates(Protocol):
    """What a shard job needs of `lsb.translate.Translator`."""

    @property
    def batch(self) -> int: ...

    def translate(
        self, images: Sequence[Image.Image], digests: Sequence[str] | None = None, *, batch: int | None = None
    ) -> list[Image.Image]: ...


class ScoresImages(Protocol):
    """What a shard job needs of `lsb.metrics.scores.Scorer`; each result has `.values` and `.features`."""

    def score(
        self, sources: Sequence[Image.Image], outputs: Sequence[Image.Image], truths: Sequence[Image.Image | None]
    ) -> Sequence[Any]: ...


@dataclass(frozen=True)
class Worker:
    """What one process brings along to every shard it works on; build it once per process."""

    translator: Translates
    sources: Store
    execution: Mapping[str, Any]  # what lsb.execution.describe returns
    truth: Store | None = None
    scorer: ScoresImages | None = None
    feature_sample: int = 10_000  # features are kept for this many of the smallest record ids
    try_seconds: float = 3600.0  # a try of one record that takes longer is that of a dead process
    decoder: Decoder = field(default_factory=shared_decoder)

    def truth_of(self, key: str) -> Image.Image | None:
        """The picture that a perfect translation of `key` would be: same name in the truth folder, any suffix."""
        found = self._truths.get(key) or self._truths.get(_stem(key))
        if found is None or self.truth is None:
            return None
        try:
            return self.decoder.decode(self.truth.read(found))[0]
        except (ImageError, DecodingError, StoreError) as error:
            logger.warning("no truth for %s: %s", key, error)
            return None

    @cached_property
    def _truths(self) -> dict[str, str]:
        keys = [entry.key for entry in self.truth.list()] if self.truth else []
        return {_stem(key): key for key in keys} | {key: key for key in keys}


def _stem(key: str) -> str:
    return str(PurePosixPath(key).with_suffix(""))
