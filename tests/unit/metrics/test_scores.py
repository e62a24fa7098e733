from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch.nn import functional as F

from lsb.metrics.features import EfficientNetLite0
from lsb.metrics.picture.psnr import psnr
from lsb.metrics.picture.structure_distance import structure_distance
from lsb.metrics.picture.tone_distance import tone_distance
from lsb.metrics.pixels import unit_pixels
from lsb.metrics.scores import OF_SOURCE, OF_TRUTH, Scorer
from tests.unit.metrics.pictures import disc


def test_structure_distance_is_the_direct_formula() -> None:
    a, b = torch.randn(2, 3, 5, 4, 4, generator=torch.Generator().manual_seed(0))

    def similarities(maps: torch.Tensor) -> torch.Tensor:
        flat = maps.flatten(2)
        return F.cosine_similarity(flat[:, :, :, None], flat[:, :, None, :], dim=1)

    expected = (similarities(a) - similarities(b)).flatten(1).norm(dim=1) / 16
    assert torch.allclose(structure_distance(a, b).float(), expected, atol=1e-6)


def test_structure_distance_ignores_brightness_of_features_but_not_layout() -> None:
    maps = torch.randn(1, 5, 4, 4, generator=torch.Generator().manual_seed(1))
    assert structure_distance(maps, maps).item() == 0
    assert structure_distance(maps, 3 * maps).item() < 1e-6
    assert structure_distance(maps, maps.flip(3)).item() > 0.1
    assert structure_distance(torch.zeros_like(maps), maps).isfinite().all()


def test_tone_distance_by_hand() -> None:
    black, grey = torch.zeros(1, 3, 64, 64), torch.full((1, 3, 64, 64), 0.25)
    assert tone_distance(black, grey).item() == pytest.approx(0.25)
    checks = ((torch.arange(64)[:, None] + torch.arange(64)) % 2).float().expand(1, 3, 64, 64)
    assert tone_distance(checks, torch.full((1, 3, 64, 64), 0.5)).item() == pytest.approx(0)


def test_blur_raises_psnr_s_error_more_than_tone_s() -> None:
    sharp = disc(4)
    soft = unit_pixels([sharp.filter(ImageFilter.GaussianBlur(1))])
    true = unit_pixels([sharp])
    assert tone_distance(soft, true).item() < 0.5 * 10 ** (-psnr(soft, true).item() / 20)


def test_psnr_by_hand_and_its_ceiling() -> None:
    black, grey = torch.zeros(1, 3, 64, 64), torch.full((1, 3, 64, 64), 0.1)
    assert psnr(black, grey).item() == pytest.approx(20)
    assert psnr(grey, grey).item() == pytest.approx(100)


def test_scorer_gives_finite_numbers_for_every_kind_of_picture(extractor: EfficientNetLite0) -> None:
    plain = Image.new("RGB", (64, 64), (255, 255, 255))
    sources = [plain, disc(1), disc(2, (90, 40)), disc(3)]
    outputs = [plain, disc(1), disc(5, (64, 28)), plain]
    scores = Scorer(extractor).score(sources, outputs, [plain, None, disc(6), disc(3)])
    always, with_truth = ({measure.column.key for measure in kind} for kind in (OF_SOURCE, OF_TRUTH))
    assert always >= {"structure_distance"}
    assert with_truth >= {"tone_distance", "psnr"}
    every = always | with_truth
    assert [set(score.values) for score in scores] == [every, always, every, every]
    assert all(math.isfinite(value) for score in scores for value in score.values.values())
    assert scores[0].values["structure_distance"] == scores[1].values["structure_distance"] == 0
    assert scores[3].values["structure_distance"] > 0.01
    assert np.array_equal(scores[2].features, extractor(outputs[2:3]).pooled[0])


def test_lengths_that_differ_are_refused(extractor: EfficientNetLite0) -> None:
    with pytest.raises(ValueError, match="1 sources, 1 outputs and 2 truths"):
        Scorer(extractor).score([disc(1)], [disc(1)], [None, None])


def test_company_changes_no_bit_of_a_score(extractor: EfficientNetLite0) -> None:
    scorer = Scorer(extractor)
    sources, outputs = [disc(seed) for seed in range(5)], [disc(seed + 10) for seed in range(5)]
    together = scorer.score(sources, outputs, sources)
    alone = [scorer.score([a], [b], [a])[0] for a, b in zip(sources, outputs, strict=True)]
    assert [score.values for score in together] == [score.values for score in alone]
