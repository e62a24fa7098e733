"""The table of a translation: its measures beside those of the reference rows that need no translation.

The pictures come as sequences, or as what they can be loaded by, so that a test, a script and a finished run share one
computation. A picture that is None cannot be read: what needs it is left out. Where there is no target or no truth, a
number is None and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from lsb.metrics.calibration import Calibration
from lsb.metrics.colour import ColourMoments, colour_moments, match_colours
from lsb.metrics.distances import LEVEL, RESAMPLES, Estimate, FrechetDistance, KernelDistance, MeanScore
from lsb.metrics.features import FeatureExtractor, Features
from lsb.metrics.picture import MEASURES
from lsb.metrics.picture.structure_distance import STRUCTURE_DISTANCE
from lsb.metrics.retrieval import hits
from lsb.metrics.scores import OF_SOURCE, Scorer, Scores
from lsb.metrics.table import COLUMNS, SCHEMA, GateMeasures, Measures
from lsb.models.protocol import Backbone
from lsb.models.tiled import Tiled
from lsb.pictures.geometry import Geometry, Size, frame_of
from lsb.pictures.images import pixels_sha256, to_images, to_tensor
from lsb.pictures.tiles import Tiles
from lsb.progress import NoProgress, Progress

CHUNK = 8
NAME = "evaluate"
NO_TRUTH = Estimate(None, reason="no truth was given")
NO_TRUTH_FOUND = Estimate(None, reason="no picture has a truth of its own name that can be read")
NOTHING = Estimate(None, reason="no picture could be compared")
NO_TARGET = Estimate(None, reason="no target set was given")

T = TypeVar("T")
Images = Sequence[Image.Image]
Pictures = Iterator[Image.Image | None]
Load = Callable[[Iterable[Any]], AbstractContextManager[Pictures]]


def loaded_already(pictures: Iterable[Any]) -> AbstractContextManager[Pictures]:
    """Those that are pictures themselves."""
    return nullcontext(iter(pictures))


@dataclass(frozen=True)
class Comparison:
    """What is compared: pictures, or what `load` makes pictures of, in the order that it is given them.

    `outputs` and `truths` belong to `sources` one to one. `scores` holds features and structure distances of outputs
    where they are known, None elsewhere. `targets` are the target style's pictures of the same split, in any order.
    Sources, targets and truths may be asked for twice.
    """

    ids: Sequence[str]
    sources: Sequence[Any]
    outputs: Sequence[Any]
    truths: Sequence[Any] | None = None
    targets: Sequence[Any] | None = None
    target_ids: Sequence[str] | None = None
    scores: Sequence[Scores | None] | None = None
    load: Load = loaded_already

    def __post_init__(self) -> None:
        lengths = {
            len(part) for part in (self.ids, self.sources, self.outputs, self.truths, self.scores) if part is not None
        }
        if len(lengths) > 1:
            raise ValueError(f"ids, sources, outputs, truths and scores have different lengths: {sorted(lengths)}")
        if self.targets is not None and (self.target_ids is None or len(self.target_ids) != len(self.targets)):
            raise ValueError("targets need target_ids of the same length")


@dataclass(frozen=True)
class MeasuredRow:
    """One row of the table: an estimate for each of `lsb.metrics.table.COLUMNS`, by its key."""

    key: str
    images: int
    values: Mapping[str, Estimate]

    def __getitem__(self, column: str) -> Estimate:
        return self.values[column]

    def to_json(self) -> Mapping[str, object]:
        estimates = {column.key: self.values[column.key]._asdict() for column in COLUMNS}
        return {"key": self.key, "images": self.images, **estimates}


@dataclass(frozen=True)
class EvaluationResult:
    images: int
    targets: int
    truths: int
    extractor: str
    extractor_digest: str
    rows: tuple[MeasuredRow, ...]
    gates: GateMeasures

    def row(self, key: str) -> MeasuredRow:
        return next(row for row in self.rows if row.key == key)

    def to_json(self) -> Measures:
        """What metrics.json holds. Every number is finite or null with a reason."""
        return {
            "schema": SCHEMA,
            "sample": {
                "rule": "smallest record ids",
                "images": self.images,
                "targets": self.targets,
                "truths": self.truths,
            },
            "extractor": {"id": self.extractor, "digest": self.extractor_digest},
            "interval": {"level": LEVEL, "resamples": RESAMPLES},
            "rows": [row.to_json() for row in self.rows],
            "gates": self.gates,
        }


def through_vae(images: Images, backbone: Backbone, geometry: Geometry = Geometry()) -> list[Image.Image]:
    """Pictures encoded and decoded at the sizes of a translation: what the model's autoencoder alone does to them."""
    frames = [frame_of(image.size, geometry, backbone.canvas) for image in images]
    alike: dict[Size, list[int]] = {}
    results = list(images)
    for place, frame in enumerate(frames):
        if frame.tiles is None:
            alike.setdefault(frame.working, []).append(place)
        else:
            results[place] = frame.finish(_tiles_through_vae(frame.prepare(images[place]), frame.tiles, backbone))
    for places in alike.values():
        with torch.no_grad():
            pixels = to_tensor([frames[place].prepare(images[place]) for place in places])
            decoded = to_images(backbone.decode(backbone.encode(pixels)))
        for place, made in zip(places, decoded, strict=True):
            results[place] = frames[place].finish(made)
    return results


