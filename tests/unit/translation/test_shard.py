from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from lsb.errors import DecodingError, StoreBusyError, TamperedError, UsageError
from lsb.ledger.layout import hints_folder
from lsb.ledger.manifest import collect_features
from lsb.ledger.plan import read_plan
from lsb.ledger.publish import manifest_table
from lsb.ledger.run import Run, open_log, pending
from lsb.metrics.scores import Scores
from lsb.metrics.truths import OptionalTruths
from lsb.pictures.decoder import Decoder
from lsb.pictures.encoding import encode
from lsb.pictures.images import RULES, ImageInfo, decode, pixels_sha256
from lsb.records import sha256
from lsb.store.local import LocalStore
from lsb.store.store import Data, Store
from lsb.translation.shard import run_shard
from tests.bombs import scan_bomb
from tests.ledger import EXECUTION, Inverter, equipment, make_images, marked, marks, picture, start, translate_all


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_images(tmp_path / "images", 7)


def manifest(store: Store, run: Run) -> dict[str, dict]:
    return {row["source_key"]: row for row in manifest_table(store, run, partial=True).to_pylist()}


@dataclass
class Steps:
    """A progress that remembers."""

    total: int = 0
    done: int = 0
    finished: bool = False

    def start(self, name: str, total: int) -> None:
        assert name == "shard 00000"
        self.total = total

    def advance(self, name: str, n: int = 1, **figures: float) -> None:
        self.done += n

    def finish(self, name: str) -> None:
        self.finished = True


def test_a_row_says_everything_of_an_image(store: LocalStore, folder: Path) -> None:
    run, sources = start(store, folder, shard_size=10)
    steps = Steps()
    outcome = run_shard(store, run, "00000", equipment(sources), progress=steps)
    assert (outcome.finished, outcome.counts, outcome.translated, outcome.commits) == (True, {"ok": 7}, 7, 1)
    assert steps == Steps(total=7, done=7, finished=True)

    row = manifest(store, run)["even/0000.png"]
    source = (folder / "even" / "0000.png").read_bytes()
    expected = ImageOps.invert(picture(0))
    output = store.read(row["output_key"])
    assert row["output_key"].startswith(f"runs/{run.id}/shards/00000/{row['attempt']}/{row['record_id']}.png")
    assert decode(output)[0].tobytes() == expected.tobytes()
    assert row["output_sha256"] == sha256(output)
    assert row["pixels_sha256"] == pixels_sha256(expected)
    assert (row["output_bytes"], row["output_format"]) == (len(output), "png")
    assert (row["output_width"], row["output_height"]) == (12, 8)
    assert (row["source_sha256"], row["source_bytes"], row["source_mode"]) == (sha256(source), len(source), "RGB")
    assert (row["transform_id"], row["model_digest"]) == (run.transform_id, run.model["digest"])
    assert (row["source_prompt"], row["target_prompt"]) == tuple(run.transform["prompts"].values())
    assert (row["seed"], row["method"], row["nfe"], row["tau"], row["guidance"]) == ("0", "lsb", 8, 2.3, 11.0)
    assert {name: row[name] for name in EXECUTION} == EXECUTION
    assert (row["status"], row["retryable"], row["tries"], row["shard"]) == ("ok", False, 1, "00000")
    assert dict(row["scores"])["output_contrast"] == pytest.approx(np.asarray(expected).std() / 255, abs=1e-5)
    assert row["started"] <= row["finished"]


def test_the_row_of_a_picture_that_was_read_smaller_says_so(store: Store, tmp_path: Path) -> None:
    Image.new("L", (12_000, 9_000), 90).save(make_images(tmp_path / "images", 1) / "large.jpg")
    run, sources = start(store, tmp_path / "images", image_format="jpeg")
    run_shard(store, run, "00000", equipment(sources))
    rows = manifest(store, run)
    row = rows["large.jpg"]
    assert (row["status"], row["source_width"], row["source_height"]) == ("ok", 12_000, 9_000)
    assert (row["output_width"], row["output_height"]) == (6_000, 4_500)
    assert dict(row["scores"])["source_reduction"] == 2
    assert dict(rows["even/0000.png"]["scores"]).keys() == {"output_contrast"}


