from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from lsb.metrics.comparison import Comparison, EvaluationResult, evaluate_images, through_vae
from lsb.metrics.pixels import unit_pixels
from lsb.metrics.scores import Scorer
from lsb.metrics.table import COLUMNS, ROWS
from lsb.pictures.geometry import Geometry
from lsb.records import canonical_json
from tests.unit.metrics.pictures import Averages, BlurringBackbone, disc, ids


def darker(image: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(image) * 0.6).astype(np.uint8))


COUNT = 20
SOURCES = [disc(seed) for seed in range(COUNT)]
TRUTHS = [darker(image) for image in SOURCES]
WHOLE = Comparison(ids(COUNT), SOURCES, TRUTHS, TRUTHS, TRUTHS, ids(COUNT, "target"))


def table(comparison: Comparison) -> EvaluationResult:
    return evaluate_images(comparison, BlurringBackbone(), Averages())


@pytest.fixture(scope="module")
def perfect() -> EvaluationResult:
    return table(WHOLE)


def test_perfect_translations_beat_every_reference(perfect: EvaluationResult) -> None:
    assert [row.key for row in perfect.rows] == [row.key for row in ROWS]
    best = perfect.row("translation")
    assert best["tone_distance"].value == 0
    assert best["psnr"].value == 100
    assert best["truth_retrieval"].value == 1
    assert best["kid_gap_closed"].value == pytest.approx(1, abs=0.01)
    for row in perfect.rows[1:]:
        assert row["tone_distance"].value >= 0
        assert row["psnr"].value < 100
        assert row.images == COUNT
    assert perfect.row("source_vae")["kid_gap_closed"].value == 0
    assert perfect.row("target_vae")["kid_gap_closed"].value == 1
    assert perfect.row("source")["structure_distance"].value == 0
    assert perfect.row("target_vae")["structure_distance"].value > 0


def test_blur_does_not_change_the_tone_but_the_pixels(perfect: EvaluationResult) -> None:
    floor = perfect.row("target_vae")
    assert floor["tone_distance"].value < 0.005
    assert floor["psnr"].value < 40


def test_colour_match_makes_darker_pictures(perfect: EvaluationResult) -> None:
    assert perfect.row("source_colour")["tone_distance"].value < 0.5 * perfect.row("source")["tone_distance"].value


def test_doing_nothing_closes_no_gap() -> None:
    result = table(replace(WHOLE, outputs=through_vae(SOURCES, BlurringBackbone())))
    translation, reference = result.row("translation"), result.row("source_vae")
    assert replace(translation, key="source_vae") == reference


def test_order_of_pictures_and_targets_changes_nothing(perfect: EvaluationResult) -> None:
    order = list(np.random.default_rng(0).permutation(COUNT))

    def shuffle(items: list) -> list:
        return [items[index] for index in order]

    names, target_names = ids(COUNT), ids(COUNT, "target")
    pictures, truths = shuffle(SOURCES), shuffle(TRUTHS)
    result = table(Comparison(shuffle(names), pictures, truths, truths, truths, shuffle(target_names)))
    for a, b in zip(result.rows, perfect.rows, strict=True):
        for column in COLUMNS:
            # Only the colour match adds up over pictures in the order in which they come.
            expected = b[column.key].value
            assert a[column.key].value == (None if expected is None else pytest.approx(expected, abs=1e-9))


def test_known_scores_are_taken_over(perfect: EvaluationResult) -> None:
    scorer = Scorer(Averages())
    scores = scorer.score(SOURCES, TRUTHS, TRUTHS)
    stale = [replace(score, values={**score.values, "psnr": 1.0}) for score in scores]  # of another truth
    known = [score if index % 3 else None for index, score in enumerate(stale)]
    extractor = Averages()
    result = evaluate_images(replace(WHOLE, scores=known), BlurringBackbone(), extractor)
    assert result.row("translation") == perfect.row("translation")
    everything = Averages()
    evaluate_images(WHOLE, BlurringBackbone(), everything)
    assert everything.calls - extractor.calls == sum(score is not None for score in known)


def test_without_truth_and_target_their_columns_are_null_with_the_reason() -> None:
    result = table(Comparison(ids(COUNT), SOURCES, TRUTHS))
    assert [row.key for row in result.rows] == ["translation", "source", "source_vae"]
    for row in result.rows:
        assert row["structure_distance"].value is not None
        for estimate in (row["tone_distance"], row["psnr"], row["truth_retrieval"]):
            assert (estimate.value, estimate.reason) == (None, "no truth was given")
        for estimate in (row["kid"], row["fid"], row["kid_gap_closed"]):
            assert (estimate.value, estimate.reason) == (None, "no target set was given")


def test_truths_for_some_records_only() -> None:
    truths = [truth if index < 5 else None for index, truth in enumerate(TRUTHS)]
    result = table(replace(WHOLE, truths=truths))
    assert result.truths == 5
    assert result.row("translation")["psnr"].value == 100
    assert result.row("target_vae").images == COUNT


def test_truths_outside_the_target_set_join_the_gallery() -> None:
    others = [darker(disc(seed)) for seed in range(100, 110)]
    result = table(replace(WHOLE, targets=others, target_ids=ids(10, "target")))
    assert result.row("translation")["truth_retrieval"].value == 1
    assert result.row("target_vae").images == 10
    swapped = table(replace(WHOLE, outputs=TRUTHS[1:] + TRUTHS[:1], targets=others, target_ids=ids(10, "target")))
    assert swapped.row("translation")["truth_retrieval"].value == 0


def test_json_is_canonical_and_finite(perfect: EvaluationResult) -> None:
    document = perfect.to_json()
    assert json.loads(canonical_json(document)) == document
    assert document["extractor"] == {"id": "averages", "digest": "1" * 64}
    assert document["sample"]["images"] == COUNT
    first = document["rows"][0]
    assert set(first) == {"key", "images", *(column.key for column in COLUMNS)}
    assert first["fid"]["value"] is None
    assert "2000" in first["fid"]["reason"]
    assert math.isfinite(first["kid"]["low"])


def test_no_pictures_at_all_give_a_table_of_nulls() -> None:
    result = table(Comparison([], [], []))
    assert all(row[column.key].value is None for row in result.rows for column in COLUMNS)


def test_through_vae_goes_through_the_sizes_of_a_translation() -> None:
    wide = disc(1, (128, 64))
    (picture,) = through_vae([wide], BlurringBackbone(), Geometry(fit="letterbox"))
    assert picture.size == (64, 32)
    made = through_vae([wide, disc(2), wide], BlurringBackbone())
    assert [picture.size for picture in made] == [(128, 64), (64, 64), (128, 64)]
    assert made[0].tobytes() == made[2].tobytes()
    assert made[1].tobytes() == through_vae([disc(2)], BlurringBackbone(), Geometry(fit="letterbox"))[0].tobytes()
    assert torch.isfinite(unit_pixels([picture])).all()


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        Comparison(ids(2), SOURCES[:2], SOURCES[:1])
    with pytest.raises(ValueError, match="target_ids"):
        Comparison(ids(1), SOURCES[:1], SOURCES[:1], targets=SOURCES[:1])
