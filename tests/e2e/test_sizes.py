"""A job of pictures of many sizes: each comes back as large as it went in, and nothing flat is at its edge."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from lsb.ledger.schemas import MANIFEST, read_table
from tests.e2e.jobs import Job, lsb

pytestmark = pytest.mark.usefixtures("server")

SIZES = {
    "square.png": (32, 32),
    "large.jpg": (640, 480),
    "panorama.png": (300, 40),
    "tall.webp": (25, 90),
    "turned.jpg": (200, 120),  # stored 120 x 200
    "line.png": (1, 50),
    "dot.png": (1, 1),
    "another.jpg": (640, 480),
}


def photograph(size: tuple[int, int], seed: int) -> Image.Image:
    """Dark and coloured to the edge, nowhere flat and nowhere white."""
    coarse = np.random.default_rng(seed).integers(0, 150, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def mixed(job: Job, tmp_path: Path) -> Job:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number, (name, size) in enumerate(SIZES.items()):
        if name == "turned.jpg":
            exif = Image.Exif()
            exif[0x0112] = 6
            photograph(size[::-1], number).save(folder / name, exif=exif)
        else:
            photograph(size, number).save(folder / name, quality=95)
    changed = job.changed("mixed", source__path=str(folder), evaluate={"target": str(folder)}, execution__shard_size=5)
    return Job(changed.config, changed.store, folder)


def rows_of(run: Path) -> dict[str, dict[str, Any]]:
    (newest,) = run.glob("snapshots/0*/manifest.parquet")
    return {row["source_key"]: row for row in read_table(newest.read_bytes(), MANIFEST).to_pylist()}


def test_sizes_in_are_sizes_out(mixed: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreseen = lsb(capsys, "run", mixed.config, "--dry-run", "--json").json["sizes"]
    expected: dict[str, int] = {}
    for width, height in SIZES.values():
        expected[f"{width}x{height}"] = expected.get(f"{width}x{height}", 0) + 1
    assert foreseen["outputs"] == expected
    assert foreseen["smaller"] == {}

    answer = lsb(capsys, "run", mixed.config, "--json")
    assert (answer.code, answer.json["counts"]) == (0, {"ok": len(SIZES)}), answer.err
    run = Path(answer.json["run"])
    rows = rows_of(run)
    assert {key: (row["output_width"], row["output_height"]) for key, row in rows.items()} == SIZES
    working: dict[str, int] = {}
    for row in rows.values():
        name = f"{row['working_width']}x{row['working_height']}"
        working[name] = working.get(name, 0) + 1
    assert foreseen["working"] == working

    assert lsb(capsys, "export", run, tmp_path / "out").code == 0
    for name, size in SIZES.items():
        with Image.open((tmp_path / "out" / name).with_suffix(".png")) as output:
            assert output.size == size
    page = (run / "snapshots" / "00000000" / "report" / "index.html").read_text()
    assert "of the rows that the network was given filled up batches" in page
    verified = lsb(capsys, "verify", run, "--replay", "99", "--json")
    assert verified.code == 0, verified.err
    assert [one["same"] for one in verified.json["replayed"]] == [True] * len(SIZES)
    (traced,) = lsb(capsys, "trace", "panorama.png", "--run", run, "--json").json
    assert (traced["output"]["width"], traced["output"]["limited"]) == (300, False)
    assert traced["output"]["scale"] == pytest.approx(300 / 88, abs=0.5)
    measured = next(row for row in answer_metrics(run)["rows"] if row["key"] == "source_vae")
    assert measured["images"] == len(SIZES)


def answer_metrics(run: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((run / "snapshots" / "00000000" / "metrics.json").read_text()))


@pytest.mark.long  # its parts: unit/translation/test_sizes.py, test_tiles.py
def test_how_the_job_is_cut_changes_no_pixel(mixed: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor those of large pictures, which are in tiles."""
    found = []
    for number, size in enumerate((2, 100)):
        changes = {"execution__shard_size": size, "store": str(tmp_path / f"store-{number}")}
        job = mixed.changed(f"cut-{number}", geometry={"large": "tile", "area": 4096}, **changes)
        answer = lsb(capsys, "run", job.config, "--json")
        assert answer.code == 0, answer.err
        run = Path(answer.json["run"])
        rows = rows_of(run)
        assert {key: (row["output_width"], row["output_height"]) for key, row in rows.items()} == SIZES
        found.append({key: (row["tiles"], row["pixels_sha256"]) for key, row in rows.items()})
    assert found[0] == found[1]
    tiles = {key: row["tiles"] for key, row in rows.items() if row["tiles"]}
    assert tiles.keys() == {"large.jpg", "another.jpg", "turned.jpg", "panorama.png", "tall.webp"}
    assert tiles["large.jpg"] == 6
    # Of the last of the two runs: what was foreseen, and what its readers say.
    foreseen = lsb(capsys, "run", job.config, "--dry-run", "--json").json
    large = f"{rows['large.jpg']['working_width']}x{rows['large.jpg']['working_height']}"
    assert foreseen["sizes"]["tiles"][large] == 6
    assert foreseen["forwards_in_tiles"][large] == 6 * foreseen["forwards_per_image"]
    page = (run / "snapshots" / "00000000" / "report" / "index.html").read_text()
    assert "5 pictures were translated in tiles, at most " in page
    verified = lsb(capsys, "verify", run, "--replay", "99", "--json")
    assert verified.code == 0, verified.err
    assert [one["same"] for one in verified.json["replayed"]] == [True] * len(SIZES)


