"""Any picture at its own size: what comes out of forty sizes, where it lies, and what pictures in tiles cost.

    PYTHONPATH=. python benchmarks/sizes.py --json                     about an hour on two cores
    PYTHONPATH=. python benchmarks/sizes.py --parts vae look --json    some of it
    PYTHONPATH=. python benchmarks/sizes.py --out docs/benchmarks/sizes.md --pictures out/sizes

Parts, each in a process of its own, whose peak memory is `ru_maxrss`:

    run            `lsb run` of 40 files through a narrow model with the strides of Stable Diffusion 1.5
    linear, vae, vae-512    geometry with a linear stand-in for an autoencoder, with the embedded model's at its own
                   area, and at 512 x 512: registration, padding, borders
    shift          the embedded model's autoencoder in tiles against the whole
    look           the embedded model on squares and on other shapes
    seams          the embedded model in tiles
    narrow, narrow-tiles    one batch of pictures of 512 x 512; one picture of 4000 x 3000 in batches of as many tiles
    full, full-tiles        the same with the full width, random weights: three pictures; one of 1024 x 768
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from sizes_page import PARTS, markdown

FEW = {"tau": 0.6, "nfe": 2, "guidance": 3.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--also", nargs="+", type=Path, default=[], help="JSON of earlier calls, of other parts")
    parser.add_argument("--pictures", type=Path, help="a folder for pictures to look at")
    parser.add_argument("--out", type=Path, help="where to write the page")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        print(json.dumps(MEASURED[chosen.child](chosen.pictures)))
        return
    result: dict[str, Any] = {"machine": machine(), "date": str(datetime.now(UTC).date()), "versions": versions()}
    for file in chosen.also:
        result |= {name: value for name, value in json.loads(file.read_text()).items() if name in PARTS}
    for part in chosen.parts:
        result[part] = in_a_process(part, chosen.pictures)
        print(json.dumps({part: result[part]}), file=sys.stderr, flush=True)  # if a later one is not waited for
    if chosen.json:
        print(json.dumps(result, indent=1))
    else:
        print(markdown(result))
    if chosen.out:
        chosen.out.write_text(markdown(result))


def in_a_process(part: str, pictures: Path | None) -> dict[str, Any]:
    """This process stays small: a child's ru_maxrss is never below what its parent had."""
    more = ["--pictures", str(pictures)] if pictures else []
    start = time.monotonic()
    with subprocess.Popen([sys.executable, __file__, "--child", part, *more], stdout=subprocess.PIPE) as child:  # noqa: S603
        assert child.stdout is not None
        said = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"part {part} ended with {child.returncode}")
    return {"peak_mib": usage.ru_maxrss >> 10, **json.loads(said), "seconds": round(time.monotonic() - start)}


def run(pictures: Path | None) -> dict[str, Any]:
    """Sizes in and out, through everything."""
    import yaml
    from sizes_measures import flat_sides
    from sizes_models import KINDS, in_forty_sizes, narrow_folder, write_file

    from lsb.cli.main import run_command
    from lsb.ledger.log.snapshots import current_run
    from lsb.ledger.publish import manifest_table
    from lsb.ledger.run import open_run
    from lsb.pictures.images import decode
    from lsb.store.store import open_store

    with tempfile.TemporaryDirectory() as place:
        source, store = Path(place, "pictures"), Path(place, "store")
        source.mkdir()
        images = in_forty_sizes()
        for number, image in enumerate(images):
            write_file(image, KINDS[number % len(KINDS)], source, number)
        settings = {
            "name": "sizes",
            "store": str(store),
            "model": str(narrow_folder(Path(place, "model"))),
            "source": {"domain": "photographs", "path": str(source)},
            "prompts": {"source": {"text": "a picture"}, "target": {"domain": "icons", "text": "a 3d icon"}},
            "bridge": {**FEW, "tau": 0.1},
            "execution": {"batch": 2, "device": "cpu"},
            "evaluate": {"measure": False},
        }
        job = Path(place, "job.yaml")
        job.write_text(yaml.safe_dump(settings))
        stdout = os.dup(1)
        os.dup2(2, 1)  # what the command says is not this program's answer
        code = run_command(["run", str(job)])
        os.dup2(stdout, 1)
        opened = open_store(str(store))
        rows = manifest_table(opened, open_run(opened, str(current_run(opened, "sizes")))).to_pylist()
        expected = {f"{number:02d}": image for number, image in enumerate(images)}
        made = {row["source_key"][:2]: decode(opened.read(row["output_key"]))[0] for row in rows if row["output_key"]}
        if pictures:
            pictures.mkdir(parents=True, exist_ok=True)
            for number in ("02", "14", "32"):
                made[number].save(pictures / f"run-{number}.png")
        return {
            "exit_code": code,
            "files": len(images),
            "ok": sum(row["status"] == "ok" for row in rows),
            "same_size": sum(number in made and made[number].size == image.size for number, image in expected.items()),
            "flat_sides": sum(flat_sides(image, expected[number]) for number, image in made.items()),
        }