def _tiles_through_vae(image: Image.Image, tiles: Tiles, backbone: Backbone) -> Image.Image:
    tiled, result, top = Tiled(backbone, tiles, 1), Image.new("RGB", image.size), 0
    with torch.no_grad():
        for band in tiled.decode(tiled.encode(image)):
            result.paste(to_images(band)[0], (0, top))
            top += band.shape[2]
    return result


def evaluate_images(
    comparison: Comparison,
    backbone: Backbone,
    extractor: FeatureExtractor,
    progress: Progress = NoProgress(),
    geometry: Geometry = Geometry(),
) -> EvaluationResult:
    """The whole table. Equal pictures and ids give equal numbers, in whatever order they come.

    Args:
        geometry: of the translation; pictures go through the VAE in the same.
    """
    order = sorted(range(len(comparison.ids)), key=comparison.ids.__getitem__)
    table = _Table(comparison, backbone, extractor, geometry)
    progress.start(NAME, len(order) + len(comparison.targets or ()))
    for number in chain(table.add_records(order), table.add_targets()):
        progress.advance(NAME, number)
    result = table.result()
    left_out = len(order) - result.images + len(comparison.targets or ()) - result.targets
    figures = {"truths": result.truths, "left out": left_out}
    if comparison.truths is not None:
        figures["without truth"] = result.images - result.truths
    progress.advance(NAME, 0, **figures)
    progress.finish(NAME)
    return result


class _Collected:
    """The mergeable states behind one row."""

    def __init__(self) -> None:
        self.kid = KernelDistance()
        self.fid = FrechetDistance()
        self.means = {measure.column.key: MeanScore() for measure in MEASURES}
        self.hits = MeanScore()
        self.ids: list[str] = []
        self.features: list[np.ndarray] = []

    def add(self, ids: Sequence[str], scores: Sequence[Scores]) -> None:
        for name, mean in self.means.items():
            known = [
                (record, score.values[name]) for record, score in zip(ids, scores, strict=True) if name in score.values
            ]
            if known:
                mean.update([value for _, value in known], [record for record, _ in known])
        self.add_features(ids, [score.features for score in scores])

    def add_features(self, ids: Sequence[str], features: Sequence[np.ndarray]) -> None:
        self.ids.extend(ids)
        self.features.extend(features)