def test_nothing_is_done_twice(store: LocalStore, folder: Path) -> None:
    run, sources = start(store, folder, shard_size=10)
    run_shard(store, run, "00000", equipment(sources))
    before = {entry.key: entry.etag for entry in store.list()}
    outcome = run_shard(store, run, "00000", equipment(sources))
    assert (outcome.finished, outcome.translated, outcome.commits) == (True, 0, 0)
    assert {entry.key: entry.etag for entry in store.list()} == before


def test_a_stop_commits_what_is_made_and_the_next_call_does_the_rest(store: LocalStore, folder: Path) -> None:
    run, sources = start(store, folder, shard_size=10)
    first = run_shard(store, run, "00000", equipment(sources, Inverter(batch=3)), stop=lambda: True)
    assert (first.finished, first.counts, first.translated, first.commits) == (False, {"ok": 3}, 3, 1)
    second = run_shard(store, run, "00000", equipment(sources, Inverter(batch=3)))
    assert (second.finished, second.counts, second.translated, second.commits) == (True, {"ok": 7}, 4, 1)
    attempts = [entry.attempt for entry in open_log(store, run, "00000").entries()]
    assert len(set(attempts)) == 2


def test_commits_come_in_parts_that_do_not_overwrite_each_other(store: LocalStore, folder: Path) -> None:
    run, sources = start(store, folder, shard_size=10)
    outcome = run_shard(store, run, "00000", equipment(sources, Inverter(batch=2)), commit_seconds=1e-9)
    assert outcome.commits == 4
    entries = open_log(store, run, "00000").entries()
    assert [sum(entry.counts.values()) for entry in entries] == [2, 2, 2, 1]
    assert len({entry.rows_key for entry in entries}) == 4
    assert all(entry.digests().keys() <= {stored.key for stored in store.list()} for entry in entries)


def test_copies_are_translated_once_and_share_the_output(store: LocalStore, folder: Path) -> None:
    for name in ("copy.png", "again.png"):
        (folder / name).write_bytes((folder / "odd" / "0001.png").read_bytes())
    run, sources = start(store, folder, shard_size=3)
    log = folder.parent / "side.log"
    translate_all(store, run, sources, translator=Inverter(side_log=log))
    assert len(log.read_text().split()) == 7
    rows = manifest(store, run)
    group = [rows[key] for key in ("odd/0001.png", "copy.png", "again.png")]
    leader = min(row["record_id"] for row in group)
    assert len({row["output_key"] for row in group}) == 1
    assert f"/{leader}." in group[0]["output_key"]
    assert len(rows) == 9


def test_a_copy_stands_in_for_a_first_one_that_is_gone(store: LocalStore, folder: Path) -> None:
    (folder / "copy.png").write_bytes((folder / "odd" / "0001.png").read_bytes())
    run, sources = start(store, folder, shard_size=10)
    plan = {row["key"]: row for row in read_plan(store, run).to_pylist()}
    leader = "copy.png" if plan["copy.png"]["duplicate_of"] is None else "odd/0001.png"
    other = {"copy.png": "odd/0001.png", "odd/0001.png": "copy.png"}[leader]
    (folder / leader).unlink()
    run_shard(store, run, "00000", equipment(sources))
    rows = manifest(store, run)
    assert (rows[leader]["status"], rows[leader]["error_code"]) == ("failed", "source_missing")
    assert rows[other]["status"] == "ok"


def test_sources_that_changed_or_vanished_fail_and_may_be_tried_again(store: LocalStore, folder: Path) -> None:
    run, sources = start(store, folder, shard_size=10)
    (folder / "odd" / "0001.png").write_bytes(encode(picture(50), "png"))
    (folder / "odd" / "0003.png").unlink()
    (folder / "odd" / "0005.png").unlink()
    (folder / "odd" / "0005.png").mkdir()
    outcome = run_shard(store, run, "00000", equipment(sources))
    assert (outcome.finished, outcome.counts) == (True, {"ok": 4, "failed": 3})
    rows = manifest(store, run)
    codes = {key: rows[key]["error_code"] for key in ("odd/0001.png", "odd/0003.png", "odd/0005.png")}
    assert list(codes.values()) == ["source_changed", "source_missing", "source_unreadable"]
    assert all(rows[key]["retryable"] for key in codes)
    assert all(str(folder) not in rows[key]["error_detail"] for key in codes)
    assert all(key in rows[key]["error_detail"] for key in ("odd/0003.png", "odd/0005.png"))