def linear(pictures: Path | None) -> dict[str, Any]:
    """Where pictures lie that only went through geometry and an autoencoder."""
    from sizes_models import Linear

    return _registered(Linear(), {}, 1 / 8, pictures, "linear")


def vae(pictures: Path | None) -> dict[str, Any]:
    from sizes_models import backbone_of

    return _registered(backbone_of("embedded", Path()), {}, 1.0, pictures, "vae")


def vae_512(pictures: Path | None) -> dict[str, Any]:
    from sizes_models import backbone_of

    return _registered(backbone_of("embedded", Path()), {"area": 512**2}, 1.0, pictures, "vae-512")


def _registered(
    backbone: Any, settings: dict[str, Any], holds: float, pictures: Path | None, name: str
) -> dict[str, Any]:
    from sizes_measures import flat_sides, padding_cost, shift_between
    from sizes_models import in_forty_sizes

    from lsb.metrics.comparison import through_vae
    from lsb.pictures.geometry import Geometry, frame_of

    geometry, images = Geometry(**settings), in_forty_sizes()
    shifts, inside, costs, flat = [], [], [], 0
    for number, image in enumerate(images):
        frame = frame_of(image.size, geometry, backbone.canvas)
        (made,) = through_vae([image], backbone, geometry)
        assert made.size == image.size
        shifts.append(shift_between(image, made, holds * min(1.0, 1 / frame.scale)))
        inside.append(shifts[-1] / frame.scale)
        flat += flat_sides(made, image)
        costs.append(padding_cost(image, frame, backbone))
        if pictures and number in (10, 14, 33):
            pictures.mkdir(parents=True, exist_ok=True)
            made.save(pictures / f"{name}-{number}.png")
    worst = max(range(len(shifts)), key=lambda number: shifts[number])
    return {
        "largest_shift_px": round(shifts[worst], 3),
        "at": f"{images[worst].width}x{images[worst].height}",
        "median_shift_px": round(sorted(shifts)[len(shifts) // 2], 3),
        "largest_shift_in_network_px": round(max(inside), 3),
        "above_half_px": sum(shift > 0.5 for shift in shifts),
        "largest_psnr_loss_db": round(max(costs), 3),
        "mean_psnr_loss_db": round(sum(costs) / len(costs), 3),
        "flat_sides": flat,
    }


def shift(_: Path | None) -> dict[str, Any]:
    """The autoencoder in tiles against the same of the whole, photographs of 256 x 192, in levels of 255."""
    import numpy as np
    from sizes_models import EMBEDDED, photographs, scaled

    from lsb.metrics.comparison import through_vae
    from lsb.models.load import load_backbone
    from lsb.pictures.geometry import Geometry

    backbone = load_backbone(str(EMBEDDED), device="cpu")
    rows = {}
    for name, photograph in photographs().items():
        image = scaled(photograph, (256, 192))
        whole, tiled = (
            np.asarray(through_vae([image], backbone, geometry)[0]).astype(float)
            for geometry in (Geometry(area=256 * 192), Geometry(large="tile"))
        )
        apart, source = tiled - whole, np.asarray(image).astype(float)
        rows[name] = {
            "mean_abs": round(float(np.abs(apart).mean()), 2),
            "channel_mean": round(float(np.abs(apart.mean((0, 1))).max()), 2),
            "whole_to_source": round(float(np.abs(whole - source).mean()), 2),
            "tiled_to_source": round(float(np.abs(tiled - source).mean()), 2),
        }
    return {"pictures": rows}


def look(pictures: Path | None) -> dict[str, Any]:
    """Contrast and edges of translations, of those of their sources, by shape."""
    from sizes_measures import contrast, edges
    from sizes_models import EMBEDDED, photographs, scaled

    translator = _translator(
        "embedded", Path(), {"tau": 1.3, "nfe": 4, "guidance": 5.0}, batch=4, large="fit", output="model"
    )
    found: dict[str, Any] = {"model": EMBEDDED.name}
    for name, size in (("square", (256, 256)), ("wide", (384, 192)), ("strip", (512, 128)), ("tall", (192, 384))):
        sources = [scaled(image, size) for image in photographs().values()]
        made = translator.translate(sources)
        small = [source.resize(one.size, 1) for source, one in zip(sources, made, strict=True)]
        found[name] = {
            what: round(sum(of(a) / of(b) for a, b in zip(made, small, strict=True)) / len(made), 3)
            for what, of in (("contrast", contrast), ("edges", edges))
        }
        if pictures:
            pictures.mkdir(parents=True, exist_ok=True)
            for number in (0, 2):
                made[number].save(pictures / f"look-{name}-{number}.png")
    return found


def seams(pictures: Path | None) -> dict[str, Any]:
    """The embedded model in tiles, without much noise: every step is the network's."""
    from sizes_models import photographs, scaled

    translator = _translator("embedded", Path(), {"tau": 0.6, "nfe": 4, "guidance": 3.0}, batch=4)
    return {
        name: _in_tiles(translator, scaled(photographs()[name], (384, 288)), pictures, f"seams-{name}")
        for name in ("coffee", "rocket", "astronaut")
    }


def narrow(_: Path | None) -> dict[str, Any]:
    return _native("narrow", 4, [(512, 512)] * 4)


def narrow_tiles(pictures: Path | None) -> dict[str, Any]:
    return _large("narrow", 4, (4000, 3000), pictures)


def full(_: Path | None) -> dict[str, Any]:
    return _native("full", 1, [(512, 512), (640, 427), (300, 600)])


def full_tiles(pictures: Path | None) -> dict[str, Any]:
    return _large("full", 1, (1024, 768), pictures)


def _native(kind: str, batch: int, sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    from sizes_models import photographs, scaled

    sources = [scaled(image, size) for image, size in zip(photographs().values(), sizes, strict=False)]
    with tempfile.TemporaryDirectory() as folder:
        made = _translator(kind, Path(folder), FEW, batch).translate(sources)
    return {"sizes": [f"{one.width}x{one.height}" for one in made], "same_size": [one.size for one in made] == [*sizes]}


def _large(kind: str, batch: int, size: tuple[int, int], pictures: Path | None) -> dict[str, Any]:
    from sizes_models import photographs, scaled

    with tempfile.TemporaryDirectory() as folder:
        translator = _translator(kind, Path(folder), {**FEW, "tau": 0.1}, batch)
        found = _in_tiles(translator, scaled(photographs()["coffee"], size), pictures, kind)
    return {**found, "pixels_mib": round(3 * size[0] * size[1] / 2**20, 1)}


def _in_tiles(translator: Any, image: Any, pictures: Path | None, name: str) -> dict[str, Any]:
    from sizes_measures import seams_of

    from lsb.pictures.geometry import frame_of

    frame = frame_of(image.size, translator.geometry, translator.backbone.canvas)
    assert frame.tiles is not None
    made = translator.translate(image)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10  # before seams are looked for
    assert made.size == image.size
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
        made.save(pictures / f"{name}-tiles.png")
        image.save(pictures / f"{name}-source.png")
    shown = {"size": f"{image.width}x{image.height}", "tiles": frame.tiles.count, "peak_mib": peak}
    return shown | seams_of(made, image, frame.tiles)


def _translator(kind: str, folder: Path, settings: dict[str, Any], batch: int, **geometry: Any) -> Any:
    from sizes_models import backbone_of

    from lsb.bridge.settings import BridgeSettings
    from lsb.models.prompt import Prompt
    from lsb.pictures.geometry import Geometry
    from lsb.translation.translator import Translator

    prompts = Prompt("a flat icon"), Prompt("a 3d icon")
    path, sizes = BridgeSettings.model_validate(settings), Geometry.model_validate({"large": "tile", **geometry})
    return Translator(backbone_of(kind, folder), *prompts, settings=path, batch=batch, geometry=sizes)


MEASURED = {
    "run": run,
    "linear": linear,
    "vae": vae,
    "vae-512": vae_512,
    "shift": shift,
    "look": look,
    "seams": seams,
    "narrow": narrow,
    "narrow-tiles": narrow_tiles,
    "full": full,
    "full-tiles": full_tiles,
}


def machine() -> str:
    """Processor and cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores of {model}, {os.environ.get('OMP_NUM_THREADS', 'all')} threads"


def versions() -> dict[str, str]:
    names = ("torch", "diffusers", "pillow", "scikit-image")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


if __name__ == "__main__":
    main()
