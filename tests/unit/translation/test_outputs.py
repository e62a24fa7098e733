"""What of a source goes into its output: transparency, grey, metadata, format."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lsb.audit.replay import Bench, replay
from lsb.errors import DecodingError
from lsb.ledger.gates import Gates
from lsb.ledger.manifest import collect
from lsb.ledger.publish import manifest_table
from lsb.ledger.run import Run, open_run
from lsb.pictures.decoder import Decoder
from lsb.pictures.encoding import OutputSettings
from lsb.pictures.geometry import Frame, Geometry, Size
from lsb.pictures.images import decode, pixels_sha256
from lsb.pictures.images import metadata_of as read_metadata
from lsb.store.local import LocalStore
from lsb.store.store import Store
from lsb.translation.shard import run_shard
from lsb.views.export import export
from tests.bombs import saved
from tests.ledger import EXECUTION, LETTERBOX, Inverter, equipment, own_size, start
from tests.tiffs import tiff

NOISE = np.random.default_rng(0).integers(0, 256, (24, 30, 4), dtype=np.uint8)
ICON = Image.fromarray(NOISE, "RGBA")
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"


class Identity(Inverter):
    """Leaves every picture as it is."""

    def translate(self, images: Sequence[Image.Image], *rest: Any, **options: Any) -> list[Image.Image]:
        return list(images)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def run_of(store: Store, tmp_path: Path, files: dict[str, bytes], **settings: Any) -> tuple[Run, Store]:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    chosen = OutputSettings(**settings.pop("output", {}))
    return start(store, folder, shard_size=20, output=chosen, **settings)


def made(
    store: Store, tmp_path: Path, files: dict[str, bytes], translator: Any = None, **settings: Any
) -> dict[str, dict[str, Any]]:
    """The rows by file, each with its output's bytes as `data`; every output is the same when it is replayed."""
    frame = settings.pop("frame", own_size)
    run, sources = run_of(store, tmp_path, files, **settings)
    translator = translator or Identity()
    run_shard(store, run, "00000", equipment(sources, translator, frame=frame))
    rows = collect(store, run, gates=Gates()).rows.to_pylist()
    replayed = replay(store, run, sources, lambda row: Bench(translator, frame, {**row, **EXECUTION}), 99)
    outputs = [row for row in rows if row["status"] == "ok"]
    assert [one.same for one in replayed] == [True] * len({row["output_key"] for row in outputs})
    for row in outputs:
        row["data"] = store.read(row["output_key"])
        assert pixels_sha256(decode(row["data"])[0]) == row["pixels_sha256"]
    return {row["source_key"]: row for row in rows}


def opened(row: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(row["data"]))


@pytest.mark.parametrize("format", ["png", "webp"])
def test_the_identity_gives_a_transparent_picture_back(store: LocalStore, tmp_path: Path, format: str) -> None:
    files = {"icon.png": saved(ICON, "PNG"), "flat.png": saved(ICON.convert("RGB"), "PNG")}
    rows = made(store, tmp_path, files, output={"alpha": "keep", "format": format})
    found = np.asarray(opened(rows["icon.png"]))
    assert (found == NOISE).all()
    assert opened(rows["flat.png"]).mode == "RGB"
    assert (rows["icon.png"]["source_transparent"], rows["flat.png"]["source_transparent"]) == (True, False)


def test_its_colours_are_translated_and_no_white_is_left_in_them(store: LocalStore, tmp_path: Path) -> None:
    rows = made(store, tmp_path, {"icon.png": saved(ICON, "PNG")}, Inverter(), output={"alpha": "keep"})
    found = np.asarray(opened(rows["icon.png"])).astype(float)
    alpha = NOISE[..., 3:] / 255.0
    on_white = 255 - (255 - NOISE[..., :3]) * alpha
    wanted = (255 - (255 - (255 - on_white)) / np.maximum(alpha, 1 / 255)).clip(0, 255)
    seen = NOISE[..., 3] >= 128
    assert np.abs(found[..., :3] - wanted)[seen].max() <= 2
    assert (found[..., 3] == NOISE[..., 3]).all()