@pytest.mark.usefixtures("exact_clock")
def test_after_a_listing_the_job_fills_in_what_is_known_of_a_source(store: LocalStore, folder: Path) -> None:
    (folder / "text.png").write_bytes(b"not a picture")
    run, sources = start(store, folder, shard_size=10, read="listing")
    run_shard(store, run, "00000", equipment(sources))
    rows = manifest(store, run)
    data = (folder / "odd" / "0001.png").read_bytes()
    assert (rows["odd/0001.png"]["source_sha256"], rows["odd/0001.png"]["source_width"]) == (sha256(data), 12)
    bad = rows["text.png"]
    assert (bad["status"], bad["error_code"], bad["retryable"]) == ("quarantined", "not_an_image", False)
    assert bad["source_sha256"] == sha256(b"not a picture")


@pytest.mark.usefixtures("exact_clock")
def test_a_picture_that_cannot_be_decoded_here_and_now_fails_and_may_be_tried_again(
    store: LocalStore, folder: Path
) -> None:
    bomb = scan_bomb(800, 4000)  # as letterboxed runs take it
    for name in ("bomb.jpg", "copy.jpg"):
        (folder / name).write_bytes(bomb)
    (folder / "text.png").write_bytes(b"not a picture")
    run, sources = start(store, folder, shard_size=20, read="listing")
    with Decoder(cpu_seconds=0.5) as decoder:
        outcome = run_shard(store, run, "00000", equipment(sources, decoder=decoder))
    assert (outcome.finished, outcome.counts) == (True, {"ok": 7, "failed": 2, "quarantined": 1})
    rows = manifest(store, run)
    for name in ("bomb.jpg", "copy.jpg"):
        row = rows[name]
        assert (row["error_code"], row["retryable"], row["source_sha256"]) == ("decode_timed_out", True, sha256(bomb))
    chosen = {rows[name]["record_id"]: 1 for name in ("bomb.jpg", "copy.jpg")}
    assert run_shard(store, run, "00000", equipment(sources), chosen=chosen).counts == {"ok": 9, "quarantined": 1}


class CountingDecoder(Decoder):
    """Finds every picture too hard, and counts them."""

    calls = 0

    def decode(self, data: bytes, rules: int = RULES) -> tuple[Image.Image, ImageInfo]:
        self.calls += 1
        raise DecodingError("decode_timed_out: x", code="decode_timed_out")


def test_copies_of_what_cannot_be_decoded_are_not_decoded_again(store: LocalStore, folder: Path) -> None:
    for name in ("copy.png", "again.png"):
        (folder / name).write_bytes((folder / "odd" / "0001.png").read_bytes())
    run, sources = start(store, folder, shard_size=20)
    decoder = CountingDecoder()
    assert run_shard(store, run, "00000", equipment(sources, decoder=decoder)).counts == {"failed": 9}
    assert decoder.calls == 7


class Fussy(Inverter):
    """Cannot bear one picture."""

    def translate(self, images: Sequence[Image.Image], digests: Sequence[str] | None = None) -> list[Image.Image]:
        if (1, 2, 3) in marks(images):
            raise RuntimeError("pixel differs, see /home/ann/model.safetensors")
        return super().translate(images, digests)


def test_one_image_that_cannot_be_translated_does_not_take_its_batch_along(store: LocalStore, folder: Path) -> None:
    (folder / "bad.png").write_bytes(encode(marked(60, (1, 2, 3)), "png"))
    run, sources = start(store, folder, shard_size=10)
    outcome = run_shard(store, run, "00000", equipment(sources, Fussy()))
    assert outcome.counts == {"ok": 7, "failed": 1}
    row = manifest(store, run)["bad.png"]
    assert (row["status"], row["error_code"], row["retryable"]) == ("failed", "translate_error", True)
    assert row["error_detail"] == "RuntimeError: pixel differs, see <path>"
    assert (row["source_width"], row["device"]) == (12, EXECUTION["device"])


