"""The measures of a run: its outputs, read from the store, compared with sources, truths and target pictures.

The metric sample is the 10,000 smallest record ids that have an output (all, if there are fewer), in record-id order,
flagged ones included. A record id is a hash, so that this is a fixed random sample, and nobody picks it.

What cannot be read any more is left out and counted, and so is a source whose bytes are others than those that were
translated. A folder in which nothing can be read is taken to be away, which is no reason to measure without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from lsb.ledger.publish import manifest_table, read_features
from lsb.ledger.run import Run
from lsb.metrics.comparison import Comparison, evaluate_images
from lsb.metrics.features import FeatureExtractor
from lsb.metrics.scores import OF_SOURCE, Scores
from lsb.metrics.table import Measures
from lsb.metrics.truths import Truths
from lsb.models.protocol import Backbone
from lsb.pictures.geometry import Geometry
from lsb.pictures.optional import find_picture, listed_pictures, listing_digest, refuse_absence
from lsb.pictures.sources import Source
from lsb.progress import NoProgress, Progress
from lsb.records import RECORD_ID_HEX, Status, sha256
from lsb.store.store import Store

SAMPLE = 10_000

T = TypeVar("T")


class Loaded(Sequence[T], Generic[T]):
    """A sequence whose items are loaded whenever they are asked for, and not kept."""

    def __init__(self, keys: Sequence[str | None], load: Callable[[str | None], T]) -> None:
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
    sources: Source,
    target: Source | None,
    truth: Source | None,
    backbone: Backbone,
    extractor: FeatureExtractor,
    sample: int = SAMPLE,
    *,
    progress: Progress = NoProgress(),
) -> Measures:
    """The content of metrics.json for what is committed of `run`.

    Args:
        target: the target style's pictures; without them KID, FID and the share of the gap are null.
        truth: each source's truth under the source's own name, any suffix; without it tone distance, PSNR and
            retrieval are null.
        sample: how many of the smallest record ids are compared, and how many target pictures.

    Raises:
        StoreError: store, sources, target or truth as a whole cannot be used, now.
        TamperedError: the run's tables are not what was written.
    """
    table = manifest_table(store, run, partial=True)
    table = table.filter(pc.equal(table["status"], Status.OK.value)).sort_by("record_id").slice(0, sample)
    rows = table.to_pylist()
    keys = [row["source_key"] for row in rows]
    output_keys = [row["output_key"] for row in rows]
    geometry = Geometry.of_transform(run.transform)
    rules = geometry.decoding_rules
    read_source = _Reader(sources, rules, {row["source_key"]: row["source_sha256"] for row in rows})
    read_output = _Reader(store, rules, {row["output_key"]: row["output_sha256"] for row in rows})
    truths = None if truth is None else Truths(truth, rules)
    truth_keys = [] if truths is None else [truths.key_of(key) for key in keys]
    read_truth = None if truth is None else _Reader(truth, rules)
    pictures = [] if target is None else listed_pictures(target)
    target_keys = sorted((entry.key for entry in pictures), key=_picture_id)[:sample]
    read_target = None if target is None else _Reader(target, rules)
    comparison = Comparison(
        ids=[row["record_id"] for row in rows],
        sources=Loaded(keys, read_source),
        outputs=Loaded(output_keys, read_output),
        truths=None if read_truth is None else Loaded(truth_keys, read_truth),
        targets=None if read_target is None else Loaded(target_keys, read_target),
        target_ids=[_picture_id(key) for key in target_keys],
        scores=_known_scores(store, run, table),
    )
    measures = evaluate_images(comparison, backbone, extractor, progress, geometry).to_json()
    for reader in (read_source, read_truth, read_target):  # whether the ledger's own store is there, others find out
        if reader is not None and reader.unusable:
            refuse_absence(reader.folder)
    measures["sample"]["left_out"] = {
        "sources": read_source.left_out(keys),
        "outputs": read_output.left_out(output_keys),
        "targets": 0 if read_target is None else read_target.left_out(target_keys),
        "truths": 0 if read_truth is None else read_truth.left_out(truth_keys),
    }
    measures["sample"]["ambiguous_truths"] = 0 if truths is None else len(truths.ambiguous(keys))
    measures["compared_with"] = {
        "target": None if target is None else listing_digest(pictures),
        "truth": None if truths is None else truths.digest,
    }
    return measures


class _Reader:
    """Reads pictures of a folder. One that could not be used once is left out from then on."""

    def __init__(self, folder: Source, rules: int, digests: Mapping[str, str] | None = None) -> None:
        self.folder, self._rules, self._digests = folder, rules, digests or {}
        self.unusable: set[str] = set()

    def __call__(self, key: str | None) -> Image.Image | None:
        if key is None or key in self.unusable:
            return None
        picture = find_picture(self.folder, key, self._digests.get(key), self._rules)
        if picture is None:
            self.unusable.add(key)
        return picture

    def left_out(self, keys: Iterable[str | None]) -> int:
        return sum(key in self.unusable for key in keys)


def _known_scores(store: Store, run: Run, rows: pa.Table) -> list[Scores | None]:
    """What the shards measured already; None where a record lacks scores or features."""
    table = read_features(store, run, rows)
    vectors = (vector.as_py() for vector in table["features"])
    features = dict(zip(table["record_id"].to_pylist(), (np.array(v, dtype=np.float32) for v in vectors), strict=True))
    known: list[Scores | None] = []
    for row in rows.to_pylist():
        vector = features.get(row["record_id"])
        scores = dict(row["scores"] or ())
        complete = all(measure.column.key in scores for measure in OF_SOURCE)
        known.append(Scores(scores, vector) if vector is not None and complete else None)
    return known


def _picture_id(key: str) -> str:
    """As `lsb.records.record_id`, for names of any bytes."""
    return sha256(key.encode(errors="surrogateescape"))[:RECORD_ID_HEX]