def test_transparency_is_on_white_unless_asked_for(store: LocalStore, tmp_path: Path) -> None:
    rows = made(store, tmp_path, {"icon.png": saved(ICON, "PNG")})
    assert opened(rows["icon.png"]).mode == "RGB"
    assert rows["icon.png"]["source_transparent"]


def test_a_transparent_picture_is_set_aside_if_asked(store: LocalStore, tmp_path: Path) -> None:
    files = {"icon.png": saved(ICON, "PNG"), "flat.png": saved(ICON.convert("RGB"), "PNG")}
    opaque = ICON.copy()
    opaque.putalpha(255)
    files["opaque.png"] = saved(opaque, "PNG")
    rows = made(store, tmp_path, files, output={"alpha": "refuse"})
    assert [rows[name]["status"] for name in files] == ["quarantined", "ok", "ok"]
    assert rows["icon.png"]["error_code"] == "transparent"
    assert "output.alpha" in rows["icon.png"]["error_detail"]


def test_a_smaller_output_takes_its_transparency_along(store: LocalStore, tmp_path: Path) -> None:
    def half(size: Size) -> Frame:
        small = size[0] // 2, size[1] // 2
        return Frame(size, small, small, small)

    rows = made(store, tmp_path, {"icon.png": saved(ICON, "PNG")}, output={"alpha": "keep"}, frame=half)
    assert (opened(rows["icon.png"]).mode, opened(rows["icon.png"]).size) == ("RGBA", (15, 12))


@pytest.mark.parametrize(("grey", "modes"), [("keep", ["L", "LA", "RGB"]), ("colour", ["RGB", "RGBA", "RGB"])])
def test_grey_stays_grey_if_asked(store: LocalStore, tmp_path: Path, grey: str, modes: list[str]) -> None:
    files = {
        "a.png": saved(ICON.convert("L"), "PNG"),
        "b.png": saved(ICON.convert("LA"), "PNG"),
        "c.png": saved(ICON.convert("RGB"), "PNG"),
    }
    rows = made(store, tmp_path, files, output={"grey": grey, "alpha": "keep"})
    assert [opened(rows[name]).mode for name in files] == modes