def test_transient_faults_are_raised_and_leave_what_is_made(store: LocalStore, folder: Path) -> None:
    run, sources = start(store, folder, shard_size=10)
    fifth = read_plan(store, run)["key"].to_pylist()[4]

    class Busy(LocalStore):
        def read(self, key: str) -> bytes:
            if key == fifth:
                raise StoreBusyError("try again")
            return super().read(key)

    with pytest.raises(StoreBusyError):
        run_shard(store, run, "00000", equipment(Busy(folder), Inverter(batch=2)))
    assert [*pending(store, run).values()] == [3]
    (hint,) = store.list(hints_folder(run.id, "00000"))
    assert json.loads(store.read(hint.key))["records"] != []  # of these all have their rows
    assert run_shard(store, run, "00000", equipment(sources)).translated == 3


def test_what_was_named_and_not_begun_when_it_stopped_is_no_suspect(store: LocalStore, folder: Path) -> None:
    run, sources = start(store, folder, shard_size=10)
    first = run_shard(store, run, "00000", equipment(sources, Inverter(batch=2)), stop=lambda: True)
    assert first.translated == 2
    named: list[list[str]] = []

    class Looking(LocalStore):
        def write(self, key: str, data: bytes) -> None:
            if "/hints/" in key:
                named.append(json.loads(data)["records"])
            super().write(key, data)

    assert run_shard(Looking(store.root), run, "00000", equipment(sources, Inverter(batch=5))).finished
    assert [len(records) for records in named] == [0, 5]  # the first asks what time it is


@dataclass
class Judge:
    """Scores by width, cannot score wide pictures, and remembers which truths it saw."""

    truths: list[bool] = field(default_factory=list)

    def score(
        self, sources: Sequence[Image.Image], outputs: Sequence[Image.Image], truths: Sequence[Image.Image | None]
    ) -> list[Scores]:
        if any(source.width > 12 for source in sources):
            raise RuntimeError("too wide")
        self.truths += [truth is not None for truth in truths]
        return [Scores({"width": float(output.width), "odd": np.nan}, np.ones(3, np.float32)) for output in outputs]


def test_scores_features_and_truths(store: LocalStore, folder: Path, tmp_path: Path) -> None:
    (folder / "wide.png").write_bytes(encode(picture(60, (13, 13)), "png"))
    truth = tmp_path / "truth"
    (truth / "odd").mkdir(parents=True)
    (truth / "odd" / "0001.webp").write_bytes(encode(picture(1), "webp"))
    (truth / "odd" / "0003.png").write_bytes(b"broken")
    run, sources = start(store, folder, shard_size=10)
    judge = Judge()
    here = equipment(sources, scorer=judge, truths=OptionalTruths(LocalStore(truth)), feature_sample=5)
    run_shard(store, run, "00000", here)
    rows = manifest(store, run)
    assert dict(rows["odd/0001.png"]["scores"]).keys() == {"output_contrast", "width"}
    assert dict(rows["wide.png"]["scores"]).keys() == {"output_contrast"}
    assert sorted(judge.truths) == [False] * 6 + [True]
    features = collect_features(store, run)
    smallest = sorted(row["record_id"] for row in rows.values())[:5]
    unscored = rows["wide.png"]["record_id"]
    assert features["record_id"].to_pylist() == [record for record in smallest if record != unscored]
    assert features["features"][0].as_py() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("image_format", "suffix"), [("webp", ".webp"), ("jpeg", ".jpg")])
def test_other_formats_name_the_pixels_that_come_out_of_the_file(
    store: LocalStore, folder: Path, image_format: str, suffix: str
) -> None:
    run, sources = start(store, folder, shard_size=10, image_format=image_format)
    run_shard(store, run, "00000", equipment(sources))
    for row in manifest(store, run).values():
        assert row["output_key"].endswith(suffix)
        assert row["pixels_sha256"] == pixels_sha256(decode(store.read(row["output_key"]))[0])


