"""What one process brings along to every shard it works on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock

from lsb.ledger.schemas import ManifestRow
from lsb.metrics.truths import OptionalTruths
from lsb.pictures.decoder import Decoder, shared_decoder
from lsb.pictures.geometry import Frame, Size
from lsb.pictures.sources import Source
from lsb.translation.model import MakesImages


@dataclass(frozen=True)
class Equipment:
    """What one process brings along to every shard it works on; build it once per process."""

    model: MakesImages
    sources: Source
    execution: ManifestRow  # what lsb.translation.execution.describe returns
    frame: Callable[[Size], Frame]  # of a picture by its width and height
    truths: OptionalTruths = field(default_factory=OptionalTruths)
    feature_sample: int = 10_000  # features are kept for this many of the smallest record ids
    try_seconds: float = 3600.0  # a try of one record that takes longer is that of a dead process
    decoder: Decoder = field(default_factory=shared_decoder)
    turn: Lock = field(default_factory=Lock)  # whose it is to ask the model, where several shards have the equipment
    all_read: Callable[[], None] = lambda: None  # called when a shard has read its pictures: the next one may