def test_a_prompt_is_learned_from_pictures_of_many_sizes(mixed: Job, capsys: pytest.CaptureFixture[str]) -> None:
    source = {"images": str(mixed.source), "token": "<dark>", "initial": "icon"}
    learning = {"steps": 3, "batch": 4, "validate_every": 3}
    keys = []
    for name, geometry in (("aspect", {}), ("again", {"max_scale": 2}), ("letterbox", {"fit": "letterbox"})):
        job = mixed.changed(name, prompts__source=source, learning=learning, geometry=geometry)
        answer = lsb(capsys, "optimise", job.config, "--json")
        assert answer.code == 0, answer.err
        keys.append((answer.json["source"]["learned_now"], len(list(mixed.store.glob("prompts/flat/recipe-*.json")))))
    # What comes out has no part in what is learned, and what is seen has.
    assert keys == [(True, 1), (False, 1), (True, 2)]


@pytest.mark.long  # its parts: unit/translation/test_sizes.py
def test_a_picture_that_may_not_be_enlarged_so_much_stays_smaller_and_says_so(
    mixed: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    job = mixed.changed("limited", geometry={"max_scale": 4}, output={"format": "webp"})
    foreseen = lsb(capsys, "run", job.config, "--dry-run", "--json").json["sizes"]
    assert foreseen["smaller"] == {"geometry.max_scale": 3}
    answer = lsb(capsys, "run", job.config, "--json")
    assert answer.code == 0, answer.err
    rows = rows_of(Path(answer.json["run"]))
    limited = {key: (row["output_width"], row["output_height"]) for key, row in rows.items() if row["output_limited"]}
    assert limited == {"large.jpg": (160, 120), "another.jpg": (160, 120), "turned.jpg": limited["turned.jpg"]}
    output = Path(answer.json["run"]).parents[1] / rows["large.jpg"]["output_key"]
    assert Image.open(io.BytesIO(output.read_bytes())).size == (160, 120)
    page = (Path(answer.json["run"]) / "snapshots" / "00000000" / "report" / "index.html").read_text()
    assert "3 outputs are smaller than their source, for geometry.max_scale" in page


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ({"area": "huge"}, "geometry.area: must be native, or pixels within"),
        ({"fit": "letterbox", "output": "model"}, "output is for fit: aspect"),
        ({"fit": "letterbox", "large": "tile"}, "large is for fit: aspect"),
        ({"large": "tile", "area": 2048}, "pictures of up to 2048 pixels are in no tiles with this model"),
        ({"max_scale": 0.5}, "geometry.max_scale"),
    ],
)
def test_a_geometry_that_cannot_be_is_refused(
    job: Job, geometry: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = lsb(capsys, "run", job.changed("wrong", geometry=geometry).config)
    assert answer.code == 2
    assert message in answer.complaint
    assert not job.store.exists()


def test_an_area_that_the_noise_schedule_has_no_room_for_is_refused_in_one_line(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sixteen times the pixels, four times the sigmas."""
    answer = lsb(capsys, "run", job.changed("wide", geometry={"area": 16 * 32 * 32}, bridge__tau=10).config)
    assert answer.code == 2
    assert "too large for this model's noise schedule at this geometry.area" in answer.complaint