def test_how_the_work_is_cut_changes_no_pixel(store: LocalStore, folder: Path) -> None:
    found = []
    for shard_size, batch in ((10, 4), (2, 3), (3, 1)):
        run, sources = start(store, folder, shard_size=shard_size)
        translate_all(store, run, sources, translator=Inverter(batch=batch))
        found.append({key: row["pixels_sha256"] for key, row in manifest(store, run).items()})
    assert found[0] == found[1] == found[2]


def test_chosen_records_are_tried_once_more_and_others_left_alone(store: LocalStore, folder: Path) -> None:
    run, sources = start(store, folder, shard_size=10)
    gone = {name: (folder / "odd" / name).read_bytes() for name in ("0001.png", "0003.png")}
    for name in gone:
        (folder / "odd" / name).unlink()
    run_shard(store, run, "00000", equipment(sources))
    before = manifest(store, run)
    assert (before["odd/0001.png"]["status"], before["odd/0001.png"]["tries"]) == ("failed", 1)

    chosen = {before[key]["record_id"]: 1 for key in ("odd/0001.png", "even/0000.png")}
    again = run_shard(store, run, "00000", equipment(sources), chosen=chosen)
    assert (again.translated, again.commits, again.counts) == (0, 1, {"ok": 5, "failed": 2})
    for name, data in gone.items():
        (folder / "odd" / name).write_bytes(data)
    # The same choice once more finds that the try it asked for has been made.
    assert run_shard(store, run, "00000", equipment(sources), chosen=chosen).commits == 0
    steps = Steps()
    chosen = dict.fromkeys(chosen, 2)
    assert run_shard(store, run, "00000", equipment(sources), chosen=chosen, progress=steps).translated == 1
    assert (steps.total, steps.done) == (1, 1)

    after = manifest(store, run)
    assert (after["odd/0001.png"]["status"], after["odd/0001.png"]["tries"]) == ("ok", 3)
    assert {key for key in after if after[key] != before[key]} == {"odd/0001.png"}


def test_two_who_try_a_failed_record_again_commit_one_row(store: LocalStore, folder: Path) -> None:
    run, sources = start(store, folder, shard_size=10)
    missing = folder / "odd" / "0001.png"
    data = missing.read_bytes()
    missing.unlink()
    run_shard(store, run, "00000", equipment(sources))
    missing.write_bytes(data)
    chosen = {manifest(store, run)["odd/0001.png"]["record_id"]: 1}

    class Late(LocalStore):
        late = True

        def create(self, key: str, data: Data) -> None:
            if self.late and "/log/" in key:
                self.late = False
                assert run_shard(store, run, "00000", equipment(sources), chosen=chosen).commits == 1
            super().create(key, data)

    loser = run_shard(Late(store.root), run, "00000", equipment(sources), chosen=chosen)
    assert (loser.translated, loser.commits, loser.counts) == (1, 0, {"ok": 7})
    assert manifest(store, run)["odd/0001.png"]["tries"] == 2


def test_a_shard_that_does_not_exist(store: LocalStore, folder: Path) -> None:
    run, sources = start(store, folder)
    with pytest.raises(UsageError, match="has no shard '00009'; it has 2"):
        run_shard(store, run, "00009", equipment(sources))


def test_nobody_writes_to_a_log_that_was_tampered_with(store: LocalStore, folder: Path) -> None:
    run, sources = start(store, folder, shard_size=10)
    run_shard(store, run, "00000", equipment(sources, Inverter(batch=2)), commit_seconds=1e-9, stop=lambda: True)
    run_shard(store, run, "00000", equipment(sources, Inverter(batch=2)), commit_seconds=1e-9, stop=lambda: True)
    store.delete(f"runs/{run.id}/shards/00000/log/00000000.json")
    before = [entry.key for entry in store.list()]
    with pytest.raises(TamperedError, match=r"00000000\.json is missing"):
        run_shard(store, run, "00000", equipment(sources))
    assert [entry.key for entry in store.list()] == before
