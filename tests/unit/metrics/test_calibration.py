from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from lsb.ledger.gates import FLAT, Gates
from lsb.metrics.calibration import LEAST, source_distances
from lsb.metrics.comparison import Comparison, evaluate_images, through_vae
from lsb.metrics.table import GateMeasures
from tests.unit.metrics.pictures import Averages, BlurringBackbone, disc, ids

COUNT = 24


def judge(outputs: list[Image.Image], sources: list[Image.Image], targets: list[Image.Image] | None) -> GateMeasures:
    comparison = Comparison(
        ids=ids(len(sources)),
        sources=sources,
        outputs=outputs,
        targets=targets,
        target_ids=None if targets is None else ids(len(targets), "target"),
    )
    found: GateMeasures = evaluate_images(comparison, BlurringBackbone(), Averages()).to_json()["gates"]
    return found


def test_doing_nothing_is_told_from_doing_something() -> None:
    """The model's autoencoder blurs; a translation inverts the colours."""
    sources = [disc(seed) for seed in range(COUNT)]
    outputs = [ImageOps.invert(source) for source in sources]
    outputs[3], outputs[7] = sources[3], through_vae([sources[7]], BlurringBackbone())[0]
    found = judge(outputs, sources, [disc(seed + 100) for seed in range(COUNT)])
    threshold, numbers = found["thresholds"]["no_op"], found["numbers"]
    below = [place for place, record in enumerate(ids(COUNT)) if numbers[record][0] < threshold]
    assert below == [3, 7]
    assert numbers[ids(COUNT)[7]][0] == pytest.approx(0, abs=0.05)


def stripe(seed: int) -> np.ndarray:
    """Black and white by turns, and one column of a grey of its own."""
    pixels = np.tile(np.uint8([0, 255]), (64, 32))
    pixels[:, seed] = 100 + seed
    return np.stack([pixels] * 3, -1)


def test_the_unit_of_change_is_what_the_vae_does_alone() -> None:
    sources = [disc(seed) for seed in range(COUNT)]
    stripes = [Image.fromarray(stripe(seed)) for seed in range(COUNT)]
    alone = judge(sources, sources, None)
    changes = sorted(change for change, _ in alone["numbers"].values())
    assert changes[COUNT * 3 // 4 - 1] < 1 < changes[-1]
    assert changes[COUNT * 3 // 4 : -2] == [1] * (COUNT // 4 - 2)
    beside = judge(sources, sources, stripes)  # the VAE changes these more, and who knows what came out of it
    assert beside["untouched"] == pytest.approx([0.5, 0.5], abs=0.02)
    assert max(alone["untouched"]) < 0.2
    assert max(change for change, _ in beside["numbers"].values()) < 0.5


def test_a_source_unlike_the_others_is_far_from_them() -> None:
    generator = np.random.default_rng(0)
    features = np.abs(generator.normal(size=(300, 16))) + 4
    features[7] = np.eye(16)[0]
    features[290] = np.eye(16)[5]
    distances = source_distances(features)
    assert set(np.argsort(distances)[-2:]) == {7, 290}
    assert source_distances(features * generator.uniform(1, 9, (300, 1))) == pytest.approx(distances)


def test_distances_by_hand() -> None:
    """Twenty directions in a plane, two degrees apart: of twenty three lie within six degrees of the first."""
    angles = np.deg2rad(2 * np.arange(20))
    features = np.stack([np.cos(angles), np.sin(angles)], 1)
    assert source_distances(features)[0] == pytest.approx(2 * np.sin(np.deg2rad(3)))


def test_a_few_that_are_alike_do_not_hide_each_other() -> None:
    generator = np.random.default_rng(0)
    features = np.abs(generator.normal(size=(100, 16))) + 4
    features[:8] = np.eye(16)[0] + 0.01 * generator.normal(size=(8, 16))
    distances = source_distances(features)
    assert distances[:8].min() > distances[8:].max()


def test_an_outlier_among_the_sources_is_flagged() -> None:
    sources = [disc(seed) for seed in range(40)]
    sources[5] = Image.new("RGB", (64, 64))
    sources[5].paste((0, 0, 255), (0, 0, 16, 16))
    found = judge([ImageOps.invert(source) for source in sources], sources, None)
    far = [
        place
        for place, record in enumerate(ids(40))
        if found["numbers"][record][1] > found["thresholds"]["out_of_domain"]
    ]
    assert far == [5]


def test_of_few_sources_hardly_anything_is_judged() -> None:
    sources = [disc(seed) for seed in range(LEAST - 1)]
    found = judge(sources, sources, sources)
    assert found == {"sources": LEAST - 1, "targets": LEAST - 1, "thresholds": {"flat_output": FLAT}}
    assert Gates.of({"gates": found}) == Gates()


def test_a_target_domain_that_is_flat_itself_is_no_fault() -> None:
    sources = [disc(seed) for seed in range(COUNT)]
    pale = [Image.new("RGB", (64, 64), "white") for _ in range(COUNT)]
    for picture in pale:
        picture.putpixel((3, 3), (250, 250, 250))
    found = judge(sources, sources, pale)["thresholds"]["flat_output"]
    assert 0 < found < FLAT / 10


def test_unrelated_pictures_lie_beyond_the_threshold_of_structure() -> None:
    sources = [disc(seed) for seed in range(COUNT)]
    found = judge(sources, sources, [disc(seed + 50) for seed in range(COUNT)])
    assert 0 < found["thresholds"]["over_changed"] < 2
    same = [disc(1)] * COUNT  # all of one layout: what the VAE itself does is no change
    floor = judge(same, same, same)["thresholds"]["over_changed"]
    assert floor > 0
