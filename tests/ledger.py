"""What tests of the ledger share: a small folder of images, a cheap deterministic translator, and a run over both."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from lsb.bridge.settings import BridgeSettings
from lsb.ledger.layout import prompt_file, prompt_provenance
from lsb.ledger.run import Run, RunSpec, create_run
from lsb.ledger.transform import ModelIdentity, transform_settings
from lsb.pictures.encoding import OutputSettings, encode
from lsb.pictures.geometry import Frame, Geometry, Size
from lsb.pictures.images import decoding_version
from lsb.pictures.ingest import ingest
from lsb.pictures.sources import open_sources
from lsb.records import digest_of, sha256
from lsb.store.store import Store
from lsb.translation.equipment import Equipment
from lsb.translation.model import Made, Model, Task
from lsb.translation.shard import run_shard

FILES = {"unet/model.safetensors": "0" * 64, "vae/model.safetensors": "1" * 64}
MODEL = ModelIdentity(id="tiny", revision=None, digest=digest_of(FILES), files=FILES)
EXECUTION = {
    "device": "cpu: test",
    "dtype": "float32",
    "batch": 4,
    "instruction_set": "AVX2",
    "threads": 2,
    "code_version": "0",
    "code_commit": None,
    "packages_sha256": "2" * 64,
}


LETTERBOX = Geometry(fit="letterbox")

Colour = tuple[int, int, int]


def picture(index: int, size: tuple[int, int] = (12, 8)) -> Image.Image:
    """Noise that differs for every index."""
    pixels = np.random.default_rng(index).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def marked(index: int, mark: Colour) -> Image.Image:
    """A picture whose first pixel tells it from others of its size."""
    image = picture(index)
    image.putpixel((0, 0), mark)
    return image


def marks(images: Sequence[Image.Image]) -> set[Any]:
    return {image.getpixel((0, 0)) for image in images}


def make_images(folder: Path, count: int) -> Path:
    """`count` different PNG files in two subfolders."""
    for index in range(count):
        path = folder / ("even" if index % 2 == 0 else "odd") / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture(index), "png"))
        os.utime(path, (1_600_000_000 + index,) * 2)  # each a time of its own: one for all says nothing
    return folder


@dataclass
class Inverter:
    """Translates by inverting colours. Each finished image's digest goes to a synced side log, if there is one."""

    batch: int = 4
    side_log: Path | None = None
    seconds: float = 0.0

    def translate(
        self, images: Sequence[Image.Image], digests: Sequence[str] | None = None, *, batch: int | None = None
    ) -> list[Image.Image]:
        outputs = [ImageOps.invert(image) for image in images]
        time.sleep(self.seconds)
        if self.side_log is not None:
            lines = "".join(f"{self.line(digest)}\n" for digest in digests or ())
            handle = os.open(self.side_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(handle, lines.encode())
            os.fsync(handle)
            os.close(handle)
        return outputs

    def line(self, digest: str) -> str:
        """What the side log gets."""
        return digest


class Ahead:
    """A model that is at work on what it is asked whether or not anybody waits for it, as one in its own process is."""

    def __init__(self, translator: Any) -> None:
        self.batch = translator.batch
        self._model = Model(translator)
        self._thread = ThreadPoolExecutor(1)

    def make(self, tasks: Sequence[Task], **options: Any) -> list[Made]:
        return self.begin(tasks, **options)()

    def begin(self, tasks: Sequence[Task], **options: Any) -> Callable[[], list[Made]]:
        return self._thread.submit(self._model.make, tasks, **options).result


def own_size(size: Size) -> Frame:
    """Every picture is translated at its own size."""
    return Frame(size, size, size, size)


def tasks(images: Sequence[Any], digests: Sequence[str], truths: Sequence[Any] | None = None) -> list[Task]:
    """What a model is asked of pictures that keep their sizes."""
    return [
        Task(image, digest, own_size(getattr(image, "size", (1, 1))), image, truth)
        for image, digest, truth in zip(images, digests, truths or [None] * len(images), strict=True)
    ]


def equipment(sources: Store, translator: Any = None, scorer: Any = None, **more: Any) -> Equipment:
    """`translator` may be a whole model, which scores as well."""
    model = translator if hasattr(translator, "make") else Model(translator or Inverter(), scorer)
    return Equipment(model, sources, EXECUTION, **{"frame": own_size, **more})


def run_spec(
    store: Store,
    sources: Store,
    *,
    shard_size: int = 5,
    read: Any = "full",
    tau: float = 2.3,
    image_format: str = "png",
    geometry: Geometry = LETTERBOX,
    output: OutputSettings = OutputSettings(),
) -> RunSpec:
    """A run over `sources`, whose prompts are put into the store."""
    prompts, ids = {}, {}
    for side in ("source", "target"):
        data = f"prompt of the {side}".encode()
        ids[side] = sha256(data)
        prompts[side] = prompt_file(side, ids[side], learned=False)
        store.write(prompts[side], data)
        store.write(prompt_provenance(side, ids[side]), b'{"origin": "given"}')
    settings = BridgeSettings(tau=tau)
    image_format = image_format if output.format == "png" else output.format
    as_they_are = (settings, "0", "float32", image_format, geometry.trace, output.trace)
    transform = transform_settings(MODEL, ids["source"], ids["target"], *as_they_are)
    dataset = ingest(sources, "noise", store, read=read, rules=geometry.decoding_rules)
    return RunSpec(
        job="invert",
        dataset=dataset,
        transform=transform,
        model=MODEL,
        shard_size=shard_size,
        prompts=prompts,
        source=sources.uri,
        decoding=decoding_version(geometry.decoding_rules),
    )


def start(store: Store, folder: Path | str, **settings: Any) -> tuple[Run, Store]:
    """A planned run over a folder of images, and the folder as a store."""
    sources = open_sources(str(folder))
    return create_run(store, run_spec(store, sources, **settings)), sources


def translate_all(store: Store, run: Run, sources: Store, **more: Any) -> None:
    """Finish every shard."""
    for shard in run.shards():
        run_shard(store, run, shard, equipment(sources, **more))
