"""The measures of a run: its outputs, read from the store, compared with sources, truths and target pictures.

The metric sample is the 10,000 smallest record ids that have an output (all, if there are fewer), in record-id order,
flagged ones included. A record id is a hash, so that this is a fixed random sample, and nobody picks it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from lsb.decoder import shared_decoder
from lsb.errors import DecodingError, ImageError
from lsb.images import SUFFIXES
from lsb.metrics.comparison import Comparison, evaluate_images
from lsb.metrics.features import FeatureExtractor
from lsb.metrics.scores import Scores
from lsb.models.protocol import Backbone
from lsb.progress import NoProgress, Progress
from lsb.publish import manifest_table, read_features
from lsb.records import Status, record_id
from lsb.sharding import Run
from lsb.storage.store import Store
from lsb.truths import Truths

SAMPLE = 10_000

T = TypeVar("T")


class Loaded(Sequence[T], Generic[T]):
    """A sequence whose items are loaded whenever they are asked for, and not kept."""

    def __init__(self, keys: Sequence[str], load: Callable[[str], T]) -> None:
        self._keys, self._load = keys, load

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Loaded[T]: ...

    def __getitem__(self, index: int | slice) -> T | Loaded[T]:
        if isinstance(index, slice):
            return Loaded(self._keys[index], self._load)
        return self._load(self._keys[index])


def evaluate(
    store: Store,
    run: Run,
    sources: Store,
    target: Store | None,
    truth: Store | None,
    backbone: Backbone,
    extractor: FeatureExtractor,
    sample: int = SAMPLE,
    *,
    progress: Progress = NoProgress(),
) -> dict[str, Any]:
    """The content of metrics.json for what is committed of `run`.

    Args:
        target: the target style's pictures; without them KID, FID and the share of the gap are null.
        truth: each source's truth under the source's own name, any suffix; without it tone distance, PSNR and
            retrieval are null.
        sample: how many of the smallest record ids are compared, and how many target pictures.
    """
    table = manifest_table(store, run, partial=True)
    table = table.filter(pc.equal(table["status"], Status.OK.value)).sort_by("record_id").slice(0, sample)
    rows = table.to_pylist()
    keys = [row["source_key"] for row in rows]
    target_keys = [] if target is None else _target_keys(target, sample)
    comparison = Comparison(
        ids=[row["record_id"] for row in rows],
        sources=Loaded(keys, _picture(sources)),
        outputs=Loaded([row["output_key"] for row in rows], _picture(store)),
        truths=None if truth is None else Loaded(keys, Truths(truth).find),
        targets=None if target is None else Loaded(target_keys, _picture(target)),
        target_ids=[record_id(key) for key in target_keys],
        scores=_known_scores(store, run, table),
    )
    return evaluate_images(comparison, backbone, extractor, progress).to_json()


def _known_scores(store: Store, run: Run, rows: pa.Table) -> list[Scores | None]:
    """What the shards measured already; None where a record lacks scores or features."""
    table = read_features(store, run, rows)
    vectors = (vector.as_py() for vector in table["features"])
    features = dict(zip(table["record_id"].to_pylist(), (np.array(v, dtype=np.float32) for v in vectors), strict=True))
    known: list[Scores | None] = []
    for row in rows.to_pylist():
        vector = features.get(row["record_id"])
        scores = dict(row["scores"] or ())
        known.append(Scores(scores, vector) if vector is not None and "structure_distance" in scores else None)
    return known


def _target_keys(target: Store, sample: int) -> list[str]:
    """The readable pictures among the target's files with the smallest record ids."""
    keys = [entry.key for entry in target.list() if _suffix(entry.key) in SUFFIXES]
    return [key for key in sorted(keys, key=record_id)[:sample] if _readable(target, key)]


def _suffix(key: str) -> str:
    return key[key.rfind(".") :].lower()


def _picture(store: Store) -> Callable[[str], Image.Image]:
    return lambda key: shared_decoder().decode(store.read(key))[0]


def _readable(store: Store, key: str) -> bool:
    try:
        shared_decoder().inspect(store.read(key))
    except (ImageError, DecodingError):
        return False
    return True
