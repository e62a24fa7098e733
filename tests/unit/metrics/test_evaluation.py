from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from lsb.images import encode
from lsb.metrics.evaluation import evaluate
from lsb.metrics.scores import Scorer
from lsb.records import canonical_json
from lsb.sharding import Run
from lsb.storage.store import Store, open_store
from tests import ledger
from tests.unit.metrics.pictures import Averages, BlurringBackbone

COUNT = 12


@dataclass
class Setting:
    store: Store
    run: Run
    sources: Store
    truth: Store

    def measures(self, target: bool = True, truth: bool = True, sample: int = 100) -> dict:
        true = self.truth
        return evaluate(
            self.store,
            self.run,
            self.sources,
            true if target else None,
            true if truth else None,
            BlurringBackbone(),
            Averages(),
            sample,
        )


def finished(folder: Path, scored: Sequence[str]) -> Setting:
    """A finished run that inverts pictures; the truths are the inverted pictures in another format."""
    ledger.make_images(folder / "images", COUNT)
    (folder / "images" / "broken.png").write_bytes(b"no picture")
    for path in sorted((folder / "images").rglob("0*.png")):
        true = folder / "truth" / path.relative_to(folder / "images").with_suffix(".webp")
        true.parent.mkdir(parents=True, exist_ok=True)
        true.write_bytes(encode(ImageOps.invert(Image.open(path)), "webp"))
    (folder / "truth" / "notes.txt").write_text("no picture")
    (folder / "truth" / "broken.webp").write_bytes(b"no picture")
    store, truth = open_store(str(folder / "store"), create=True), open_store(str(folder / "truth"))
    run, sources = ledger.start(store, folder / "images")
    for shard in run.shards():
        more = {"scorer": Scorer(Averages()), "truth": truth} if shard in scored else {}
        ledger.run_shard(store, run, shard, ledger.worker(sources, **more))
    return Setting(store, run, sources, truth)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return finished(tmp_path_factory.mktemp("run"), scored=("00000", "00001", "00002"))


def row(measures: dict, key: str) -> dict:
    return next(row for row in measures["rows"] if row["key"] == key)


def test_a_finished_run_is_measured_against_truths_of_any_suffix(setting: Setting) -> None:
    measures = setting.measures()
    assert measures["sample"] == {
        "rule": "smallest record ids",
        "images": COUNT,
        "targets": COUNT,  # the broken one and the text are no pictures
        "truths": COUNT,
    }
    translation = row(measures, "translation")
    assert translation["tone_distance"]["value"] == 0
    assert translation["psnr"]["value"] == 100
    assert translation["truth_retrieval"]["value"] == 1
    assert row(measures, "source")["psnr"]["value"] < 20
    canonical_json(measures)


def test_what_the_shards_measured_equals_what_is_measured_here(setting: Setting, tmp_path: Path) -> None:
    bare = finished(tmp_path, scored=("00001",)).measures()
    assert bare == setting.measures()


def test_the_sample_is_the_smallest_record_ids(setting: Setting) -> None:
    few = setting.measures(sample=5)
    assert (few["sample"]["images"], few["sample"]["targets"]) == (5, 5)


def test_without_target_or_truth_nothing_is_made_up(setting: Setting) -> None:
    alone = row(setting.measures(target=False, truth=False), "translation")
    for column in ("tone_distance", "psnr", "kid", "kid_gap_closed", "fid", "truth_retrieval"):
        assert alone[column]["value"] is None
        assert alone[column]["reason"]
    assert alone["structure_distance"]["value"] > 0
    assert row(setting.measures(truth=False), "translation")["kid"]["value"] is not None
