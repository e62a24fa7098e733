"""The measures of a run: its outputs, read from the store, compared with sources, truths and target pictures.

The metric sample is the 10,000 smallest record ids that have an output (all, if there are fewer), in record-id order,
flagged ones included. A record id is a hash, so that this is a fixed random sample, and nobody picks it.

What cannot be read any more is left out and counted, and so is a source whose bytes are others than those that were
translated. A folder in which nothing can be read is taken to be away, which is no reason to measure without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from lsb.ledger.gates import Gates
from lsb.ledger.manifest import collect
from lsb.ledger.publish import read_features
from lsb.ledger.run import Run
from lsb.ledger.schemas import MANIFEST
from lsb.metrics.comparison import Comparison, evaluate_images
from lsb.metrics.features import FeatureExtractor
from lsb.metrics.scores import OF_SOURCE, Scores
from lsb.metrics.table import Measures
from lsb.metrics.truths import Truths
from lsb.models.protocol import Backbone
from lsb.pictures.decoder import DECODERS
from lsb.pictures.geometry import Geometry
from lsb.pictures.optional import listed_pictures, listing_digest, picture_of, refuse_absence
from lsb.pictures.sources import Source
from lsb.progress import NoProgress, Progress
from lsb.records import RECORD_ID_HEX, Status, sha256
from lsb.store.kept import KeptReads
from lsb.store.read_ahead import read_ahead
from lsb.store.store import Store

SAMPLE = 10_000
_COLUMNS = ["record_id", "status", "shard", "carried_from", "source_key", "source_sha256", "output_key"]
_COLUMNS += ["output_sha256", "scores"]


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
    table = _sampled(store, run, sample)
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
        sources=read_source.named(keys),
        outputs=read_output.named(output_keys),
        truths=None if read_truth is None else read_truth.named(truth_keys),
        targets=None if read_target is None else read_target.named(target_keys),
        target_ids=[_picture_id(key) for key in target_keys],
        scores=_known_scores(store, run, table),
        load=partial(_loaded, kept=KeptReads()),
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


def _sampled(store: Store, run: Run, count: int) -> pa.Table:
    """The rows of the first outputs by record id."""
    made = [MANIFEST.empty().select(_COLUMNS)]
    for rows in collect(store, run, gates=Gates(), columns=_COLUMNS).pieces:
        made.append(rows.filter(pc.equal(rows["status"], Status.OK.value)).select(_COLUMNS))
        if sum(table.num_rows for table in made) >= count:
            break
    return pa.concat_tables(made).slice(0, count)


class _Reader:
    """Reads pictures of a folder. One that could not be used once is left out from then on."""

    def __init__(self, folder: Source, rules: int, digests: Mapping[str, str] | None = None) -> None:
        self.folder, self._rules, self._digests = folder, rules, digests or {}
        self.unusable: set[str] = set()

    def named(self, keys: Iterable[str | None]) -> list[_Picture]:
        return [_Picture(self, key) for key in keys]

    def picture(self, key: str, read: Callable[[], bytes]) -> Image.Image | None:
        picture = picture_of(self.folder, key, read, self._digests.get(key), self._rules)
        if picture is None:
            self.unusable.add(key)
        return picture

    def left_out(self, keys: Iterable[str | None]) -> int:
        return sum(key in self.unusable for key in keys)


class _Picture(NamedTuple):
    """By which a picture is loaded; without a key there is none."""

    reader: _Reader
    key: str | None


@contextmanager
def _loaded(pictures: Iterable[_Picture], kept: KeptReads) -> Iterator[Iterator[Image.Image | None]]:
    """The pictures in their order, read and decoded ahead."""

    def read(picture: _Picture) -> bytes:
        if picture.key is None or picture.key in picture.reader.unusable:
            return b""
        return kept.read(picture.reader.folder, picture.key)

    def decode(answer: tuple[_Picture, Callable[[], bytes]]) -> Image.Image | None:
        (reader, key), data = answer
        return None if key is None or key in reader.unusable else reader.picture(key, data)

    with read_ahead(pictures, read) as answers, read_ahead(answers, decode, requests=DECODERS) as made:
        yield (picture() for _, picture in made)


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
