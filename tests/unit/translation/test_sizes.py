"""A shard of pictures of many sizes: batches of one size each, and the same pixels however the work is cut."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lsb.audit import verify
from lsb.bridge.settings import BridgeSettings
from lsb.ledger.layout import hints_folder
from lsb.ledger.plan import read_plan
from lsb.ledger.publish import manifest_table, publish
from lsb.ledger.run import Run
from lsb.models.prompt import Prompt
from lsb.models.stable_diffusion import StableDiffusion
from lsb.pictures.encoding import encode
from lsb.pictures.geometry import Geometry, Size, frame_of
from lsb.pictures.images import decode
from lsb.records import sha256
from lsb.store.local import LocalStore
from lsb.store.store import Store
from lsb.translation.engine import Engine
from lsb.translation.shard import run_shard
from lsb.translation.translator import Translator
from lsb.views.page_contents import padded_share
from tests.ledger import Inverter, equipment, picture, start, translate_all

SETTINGS = BridgeSettings(tau=0.6, guidance=3.0, nfe=3)
SIZES: list[Size] = [(40, 30), (32, 32), (30, 40), (400, 300), (32, 32), (7, 90), (64, 48), (1, 1), (33, 32), (90, 7)]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of ten sizes, their names in no order of theirs."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, size in enumerate(SIZES):
        (folder / f"{7 * number % 10}.png").write_bytes(encode(picture(number, size), "png"))
    return folder


@dataclass
class Recorder(Inverter):
    """Remembers each batch as sizes of what was in it."""

    batches: list[list[Size]] = field(default_factory=list)

    def translate(self, images: Sequence[Image.Image], *rest: Any, **options: Any) -> list[Image.Image]:
        self.batches.append([image.size for image in images])
        return super().translate(images, *rest, **options)


def rows_of(store: Store, run: Run) -> dict[str, dict[str, Any]]:
    return {row["source_key"]: row for row in manifest_table(store, run, partial=True).to_pylist()}


def test_a_batch_holds_one_size_and_its_rows_say_which(store: LocalStore, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(11):
        size = [(12, 8), (8, 12), (12, 8), (9, 9)][number % 4]
        (folder / f"{number:02d}.png").write_bytes(encode(picture(number, size), "png"))
    run, sources = start(store, folder, shard_size=20)
    recorder = Recorder(batch=2)
    outcome = run_shard(store, run, "00000", equipment(sources, recorder))
    assert (outcome.finished, outcome.counts) == (True, {"ok": 11})
    assert all(len(set(batch)) == 1 for batch in recorder.batches)
    assert sorted((len(batch), batch[0]) for batch in recorder.batches) == [
        (1, (8, 12)),
        (2, (8, 12)),
        (2, (9, 9)),
        (2, (12, 8)),
        (2, (12, 8)),
        (2, (12, 8)),
    ]
    rows = rows_of(store, run)
    assert {(row["working_width"], row["working_height"]) for row in rows.values()} == {(12, 8), (8, 12), (9, 9)}
    assert all(
        (row["output_width"], row["output_height"]) == (row["source_width"], row["source_height"])
        for row in rows.values()
    )
    assert sorted((row["batch"], row["batch_padding"]) for row in rows.values()) == [(2, 0)] * 10 + [(2, 1)]
    assert padded_share(manifest_table(store, run)) == pytest.approx(1 / 12)
    assert {(row["output_scale"], row["output_limited"]) for row in rows.values()} == {(1.0, False)}


def test_no_batch_crosses_a_shard(store: LocalStore, folder: Path) -> None:
    run, sources = start(store, folder, shard_size=5)
    for shard in run.shards():
        recorder = Recorder(batch=8)
        assert run_shard(store, run, shard, equipment(sources, recorder)).finished
        assert sum(map(len, recorder.batches)) == 5


@pytest.fixture(scope="module")
def engine(tiny_backbone: StableDiffusion) -> Engine:
    return Engine(tiny_backbone, Prompt("a flat icon"), Prompt("a 3d icon"), SETTINGS, "0", 3)


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry(),
        Geometry(fit="letterbox"),
        pytest.param(Geometry(max_scale=2), marks=pytest.mark.long),
        pytest.param(Geometry(output="model"), marks=pytest.mark.long),
    ],
)
def test_neither_order_nor_shard_nor_company_nor_a_mixture_of_sizes_changes_a_pixel(
    tmp_path: Path, folder: Path, engine: Engine, geometry: Geometry
) -> None:
    frame = partial(frame_of, geometry=geometry, canvas=engine.backbone.canvas)
    alone = Translator(engine.backbone, engine.source, engine.target, SETTINGS, "0", 3, geometry)
    expected = {}
    for path in folder.iterdir():
        data = path.read_bytes()
        expected[path.name] = alone.translate(decode(data)[0], sha256(data)).tobytes()
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for path in folder.iterdir():  # another order of record ids, and some company missing
        if path.name != "3.png":
            (renamed / f"x{path.name}").write_bytes(path.read_bytes())
    for number, (images, shard_size) in enumerate(((folder, 20), (folder, 3), (renamed, 4), (renamed, 20))):
        store = LocalStore(tmp_path / f"store-{number}")
        run, sources = start(store, images, shard_size=shard_size)
        translate_all(store, run, sources, translator=engine, frame=frame)
        for key, row in rows_of(store, run).items():
            made = decode(store.read(row["output_key"]))[0]
            assert made.size == (row["output_width"], row["output_height"])
            assert made.tobytes() == expected[key.removeprefix("x")], key
        publish(store, run, {}, b"page")
        assert verify(store, run.id).exit_code == 0


def test_what_others_commit_while_it_waits_is_not_made_again(store: LocalStore, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(6):
        size = (12, 8) if number else (9, 9)
        (folder / f"{number}.png").write_bytes(encode(picture(number, size), "png"))
    run, sources = start(store, folder, shard_size=20)
    order: list[Size] = []

    class Slow(Recorder):
        """The first time somebody else does the whole shard meanwhile."""

        def translate(self, images: Sequence[Image.Image], *rest: Any, **options: Any) -> list[Image.Image]:
            if not self.batches:
                assert run_shard(store, run, "00000", equipment(sources, Recorder(batch=2))).finished
            order.append(images[0].size)
            return super().translate(images, *rest, **options)

    # Commits after each batch, while the model has the next one, and so learns of the other's rows.
    outcome = run_shard(store, run, "00000", equipment(sources, Slow(batch=2)), commit_seconds=1e-9)
    assert (outcome.finished, outcome.counts, outcome.commits) == (True, {"ok": 6}, 0)
    assert len(order) == 2
    publish(store, run, {}, b"page")
    assert verify(store, run.id).exit_code == 0


def test_a_stop_while_pictures_wait_loses_none(store: LocalStore, folder: Path) -> None:
    run, sources = start(store, folder, shard_size=20)
    stops = iter([False, True])
    first = run_shard(store, run, "00000", equipment(sources, Recorder(batch=4)), stop=lambda: next(stops, True))
    assert not first.finished
    assert run_shard(store, run, "00000", equipment(sources, Recorder(batch=4))).counts == {"ok": 10}


def test_the_hint_names_what_is_under_way(store: LocalStore, folder: Path) -> None:
    """The batch that the model has, and at most that before or after it.

    Not what waits: should this process die now, that is not what it died of.
    """
    run, sources = start(store, folder, shard_size=20)
    by_digest = {row["sha256"]: row["record_id"] for row in read_plan(store, run).to_pylist()}
    seen: list[tuple[set[str], set[str]]] = []

    class Looking(Recorder):
        def translate(self, images: Sequence[Image.Image], digests: Any = (), **options: Any) -> list[Image.Image]:
            (hint,) = store.list(hints_folder(run.id, "00000"))
            named = set(json.loads(store.read(hint.key))["records"])
            seen.append(({by_digest[digest] for digest in digests}, named))
            return super().translate(images, digests, **options)

    run_shard(store, run, "00000", equipment(sources, Looking(batch=2)))
    assert sum(len(batch) for batch, _ in seen) == 10
    assert all(batch <= named and len(named) <= 4 for batch, named in seen)


@pytest.mark.parametrize(("image_format", "size"), [("webp", (16_384, 1)), ("jpeg", (1, 65_501))])
def test_an_output_that_its_format_cannot_hold_fails_and_says_what_helps(
    store: LocalStore, tmp_path: Path, image_format: str, size: Size
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("long.png", "copy.png"):
        (folder / name).write_bytes(encode(Image.new("RGB", size, "red"), "png"))
    (folder / "short.png").write_bytes(encode(picture(1), "png"))
    run, sources = start(store, folder, shard_size=9, image_format=image_format)
    assert run_shard(store, run, "00000", equipment(sources)).counts == {"ok": 1, "failed": 2}
    row = rows_of(store, run)["long.png"]
    assert (row["error_code"], row["retryable"]) == ("output_too_large", False)
    assert f"{max(size)} pixels on a side, {image_format} has at most" in row["error_detail"]


def test_outputs_that_stay_smaller_say_so(store: LocalStore, folder: Path, engine: Engine) -> None:
    run, sources = start(store, folder, shard_size=20)
    frame = partial(frame_of, geometry=Geometry(max_scale=2), canvas=engine.backbone.canvas)
    translate_all(store, run, sources, translator=engine, frame=frame)
    rows = rows_of(store, run)
    limited = {(row["source_width"], row["source_height"]) for row in rows.values() if row["output_limited"]}
    assert limited == {(400, 300)}
    (large,) = (row for row in rows.values() if row["output_limited"])
    assert (large["output_width"], large["output_height"], large["output_scale"]) == (80, 60, 2.0)
    assert (large["working_width"], large["working_height"]) == (40, 32)


def test_nothing_flat_is_put_around_a_picture(store: LocalStore, tmp_path: Path, engine: Engine) -> None:
    """What the network is given of a dark picture is dark to the edge."""
    folder = tmp_path / "images"
    folder.mkdir()
    dark = Image.fromarray(np.random.default_rng(0).integers(0, 60, (41, 97, 3), dtype=np.uint8))
    (folder / "dark.png").write_bytes(encode(dark, "png"))
    run, sources = start(store, folder)
    brightest: list[int] = []

    class Looking(Inverter):
        def translate(self, images: Sequence[Image.Image], *rest: Any, **options: Any) -> list[Image.Image]:
            brightest.extend(max(high for _, high in image.getextrema()) for image in images)
            return super().translate(images, *rest, **options)

    frame = partial(frame_of, geometry=Geometry(), canvas=engine.backbone.canvas)
    run_shard(store, run, "00000", equipment(sources, Looking(), frame=frame))
    assert brightest
    assert max(brightest) < 80
