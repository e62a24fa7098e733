"""Pictures in tiles: one state, one noise field, answers blended; and the same pixels whatever the company."""

from __future__ import annotations

import json
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lsb.audit import verify
from lsb.audit.replay import Bench, replay
from lsb.bridge.method import Method
from lsb.bridge.methods import METHODS
from lsb.bridge.noise import unit_noise
from lsb.bridge.settings import BridgeSettings
from lsb.errors import ModelHungError, UnfinishedError
from lsb.ledger.publish import manifest_table, publish
from lsb.ledger.run import Run
from lsb.models.prompt import Prompt
from lsb.models.stable_diffusion import StableDiffusion
from lsb.models.tiled import Tiled
from lsb.pictures.encoding import encode
from lsb.pictures.geometry import Canvas, Geometry, frame_of
from lsb.pictures.images import decode, to_tensor
from lsb.pictures.tiles import Tiles, tiles_of
from lsb.records import sha256
from lsb.store.local import LocalStore
from lsb.translation.engine import Engine
from lsb.translation.model import Model, Task
from lsb.translation.model_process import ModelProcess
from lsb.translation.shard import run_shard
from lsb.translation.translator import Translator
from lsb.views.page_contents import padded_share
from tests.ledger import EXECUTION, equipment, start, translate_all

SETTINGS = BridgeSettings(tau=0.6, guidance=3.0, nfe=2)
TILE = Geometry(large="tile")
DIGEST = "ab" * 32


def smooth(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    waves = [128 + 90 * np.sin(x / 60), 128 + 90 * np.cos(y / 50), 128 + 60 * np.sin((x + y) / 70)]
    return Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8))


@pytest.fixture(scope="module")
def engine(tiny_backbone: StableDiffusion) -> Engine:
    return Engine(tiny_backbone, Prompt("a flat icon"), Prompt("a 3d icon"), SETTINGS, "7", 3)


@pytest.mark.parametrize("preset", ["default", "published"])
def test_a_single_tile_is_the_whole_to_the_bit(tiny_backbone: StableDiffusion, preset: Any) -> None:
    settings = BridgeSettings(preset=preset, nfe=3) if preset == "published" else SETTINGS
    engine = Engine(tiny_backbone, Prompt("a flat icon"), Prompt("a 3d icon"), settings, "7", 3)
    image = smooth(40, 24)
    (whole,) = engine.translate([image], [DIGEST])
    (tiled,) = engine.translate([image], [DIGEST], tiles=Tiles(image.size, image.size, 8))
    assert tiled.tobytes() == whole.tobytes()


class Linear:
    """Answers with what it is shown, so that blending is seen to change nothing; counts rows and keeps states."""

    canvas, sigma_max, device, dtype = Canvas(32, 8), 100.0, "cpu", "float32"

    def __init__(self) -> None:
        self.asked: list[Tensor] = []

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        return 3, height // 4, width // 4

    def encode(self, images: Tensor, eps: Tensor | None = None) -> Tensor:
        return torch.nn.functional.avg_pool2d(images, 4) + (0 if eps is None else eps)

    def decode(self, latents: Tensor) -> Tensor:
        return torch.nn.functional.interpolate(latents, scale_factor=4).clamp(-1, 1)

    def embed(self, prompt: Prompt, vectors: Tensor | None = None) -> Tensor:
        return torch.zeros(1, 1, 1)

    def predict(self, x_t: Tensor, sigma: float, condition: Tensor) -> Tensor:
        self.asked.append(x_t.clone())
        return 0.1 * x_t


PATH = BridgeSettings(tau=0.5, guidance=2.0, nfe=2)


def linear_engine(batch: int = 4, settings: Method = PATH) -> tuple[Engine, Linear]:
    backbone = Linear()
    prompt: Any = Prompt("x")
    return Engine(backbone, prompt, prompt, settings, "7", batch), backbone  # type: ignore[arg-type]


