from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from lsb.audit import verify
from lsb.errors import NotFoundError, StoreBusyError
from lsb.ledger.publish import manifest_table, publish
from lsb.ledger.run import Run
from lsb.metrics.evaluation import evaluate
from lsb.metrics.scores import Scorer
from lsb.metrics.truths import OptionalTruths
from lsb.pictures.encoding import encode
from lsb.records import canonical_json
from lsb.store import kept
from lsb.store.local import LocalStore
from lsb.store.store import Store, open_store
from tests import ledger
from tests.interleaving import MemoryStore
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
        more = {"scorer": Scorer(Averages()), "truths": OptionalTruths(truth)} if shard in scored else {}
        ledger.run_shard(store, run, shard, ledger.equipment(sources, **more))
    publish(store, run, {}, b"page")
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
        "targets": COUNT,  # the text is no picture, the broken one is left out
        "truths": COUNT,
        "left_out": {"sources": 0, "outputs": 0, "targets": 1, "truths": 0},
        "ambiguous_truths": 0,
    }
    translation = row(measures, "translation")
    assert translation["tone_distance"]["value"] == 0
    assert translation["psnr"]["value"] == 100
    assert translation["truth_retrieval"]["value"] == 1
    assert row(measures, "source")["psnr"]["value"] < 20
    canonical_json(measures)


def test_what_the_shards_measured_equals_what_is_measured_here(setting: Setting, tmp_path: Path) -> None:
    bare, scored = finished(tmp_path, scored=("00001",)).measures(), setting.measures()
    del bare["compared_with"], scored["compared_with"]  # two folders, made at two times
    assert bare == scored


def test_each_object_is_read_once_and_gives_the_same_table(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    class Far(MemoryStore):
        def read(self, key: str) -> bytes:
            reads[self.uri, key] += 1
            return super().read(key)

    def far(store: Store) -> Far:
        there = Far(uri=f"far://{store.uri.rpartition('/')[2]}")
        for entry in store.list():
            there.objects[entry.key] = store.read(entry.key), entry.modified
        return there

    reads: Counter[tuple[str, str]] = Counter()
    moved = Setting(far(setting.store), setting.run, far(setting.sources), far(setting.truth))
    measures, expected = moved.measures(), setting.measures()
    del measures["compared_with"], expected["compared_with"]
    assert measures == expected
    pictures = {name: count for name, count in reads.items() if not name[1].endswith((".json", ".parquet"))}
    assert len(pictures) == 3 * COUNT + 1  # and a truth that is none
    assert set(pictures.values()) == {1}
    monkeypatch.setattr(kept, "KEPT_BYTES", 0)
    again = moved.measures()
    del again["compared_with"]
    assert again == expected


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


def test_what_cannot_be_read_is_left_out_and_counted(tmp_path: Path) -> None:
    setting = finished(tmp_path, scored=("00000",))
    whole = setting.measures()
    assert whole["sample"]["left_out"] == {"sources": 0, "outputs": 0, "targets": 1, "truths": 0}
    images, truth = tmp_path / "images", tmp_path / "truth"
    (images / "even" / "0000.png").unlink()
    (images / "odd" / "0001.png").write_bytes(encode(ledger.picture(99), "png"))  # a picture, but another one
    (truth / "even" / "0002.webp").write_bytes(b"no picture")
    (truth / "odd" / "0003.webp").unlink()
    rows = {row["source_key"]: row for row in manifest_table(setting.store, setting.run).to_pylist()}
    damaged, missing = (tmp_path / "store" / rows[key]["output_key"] for key in ("even/0004.png", "odd/0005.png"))
    damaged.write_bytes(encode(ledger.picture(98), "png"))
    missing.unlink()
    measures = setting.measures()
    sample = measures["sample"]
    assert sample["left_out"] == {"sources": 2, "outputs": 2, "targets": 2, "truths": 1}
    assert (sample["images"], sample["truths"], sample["targets"]) == (COUNT - 4, COUNT - 6, COUNT - 2)
    assert row(measures, "translation")["tone_distance"]["value"] == 0
    assert measures["compared_with"]["truth"] != whole["compared_with"]["truth"]
    verdict = verify(setting.store, setting.run.id)
    assert sorted(finding.key for finding in verdict.findings if finding.kind == "tampered") == sorted(
        rows[key]["output_key"] for key in ("even/0004.png", "odd/0005.png")
    )


def test_a_picture_that_vanishes_while_it_is_measured_is_left_out(tmp_path: Path) -> None:
    setting = finished(tmp_path, scored=())

    seen: set[str] = set()

    class Vanishing(LocalStore):
        """Answers each key once."""

        def read(self, key: str) -> bytes:
            if key in seen:
                raise NotFoundError(f"no object {key}", key=key)
            seen.add(key)
            return super().read(key)

    setting.truth = Vanishing(setting.truth.root)  # as truth and as target
    measures = setting.measures()
    assert measures["sample"]["targets"] == 0
    assert measures["sample"]["left_out"]["targets"] == COUNT + 1


@pytest.mark.parametrize("folder", ["images", "truth"])
def test_a_folder_that_is_away_is_no_reason_to_measure_without_it(tmp_path: Path, folder: str) -> None:
    setting = finished(tmp_path, scored=())
    (tmp_path / folder).rename(tmp_path / "elsewhere")
    (tmp_path / folder).mkdir()  # as a mount point without its disk
    if folder == "images":
        with pytest.raises(StoreBusyError, match=r"images seem to be away .it is empty.*evaluate.measure to false"):
            setting.measures()
    else:
        assert setting.measures()["sample"]["truths"] == 0  # nobody has seen that there was more


def test_a_folder_that_may_not_be_entered_does_not_make_all_seem_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = finished(tmp_path, scored=())
    (tmp_path / "images" / "locked").mkdir()
    (tmp_path / "images" / "even" / "0000.png").unlink()
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if os.path.basename(os.path.normpath(path)) == "locked":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert setting.measures()["sample"]["left_out"]["sources"] == 1


def test_odd_names_among_the_targets_do_no_harm(tmp_path: Path) -> None:
    setting = finished(tmp_path, scored=())
    whole = setting.measures()["sample"]
    truth, odd = tmp_path / "truth", encode(ledger.picture(1), "png")
    (truth / "._0001.png").write_bytes(b"what macOS leaves behind")
    (truth / ".hidden").mkdir()
    (truth / ".hidden" / "a.png").write_bytes(odd)
    (truth / "no-suffix").write_bytes(b"no picture")
    assert setting.measures()["sample"] == whole
    with open(os.fsencode(truth) + b"/\xff.png", "wb") as file:
        file.write(odd)
    (truth / "nul\\xff.png").write_bytes(odd)
    assert setting.measures()["sample"]["targets"] == whole["targets"] + 2


def test_a_truth_folder_without_a_truth_is_said(setting: Setting, tmp_path: Path) -> None:
    (tmp_path / "other.png").write_bytes(encode(ledger.picture(1), "png"))
    measures = evaluate(
        setting.store,
        setting.run,
        setting.sources,
        None,
        open_store(str(tmp_path)),
        BlurringBackbone(),
        Averages(),
    )
    assert row(measures, "translation")["psnr"]["reason"] == "no picture has a truth of its own name that can be read"
    assert measures["sample"]["ambiguous_truths"] == 0