def test_each_output_has_its_source_s_format_if_asked(store: LocalStore, tmp_path: Path) -> None:
    flat = ICON.convert("RGB")
    files = {
        "a.jpeg": saved(flat, "JPEG"),
        "b.webp": saved(flat.rotate(90), "WEBP"),
        "c.gif": saved(flat, "GIF"),
        "d.avif": saved(flat, "AVIF"),
        "e": saved(flat.rotate(180), "PNG"),
        "f.heic": saved(flat.rotate(270), "AVIF"),  # whatever its name says
    }
    rows = made(store, tmp_path, files, output={"format": "source", "quality": 80})
    formats = ["jpeg", "webp", "png", "avif", "png", "avif"]
    assert [rows[name]["output_format"] for name in files] == formats
    assert [opened(rows[name]).format.lower() for name in files] == formats
    (run,) = (path.name for path in (tmp_path / "store" / "runs").iterdir())
    done = export(store, open_run(store, run), tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert (done.written, names) == (6, ["a.jpg", "b.webp", "c.png", "d.avif", "e.png", "f.avif"])


@pytest.mark.parametrize("format", ["png", "webp", "jpeg", "avif"])
def test_metadata_are_copied_if_asked(store: LocalStore, tmp_path: Path, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "A camera"
    files = {
        "a.jpg": saved(ICON.convert("RGB"), "JPEG", exif=exif, xmp=XMP),
        "b.png": saved(ICON.convert("RGB"), "PNG"),
    }
    rows = made(store, tmp_path, files, output={"metadata": "keep", "format": format})
    assert (rows["a.jpg"]["source_metadata"], rows["a.jpg"]["output_metadata"]) == (["exif", "xmp"],) * 2
    assert (rows["b.png"]["source_metadata"], rows["b.png"]["output_metadata"]) == ([], [])
    found = read_metadata(rows["a.jpg"]["data"])
    assert found.kinds == ("exif", "xmp")
    assert b"A camera" in found.exif
    assert decode(rows["a.jpg"]["data"])[0].size == (24, 30)  # upright, and not turned again


def test_without_being_asked_nothing_of_a_source_s_metadata_is_in_its_output(store: LocalStore, tmp_path: Path) -> None:
    rows = made(store, tmp_path, {"a.jpg": saved(ICON.convert("RGB"), "JPEG", xmp=XMP)})
    assert rows["a.jpg"]["output_metadata"] is None
    assert read_metadata(rows["a.jpg"]["data"]).kinds == ()


def test_a_row_says_how_many_pictures_its_file_has(store: LocalStore, tmp_path: Path) -> None:
    flat = ICON.convert("RGB")
    files = {"a.gif": saved(flat, "GIF", save_all=True, append_images=[flat.rotate(180)]), "b.png": saved(flat, "PNG")}
    rows = made(store, tmp_path, files)
    assert (rows["a.gif"]["source_frames"], rows["b.png"]["source_frames"]) == (2, 1)


@pytest.mark.parametrize(("geometry", "brightest"), [(Geometry(), 255), (LETTERBOX, 16)])
def test_letterboxed_runs_keep_the_pixels_of_their_time(
    store: LocalStore, tmp_path: Path, geometry: Geometry, brightest: int
) -> None:
    files = {"a.tif": tiff((np.arange(96, dtype=np.uint16) * 43).reshape(8, 12))}
    rows = made(store, tmp_path, files, geometry=geometry)
    assert np.asarray(opened(rows["a.tif"])).max() == pytest.approx(brightest, abs=1)


def test_an_output_that_its_encoder_refuses_fails_alone(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(image: Image.Image, *rest: Any) -> bytes:
        if image.getpixel((0, 0)) == (0, 0, 0):
            raise OSError("encoder error -2")
        return saved(image, "PNG")

    monkeypatch.setattr("lsb.pictures.output.encode", encode)
    files = {"dark.png": saved(Image.new("RGB", (8, 8)), "PNG"), "flat.png": saved(ICON.convert("RGB"), "PNG")}
    run, sources = run_of(store, tmp_path, files)
    run_shard(store, run, "00000", equipment(sources, Identity()))
    rows = {row["source_key"]: row for row in manifest_table(store, run).to_pylist()}
    assert [rows[name]["status"] for name in files] == ["failed", "ok"]
    assert (rows["dark.png"]["error_code"], rows["dark.png"]["error_detail"]) == (
        "encode_failed",
        "OSError: encoder error -2",
    )


def test_a_source_that_cannot_be_decoded_a_second_time_fails_alone(store: LocalStore, tmp_path: Path) -> None:
    class Forgetful(Decoder):
        def decode_transparent(self, data: bytes, rules: int = 0) -> Image.Image:
            raise DecodingError("decoder_died: it ended", code="decoder_died")

    files = {"icon.png": saved(ICON, "PNG"), "flat.png": saved(ICON.convert("RGB"), "PNG")}
    run, sources = run_of(store, tmp_path, files, output={"alpha": "keep"})
    with Forgetful() as decoder:
        run_shard(store, run, "00000", equipment(sources, Identity(), decoder=decoder))
    rows = {row["source_key"]: row for row in manifest_table(store, run).to_pylist()}
    assert [(rows[name]["status"], rows[name]["retryable"]) for name in files] == [("failed", True), ("ok", False)]
    assert rows["icon.png"]["error_code"] == "decoder_died"