def test_a_tile_reads_its_place_of_one_noise_field() -> None:
    engine, backbone = linear_engine()
    image = smooth(96, 64)
    tiles = tiles_of(image.size, 32, 8)
    engine.translate([image], [DIGEST], tiles=tiles)
    latent = torch.nn.functional.avg_pool2d(to_tensor([image]), 4)
    noise = unit_noise((3, 16, 24), seed="7", digest=DIGEST, purpose="start")
    entered = torch.cat(backbone.asked)[: tiles.count]
    settings = PATH
    scale = 1.0 if settings.start == "centred" else 1.0 - settings.t0
    level = settings.tau * (settings.t0 * (1 - settings.t0)) ** 0.5
    for (rows, columns), seen in zip(tiles.places(4), entered, strict=True):
        expected = scale * latent[0, :, rows, columns] + level * noise[:, rows, columns]
        torch.testing.assert_close(seen, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", METHODS)
def test_forwards_are_counted_by_the_tile_and_batches_have_one_shape(name: str) -> None:
    engine, backbone = linear_engine(4, METHODS[name].model_validate({"nfe": 2}))
    tiles = tiles_of((96, 64), 32, 8)
    beats: list[None] = []
    engine.translate([smooth(96, 64)], [DIGEST], tiles=tiles, alive=lambda: beats.append(None))
    batches = -(-tiles.count // 4)
    assert {tuple(asked.shape) for asked in backbone.asked} == {(4, 3, 8, 8)}
    assert len(backbone.asked) == engine.settings.forwards * batches
    assert len(beats) == len(backbone.asked) + 2 * batches  # encoding and decoding too


def test_blending_alone_changes_nothing() -> None:
    """Of a model that works point by point, tiles are the whole."""
    image = smooth(104, 72)
    (whole,) = linear_engine(1)[0].translate([image], [DIGEST])
    (tiled,) = linear_engine(4)[0].translate([image], [DIGEST], tiles=tiles_of(image.size, 32, 8))
    assert np.abs(np.asarray(whole).astype(int) - np.asarray(tiled)).max() <= 1


def test_no_seams(tiny_backbone: StableDiffusion) -> None:
    """The steps of a smooth picture's translation are no larger where tiles begin, end or are evenly blended than
    elsewhere."""
    quiet = Engine(tiny_backbone, Prompt("a flat icon"), Prompt("a 3d icon"), BridgeSettings(tau=0.05, nfe=2), "7", 3)
    image = smooth(192, 96)
    tiles = tiles_of(image.size, 32, 8)
    made = np.asarray(quiet.translate([image], [DIGEST], tiles=tiles)[0]).astype(float)
    starts = sorted({columns.start for _, columns in tiles.places()})
    ends = [start + tiles.tile[0] for start in starts]
    middles = {(end + start) // 2 for end, start in zip(ends, starts[1:], strict=False)}
    # Blocks of the autoencoder's 4 pixels have steps of their own: compared are steps between blocks.
    steps = {column: float(np.abs(made[:, column] - made[:, column - 1]).mean()) for column in range(4, 192, 4)}

    def mean(columns: Iterable[int]) -> float:
        return float(np.mean([steps[column] for column in columns]))

    assert mean({*starts, *ends} - {0, 192}) <= 1.05 * mean(range(8, 192, 8))  # tiles lie at multiples of the stride
    assert mean(middles) <= 1.05 * mean(steps)


def test_what_is_held_does_not_grow_with_the_picture() -> None:
    """Beside picture and latents: the tiles of one batch, and one row of tiles."""

    class Watching(Linear):
        """Counts the decoded and the encoded batches that somebody still holds."""

        def __init__(self) -> None:
            super().__init__()
            self.made: list[weakref.ref[Tensor]] = []
            self.most = 0

        def _kept(self, made: Tensor) -> Tensor:
            self.made.append(weakref.ref(made))
            self.most = max(self.most, sum(one() is not None for one in self.made))
            return made

        def encode(self, images: Tensor, eps: Tensor | None = None) -> Tensor:
            assert len(images) == 4
            return self._kept(super().encode(images, eps))

        def decode(self, latents: Tensor) -> Tensor:
            assert len(latents) == 4
            return self._kept(super().decode(latents))

    held = []
    for height in (256, 2048):
        backbone: Any = Watching()
        tiled = Tiled(backbone, tiles_of((64, height), 32, 8), 4)
        tiled.encode(smooth(64, height))
        rows = [band.shape[2] for band in tiled.decode(torch.zeros(1, *tiled.shape))]
        assert sum(rows) == height
        held.append((backbone.most, max(rows)))
    assert held[0] == held[1]
    assert held[0][0] <= 2
    assert held[0][1] <= 32


def test_other_company_and_shards_change_no_pixel(tmp_path: Path, engine: Engine) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    sizes = [(32, 32), (70, 60), (40, 30), (70, 60), (100, 34), (30, 40), (64, 32)]
    for number, size in enumerate(sizes):
        noise = np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        (folder / f"{number}.png").write_bytes(encode(Image.fromarray(noise), "png"))
    frame = partial(frame_of, geometry=TILE, canvas=engine.backbone.canvas)
    alone = Translator(engine.backbone, engine.source, engine.target, SETTINGS, "7", 3, TILE)
    expected = {
        path.name: alone.translate(decode(path.read_bytes())[0], sha256(path.read_bytes())).tobytes()
        for path in folder.iterdir()
    }
    for shard_size in (20, 2):
        store = LocalStore(tmp_path / f"store-{shard_size}")
        run, sources = start(store, folder, shard_size=shard_size, geometry=TILE)
        translate_all(store, run, sources, translator=engine, frame=frame)
        rows = {row["source_key"]: row for row in manifest_table(store, run).to_pylist()}
        counts = {}
        for key, row in rows.items():
            made = decode(store.read(row["output_key"]))[0]
            assert made.size == (row["source_width"], row["source_height"])
            assert made.tobytes() == expected[key], key
            counts[key] = row["tiles"]
            if row["tiles"]:
                assert (row["batch"], row["batch_padding"]) == (3, -row["tiles"] % 3)
        tiled = {f"{number}.png" for number, size in enumerate(sizes) if size[0] * size[1] > 2 * 32**2}
        assert {key for key, count in counts.items() if count} == tiled
        share = padded_share(manifest_table(store, run))
        assert share is not None
        assert 0 <= share < 1
        publish(store, run, {}, b"page")
        assert verify(store, run.id).exit_code == 0
        replayed = replay(store, run, sources, lambda row: Bench(engine, frame, {**EXECUTION, "batch": 3}), 99)
        assert len(replayed) == len(sizes)
        assert all(result.finding is None and result.differing == () for result in replayed)


@dataclass
class ByTile:
    """Takes a picture in tiles one by one, and calls `between` after each."""

    between: Callable[[], None]
    batch: int = 2

    def translate(
        self, images: Sequence[Image.Image], digests: Any, *, tiles: Tiles | None = None, alive: Any = None, **more: Any
    ) -> list[Image.Image]:
        for _ in range(tiles.count if tiles else 0):
            self.between()
            alive()
        return list(images)


def shard_of(tmp_path: Path, sizes: Sequence[tuple[int, int]]) -> tuple[LocalStore, Run, Any, Any]:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, size in enumerate(sizes):
        smooth(*size).save(folder / f"{number}.png")
    store = LocalStore(tmp_path / "store")
    run, sources = start(store, folder, geometry=TILE)
    return store, run, sources, partial(frame_of, geometry=TILE, canvas=Canvas(32, 8))


def test_a_picture_in_tiles_is_left_when_a_run_is_stopped(tmp_path: Path) -> None:
    """What was done before is committed, and the picture is not suspected of anything."""
    store, run, sources, frame = shard_of(tmp_path, [(96, 96), (96, 97), (97, 96)])
    most = frame((97, 96)).tiles.count
    asked: list[bool] = []
    stopping = ByTile(lambda: asked.append(True))
    shard = partial(run_shard, store, run, "00000")
    outcome = shard(equipment(sources, stopping, frame=frame), stop=lambda: len(asked) >= most + 2)
    assert (outcome.finished, outcome.counts) == (False, {"ok": 1})
    assert len(asked) == most + 2
    (hint,) = (tmp_path / "store").rglob("hints/*.json")
    assert json.loads(hint.read_text())["records"] == []
    outcome = shard(equipment(sources, ByTile(lambda: None), frame=frame))
    assert (outcome.finished, outcome.counts) == (True, {"ok": 3})


def test_the_hint_of_a_picture_in_tiles_stays_young(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsb.translation.shard.BEAT_SECONDS", 0.0)
    store, run, sources, frame = shard_of(tmp_path, [(96, 96)])
    ages: list[float] = []

    def between() -> None:
        (hint,) = (tmp_path / "store").rglob("hints/*.json")
        ages.append(hint.stat().st_mtime)
        assert len(json.loads(hint.read_text())["records"]) == 1
        os.utime(hint, (1, 1))

    assert run_shard(store, run, "00000", equipment(sources, ByTile(between), frame=frame)).finished
    assert len(ages) > 2
    assert min(ages) > 1


class Slow:
    """Takes 0.4 s a batch of tiles, or hangs in one."""

    batch = 4

    def translate(
        self, images: Sequence[Image.Image], digests: Any, *, tiles: Tiles, alive: Callable[[], None], **more: Any
    ) -> list[Image.Image]:
        for number in range(6):
            time.sleep(60 if digests[0] == "hang" and number == 2 else 0.4)
            alive()
        return list(images)


def build() -> Model:
    return Model(Slow())


@pytest.fixture
def process() -> Iterator[ModelProcess]:
    with ModelProcess(partial(build), batch=4, limit=600) as process:
        image = smooth(8, 8)
        process.make([_task(image, "warm")])
        process.limit = 1.5
        yield process


def _task(image: Image.Image, digest: str) -> Task:
    frame = frame_of((96, 96), TILE, Canvas(32, 8))
    return Task(image, digest, frame, image)


@pytest.mark.long  # its parts: the hint above, and test_model_process.py
def test_the_limit_holds_for_a_batch_of_tiles_not_for_the_picture(process: ModelProcess) -> None:
    image = smooth(8, 8)
    started = time.monotonic()
    assert process.make([_task(image, "long")])[0].image.size == (8, 8)
    assert time.monotonic() - started > process.limit
    with pytest.raises(ModelHungError):
        process.make([_task(image, "hang")])

    def leave() -> None:
        raise UnfinishedError("enough")

    with pytest.raises(UnfinishedError, match="enough"):
        process.make([_task(image, "long")], alive=leave)
    assert process.make([_task(image, "short")])[0].image.size == (8, 8)  # another process, and no old answer
