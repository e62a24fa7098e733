from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

import build
import networks
import pictures
import train
import unpack


def test_no_reserved_symbol_and_no_pair_without_its_other_styles() -> None:
    table = pq.read_table(pictures.PARQUET)
    assert table.schema.equals(build.SCHEMA)
    styles: dict[str, set[str]] = {}
    for row in table.to_pylist():
        bucket = hashlib.sha256(row["symbol"].encode()).digest()[0] % 10
        assert row["split"] == ("train" if bucket <= 6 else {7: "validation", 8: "test"}[bucket])
        assert not build.is_variant(row["symbol"])
        styles.setdefault(row["symbol"], set()).add(row["style"])
    assert all(found == set(pictures.STYLES) for found in styles.values())


def test_split_and_variants() -> None:
    assert build.symbol_of("0023-FE0F-20E3") == "0023-20e3"
    assert [build.is_variant(s) for s in ("1f44d-1f3fd", "1f1e9-1f1ea", "1f44d")] == [True, True, False]
    assert {build.split_of(f"{point:x}") for point in range(200)} == {"train", "validation", "test", None}


def test_unpacked_pictures_are_the_stored_bytes(tmp_path: Path) -> None:
    rows = pq.read_table(pictures.PARQUET).slice(0, 4)
    small = tmp_path / "small.parquet"
    pq.write_table(rows, small)
    assert unpack.unpack(small, tmp_path / "out") == unpack.unpack(small, tmp_path / "out") == 4
    for row in rows.to_pylist():
        path = tmp_path / "out" / row["style"] / row["split"] / f"{row['symbol']}.webp"
        assert path.read_bytes() == row["image"]
        assert Image.open(io.BytesIO(row["image"])).size == (build.SIZE, build.SIZE)


def test_hiding_the_style_keeps_shape_and_range_and_changes_the_picture() -> None:
    whole = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    hidden = pictures.hide_style(whole, torch.Generator().manual_seed(1))
    assert hidden.shape == whole.shape
    assert hidden.abs().max() <= 1.001
    assert (hidden - whole).abs().mean() > 0.01


def test_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    def session() -> train.Session:
        torch.manual_seed(0)
        return train.Session("toy", tmp_path, {"net": torch.nn.Linear(3, 1)}, lr=0.1, decay=0.9)

    def step(running: train.Session, seed: int) -> None:
        net = running.modules["net"]
        net(torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))).square().mean().backward()
        running.optimiser.step()
        running.optimiser.zero_grad()
        running.averages["net"].update(net)
        running.step += 1

    whole = session()
    for seed in range(4):
        step(whole, seed)
        if seed == 1:
            whole.save()
    resumed = session()
    assert resumed.step == 2
    for seed in (2, 3):
        step(resumed, seed)
    for mine, other in (
        (whole.modules["net"].state_dict(), resumed.modules["net"].state_dict()),
        (whole.averages["net"].shadow, resumed.averages["net"].shadow),
    ):
        assert all(torch.equal(mine[key], other[key]) for key in mine)


def test_the_model_fits_its_limits() -> None:
    folder = Path(train.__file__).parent / "model"
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 40e6
    assert not [file for file in files if file.suffix not in {".json", ".jsonl", ".md", ".safetensors"}]
    assert train.parameters(networks.new_unet()) + train.parameters(networks.new_vae()) < 17.4
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert (scheduler["steps_offset"], scheduler["prediction_type"]) == (1, "v_prediction")


def test_network_time_follows_the_schedule() -> None:
    denoise = train.Denoiser(torch.nn.Identity(), torch.device("cpu"))  # type: ignore[arg-type]
    steps = torch.tensor([0.0, 10.0, 500.0, 999.0])
    assert denoise.time(denoise.log_sigma[steps.long()].exp()).tolist() == pytest.approx(steps.tolist(), abs=0.05)


def test_the_job_on_s3_is_the_job_in_another_store() -> None:
    here, there = (yaml.safe_load(pictures.PARQUET.with_name(name).read_text()) for name in ("job.yaml", "job-s3.yaml"))
    assert there == here | {"store": "s3://lsb/demo"}