class _Table:
    """Collects the rows chunk by chunk, so that no more than a chunk of pictures is held at a time."""

    def __init__(
        self, comparison: Comparison, backbone: Backbone, extractor: FeatureExtractor, geometry: Geometry
    ) -> None:
        self.comparison, self.backbone, self.geometry = comparison, backbone, geometry
        self.extractor, self.scorer = extractor, Scorer(extractor)
        self.calibration = Calibration(backbone.canvas.side, comparison.target_ids or ())
        self.rows = {key: _Collected() for key in ("translation", "source", "source_vae")}
        self.floor = _Collected()  # truths through the VAE, under their records' ids
        self.moments: tuple[ColourMoments, ColourMoments] | None = None
        sources, targets = self._moments(comparison.sources), self._moments(comparison.targets or ())
        if sources and targets:
            self.moments = sources, targets
            self.rows["source_colour"] = _Collected()
        self.truth_digests: dict[str, str] = {}  # record id -> pixels of its truth
        self.truth_index: dict[str, int] = {}  # pixels of a truth -> a record that has it
        self.vae_features: dict[str, np.ndarray] = {}  # pixels -> features of the same picture through the VAE
        self.gallery: dict[str, np.ndarray] = {}  # pixels -> features, one entry per different target picture
        self.target_ids: list[str] = []
        self.target_features: list[np.ndarray] = []
        self.target_vae_features: list[np.ndarray] = []

    def _moments(self, of: Sequence[Any]) -> ColourMoments | None:
        """Of those that can be read; None if there is none."""
        with self.comparison.load(of) as pictures:
            present = (image for image in pictures if image is not None)
            first = next(present, None)
            return None if first is None else colour_moments(chain([first], present))

    def add_records(self, order: Sequence[int]) -> Iterator[int]:
        """The number of each chunk's records, once they are added."""
        comparison = self.comparison
        parts = [part for part in (comparison.sources, comparison.outputs, comparison.truths) if part is not None]
        with comparison.load(part[index] for index in order for part in parts) as pictures:
            for chunk in _chunks(order):
                found = [(index, *(next(pictures) for _ in parts)) for index in chunk]
                pairs = [one for one in found if one[1] is not None and one[2] is not None]
                if pairs:
                    self._add_records(*zip(*pairs, strict=True))
                yield len(chunk)

    def _add_records(
        self, chunk: Sequence[int], sources: Images, outputs: Images, truths: Sequence[Image.Image | None] = ()
    ) -> None:
        ids = [self.comparison.ids[index] for index in chunk]
        truths = truths or [None] * len(chunk)
        seen = self.extractor(sources)
        self.rows["source"].add(ids, self.scorer.compare(seen.maps, seen, sources, truths))
        blurred = through_vae(sources, self.backbone, self.geometry)
        untouched = self.scorer.compare(seen.maps, self.extractor(blurred), blurred, truths)
        self.rows["source_vae"].add(ids, untouched)
        own_structure = [score.values[STRUCTURE_DISTANCE.column.key] for score in untouched]
        self.calibration.add_records(ids, sources, outputs, blurred, seen, own_structure)
        if self.moments is not None:
            matched = [match_colours(source, *self.moments) for source in sources]
            self.rows["source_colour"].add(
                ids, self.scorer.compare(seen.maps, self.extractor(matched), matched, truths)
            )
        self.rows["translation"].add(ids, self._translation(chunk, outputs, seen, truths))
        self._add_truths(chunk, ids, seen, truths)

    def _translation(
        self, chunk: Sequence[int], outputs: Images, seen: Features, truths: Sequence[Image.Image | None]
    ) -> list[Scores]:
        known = [None if self.comparison.scores is None else self.comparison.scores[index] for index in chunk]
        missing = [place for place, score in enumerate(known) if score is None]
        maps, new = seen.maps[missing], [outputs[place] for place in missing]
        made = iter(self.scorer.compare(maps, self.extractor(new), new, [None] * len(new)))
        # Measured against this truth, whatever was the truth when the scores were made.
        against = self.scorer.against_truth(outputs, truths)
        scores = [score or next(made) for score in known]
        of_source = [measure.column.key for measure in OF_SOURCE]
        return [
            Scores({**{key: score.values[key] for key in of_source}, **other}, score.features)
            for score, other in zip(scores, against, strict=True)
        ]

    def _add_truths(
        self, chunk: Sequence[int], ids: Sequence[str], seen: Features, truths: Sequence[Image.Image | None]
    ) -> None:
        known = [place for place, truth in enumerate(truths) if truth is not None]
        true = [truth for truth in truths if truth is not None]
        if not true:
            return
        blurred = through_vae(true, self.backbone, self.geometry)
        self.calibration.add_through_vae(true, blurred)
        scores = self.scorer.compare(seen.maps[known], self.extractor(blurred), blurred, true)
        self.floor.add([ids[place] for place in known], scores)
        for place, truth, score in zip(known, true, scores, strict=True):
            digest = pixels_sha256(truth)
            self.truth_digests[ids[place]] = digest
            self.truth_index.setdefault(digest, chunk[place])
            self.vae_features[digest] = score.features

    def add_targets(self) -> Iterator[int]:
        """The number of each chunk's pictures, once they are added."""
        with self.comparison.load(self.comparison.targets or ()) as pictures:
            for chunk in _chunks(self.comparison.target_ids or ()):
                loaded = zip(chunk, islice(pictures, len(chunk)), strict=True)
                found = [(name, target) for name, target in loaded if target is not None]
                self._add_targets([name for name, _ in found], [target for _, target in found])
                yield len(chunk)

    def _add_targets(self, ids: Sequence[str], targets: Images) -> None:
        self.target_ids += ids
        digests = [pixels_sha256(target) for target in targets]
        features = self.extractor(targets)
        self.calibration.add_targets(ids, targets, features)
        self.target_features.extend(features.pooled)
        for digest, feature in zip(digests, features.pooled, strict=True):
            self.gallery.setdefault(digest, feature)
        new = [place for place, digest in enumerate(digests) if digest not in self.vae_features]
        pictures = [targets[place] for place in new]
        blurred = through_vae(pictures, self.backbone, self.geometry)
        self.calibration.add_through_vae(pictures, blurred)
        seen = self.extractor(blurred).pooled
        self.vae_features |= {digests[place]: feature for place, feature in zip(new, seen, strict=True)}
        self.target_vae_features.extend(self.vae_features[digest] for digest in digests)

    def result(self) -> EvaluationResult:
        self._complete_gallery()
        targets = self.comparison.targets
        rows = [self._row(key, collected, collected) for key, collected in self.rows.items()]
        pictures = self.floor
        if targets is not None:
            pictures = _Collected()
            pictures.add_features(self.target_ids, self.target_vae_features)
        if pictures.ids:
            rows.insert(3, self._row("target_vae", self.floor, pictures))
        return EvaluationResult(
            images=len(self.rows["source"].ids),
            targets=len(self.target_ids),
            truths=len(self.truth_digests),
            extractor=self.extractor.id,
            extractor_digest=self.extractor.digest,
            rows=_with_gap(rows),
            gates=self.calibration.result(),
        )

    def _complete_gallery(self) -> None:
        """Truths that are not among the target pictures belong to the target style, too."""
        truths = self.comparison.truths
        missing = [index for digest, index in self.truth_index.items() if digest not in self.gallery]
        with self.comparison.load(truths[index] for index in missing if truths is not None) as pictures:
            for chunk in _chunks(missing):
                true = [truth for truth in islice(pictures, len(chunk)) if truth is not None]
                for truth, feature in zip(true, self.extractor(true).pooled, strict=True):
                    self.gallery[pixels_sha256(truth)] = feature

    def _row(self, key: str, scored: _Collected, pictures: _Collected) -> MeasuredRow:
        """`scored` has records with scores, `pictures` the whole set that is compared with the targets."""
        self._count_hits(scored)
        kid = fid = NO_TARGET
        if self.comparison.targets is not None:
            for distance in (pictures.kid, pictures.fid):
                for ids, features, real in (
                    (pictures.ids, pictures.features, False),
                    (self.target_ids, self.target_features, True),
                ):
                    if features:
                        distance.update(np.stack(features), ids, real=real)
            kid, fid = pictures.kid.compute(), pictures.fid.compute()
        values = {name: self._mean(metric) for name, metric in scored.means.items()}
        values |= {"kid": kid, "fid": fid, "kid_gap_closed": NO_TARGET, "truth_retrieval": self._mean(scored.hits)}
        return MeasuredRow(key, len(pictures.ids), values)

    def _mean(self, metric: MeanScore) -> Estimate:
        if metric.update_called:
            return metric.compute()
        if not self.rows["source"].ids:
            return NOTHING
        return NO_TRUTH if self.comparison.truths is None else NO_TRUTH_FOUND

    def _count_hits(self, collected: _Collected) -> None:
        position = {digest: place for place, digest in enumerate(self.gallery)}
        known = [place for place, record in enumerate(collected.ids) if self.truth_digests.get(record) in position]
        if not known:
            return
        ids = [collected.ids[place] for place in known]
        truth = np.array([position[self.truth_digests[record]] for record in ids])
        features = np.stack([collected.features[place] for place in known])
        collected.hits.update(hits(features, np.stack(list(self.gallery.values())), truth), ids)


def _with_gap(rows: Sequence[MeasuredRow]) -> tuple[MeasuredRow, ...]:
    """KID gap closed: 1 - (KID - KID of target VAE) / (KID of source VAE - KID of target VAE)."""
    kid = {row.key: row["kid"].value for row in rows}

    def with_gap(row: MeasuredRow, gap: Estimate) -> MeasuredRow:
        return replace(row, values={**row.values, "kid_gap_closed": gap})

    start, floor = kid.get("source_vae"), kid.get("target_vae")
    if start is None or floor is None:
        missing = next((row["kid"].reason for row in rows if row["kid"].reason), NO_TARGET.reason)
        return tuple(with_gap(row, Estimate(None, reason=missing)) for row in rows)
    if start <= floor:
        none = Estimate(
            None, reason="the source through the VAE is no farther from the target than the target's VAE is"
        )
        return tuple(with_gap(row, none) for row in rows)

    def closed(value: float) -> float:
        return 1 - (value - floor) / (start - floor)

    return tuple(row if (value := row["kid"].value) is None else with_gap(row, Estimate(closed(value))) for row in rows)


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]
