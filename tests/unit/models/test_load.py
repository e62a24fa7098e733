"""What may be given as a model, what is refused, and what makes up a model's identity."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lsb.errors import ModelError, UnsafeWeightsError
from lsb.models.canvas import stable_diffusion_canvas
from lsb.models.files import PARTS, ModelFiles, of_folder
from lsb.models.load import FAMILIES, Family, canvas_of, identify, load_backbone, locate
from lsb.models.stable_diffusion import StableDiffusion, load_stable_diffusion
from lsb.pictures.geometry import Canvas
from lsb.records import sha256
from tests.tiny import tiny_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


def edit(folder: Path, name: str, **changes: object) -> None:
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_identity_names_every_file_that_matters(folder: Path, tiny_backbone: StableDiffusion) -> None:
    identity = identify(str(folder))
    assert identity.id == "copy"
    assert identity.revision is None
    assert identity.files == tiny_backbone.identity.files
    assert identity.digest == tiny_backbone.identity.digest
    assert set(identity.files) == {
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    }
    name = "vae/diffusion_pytorch_model.safetensors"
    assert identity.files[name] == sha256((folder / name).read_bytes())


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files whose bytes are read for a digest, from here on."""
    names: list[str] = []
    digest = hashlib.file_digest

    def counting(handle: Any, name: str) -> Any:
        names.append(Path(handle.name).name)
        return digest(handle, name)

    monkeypatch.setattr(hashlib, "file_digest", counting)
    return names


def test_weights_are_read_once_for_all_who_ask_in_a_process(
    folder: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 60)  # the copy is no new one any more
    first = identify(str(folder))
    assert len(read) == len(first.files) == 9
    assert identify(str(folder)) == first
    assert load_backbone(str(folder), device="cpu").identity == first
    assert len(read) == 9
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    times = (weights.stat().st_atime_ns, weights.stat().st_mtime_ns)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=times)
    assert identify(str(folder)).digest != first.digest
    assert read[9:] == [weights.name]


def test_weights_that_have_just_been_written_are_not_believed_to_stay(
    folder: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    for name in ("vae", "unet"):
        weights = folder / name / "diffusion_pytorch_model.safetensors"
        weights.write_bytes(weights.read_bytes())
    identify(str(folder))
    identify(str(folder))
    assert read.count("diffusion_pytorch_model.safetensors") == 4


def test_identity_changes_with_a_byte_and_not_with_what_is_not_loaded(folder: Path) -> None:
    before = identify(str(folder)).digest
    (folder / "README.md").write_text("about")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"a pickle beside safetensors is never read")
    assert identify(str(folder)).digest == before
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert identify(str(folder)).digest != before


def test_fp16_variant_is_taken_where_there_is_no_other(folder: Path, tiny_backbone: StableDiffusion) -> None:
    for component, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        plain = folder / component / f"{stem}.safetensors"
        plain.rename(plain.with_name(f"{stem}.fp16.safetensors"))
    backbone = load_backbone(str(folder), device="cpu")
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in backbone.identity.files
    x_t, condition = torch.ones(1, *backbone.latent_shape(32, 32)), torch.ones(1, 77, 32)
    assert torch.equal(backbone.predict(x_t, 1.0, condition), tiny_backbone.predict(x_t, 1.0, condition))
    plain = folder / "vae" / "diffusion_pytorch_model.safetensors"
    plain.with_name("diffusion_pytorch_model.fp16.safetensors").rename(plain)
    mixed = load_backbone(str(folder), device="cpu")
    assert "vae/diffusion_pytorch_model.safetensors" in mixed.identity.files
    assert torch.equal(mixed.decode(x_t), tiny_backbone.decode(x_t))
    assert torch.equal(mixed.predict(x_t, 1.0, condition), tiny_backbone.predict(x_t, 1.0, condition))


@pytest.mark.parametrize("name", ["{}.fp16-{:05d}-of-00002.safetensors", "{}-{:05d}-of-00002.fp16.safetensors"])
def test_both_names_of_fp16_shards_are_known(folder: Path, tiny_backbone: StableDiffusion, name: str) -> None:
    """The second is that of older versions of diffusers, whose pipelines load both."""
    for component, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        whole = folder / component / f"{stem}.safetensors"
        state = load_file(whole)
        whole.unlink()
        keys, places = sorted(state), {}
        for number, some in ((1, keys[::2]), (2, keys[1::2])):
            shard = name.format(stem, number)
            save_file({key: state[key] for key in some}, folder / component / shard, {"format": "pt"})
            places |= dict.fromkeys(some, shard)
        index = {"metadata": {}, "weight_map": places}
        (folder / component / f"{stem}.safetensors.index.fp16.json").write_text(json.dumps(index))
    backbone = load_backbone(str(folder), device="cpu")
    assert len([file for file in backbone.identity.files if file.endswith(".safetensors")]) == 6
    x_t, condition = torch.ones(1, *backbone.latent_shape(32, 32)), torch.ones(1, 77, 32)
    assert torch.equal(backbone.predict(x_t, 1.0, condition), tiny_backbone.predict(x_t, 1.0, condition))
    assert all(any(fnmatchcase(file, part) for part in PARTS) for file in backbone.identity.files)


def test_file_uri(tiny_folder: Path) -> None:
    assert identify(tiny_folder.as_uri()).digest == identify(str(tiny_folder)).digest
    with pytest.raises(ModelError, match="scheme https"):
        load_backbone("https://host/model")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nowhere", "no such folder or file"),
        ("./no/such/folder", "no such folder or file"),
        ("no-such-owner/no-such-model", "no such folder here, and the hub gives none"),
        ("some/model.safetensors", "no such folder or file"),
    ],
)
def test_a_model_that_is_not_there(model: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_backbone(model)
    assert model in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_has_no_revision(tiny_folder: Path) -> None:
    with pytest.raises(ModelError, match="no revisions"):
        load_backbone(str(tiny_folder), revision=COMMIT)


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT[:12]])
def test_strict_demands_a_pinned_commit(revision: str | None) -> None:
    with pytest.raises(UnsafeWeightsError, match="full commit of 40 hex digits"):
        load_backbone("owner/name", revision=revision, strict=True)


def test_a_pinned_hub_model_comes_from_the_cache(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    shutil.copytree(tiny_folder, tmp_path / "models--owner--name" / "snapshots" / COMMIT)
    identity = load_backbone("owner/name", revision=COMMIT, strict=True, device="cpu").identity
    assert (identity.id, identity.revision) == ("owner/name", COMMIT)
    assert identity.digest == identify(str(tiny_folder)).digest


class WordFiles(ModelFiles):
    """Those of a family of its own."""

    def files(self) -> dict[str, Path]:
        return {"words.safetensors": self.folder / "words.safetensors"}


def word_files(folder: Path) -> ModelFiles:
    if not (folder / "words.safetensors").is_file():
        raise ModelError(f"{folder} has no words")
    return WordFiles(folder.name, None, folder)


def test_a_hub_model_is_loaded_by_its_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(files: ModelFiles, device: str, dtype: str) -> Any:
        return SimpleNamespace(identity=files.identity(), dtype=dtype)

    monkeypatch.setitem(FAMILIES, "Words", Family(word_files, load, lambda files: Canvas(8, 1), ["words.*"]))
    snapshot = tmp_path / "models--owner--name" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "model_index.json").write_text('{"_class_name": "Words"}')
    asked: list[list[str]] = []

    def fetch(model: str, *, allow_patterns: list[str], **more: Any) -> str:
        asked.append(allow_patterns)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(ModelError, match=r"^owner/name has no words"):
        locate("owner/name")
    (snapshot / "words.safetensors").write_bytes(b"words")
    identity = load_backbone("owner/name", revision="main", device="cpu").identity
    assert (identity.id, identity.revision, list(identity.files)) == ("owner/name", COMMIT, ["words.safetensors"])
    assert all({"model_index.json", "words.*", "unet/*.json"} < set(patterns) for patterns in asked)


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_pickled_weights_are_refused(folder: Path, component: str) -> None:
    for weights in (folder / component).glob("*.safetensors"):
        weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(UnsafeWeightsError, match="pickled weights"):
        load_backbone(str(folder))


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin", ".pth"])
def test_pickled_checkpoints_are_refused(tmp_path: Path, suffix: str) -> None:
    checkpoint = tmp_path / f"model{suffix}"
    checkpoint.write_bytes(b"\x80\x04")
    with pytest.raises(UnsafeWeightsError, match="is a pickle"):
        load_backbone(str(checkpoint))


def test_remote_code_is_refused(folder: Path) -> None:
    original = (folder / "model_index.json").read_text()
    for changes in ({"_class_name": ["my_pipeline", "MyPipeline"]}, {"unet": ["my_unet", "MyUNet"]}):
        edit(folder, "model_index.json", **changes)
        with pytest.raises(UnsafeWeightsError, match="own code"):
            load_backbone(str(folder))
        (folder / "model_index.json").write_text(original)
    edit(folder, "text_encoder/config.json", auto_map={"AutoModel": "evil.Model"})
    with pytest.raises(UnsafeWeightsError, match="auto_map"):
        load_backbone(str(folder))


def test_other_families_and_broken_folders(folder: Path, tmp_path: Path) -> None:
    original = (folder / "model_index.json").read_text()
    for changes in ({"_class_name": "FluxPipeline"}, {"text_encoder_2": ["transformers", "CLIPTextModel"]}):
        edit(folder, "model_index.json", **changes)
        with pytest.raises(ModelError, match=r"supported are Stable Diffusion 1.x and 2.x"):
            load_backbone(str(folder))
    (folder / "model_index.json").write_text(original)
    edit(folder, "vae/config.json", _class_name="VQModel")
    with pytest.raises(ModelError, match="VQModel; allowed is AutoencoderKL"):
        load_backbone(str(folder))
    (folder / "vae/config.json").write_text("{")
    with pytest.raises(ModelError, match="not JSON"):
        load_backbone(str(folder))
    (folder / "vae/config.json").unlink()
    with pytest.raises(ModelError, match=r"lacks vae/config.json"):
        load_backbone(str(folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no Stable Diffusion folder"):
        load_backbone(str(tmp_path / "empty"))
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ModelError, match="is no model"):
        load_backbone(str(tmp_path / "notes.txt"))


@pytest.mark.parametrize(
    ("layout", "canvas"), [("small", Canvas(side=32, stride=8)), ("1.5", Canvas(side=64, stride=64))]
)
def test_the_canvas_is_known_without_the_network(tmp_path: Path, layout: Any, canvas: Canvas) -> None:
    folder = str(tiny_model(tmp_path / layout, layout=layout))
    assert canvas_of(folder) == load_backbone(folder, device="cpu").canvas == canvas


def test_a_model_whose_side_its_network_does_not_halve_evenly_works_at_that_side(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    unet = folder / "unet" / "config.json"
    unet.write_text(unet.read_text().replace('"sample_size": 8', '"sample_size": 9'))
    assert canvas_of(str(folder)) == Canvas(side=36, stride=4)
    backbone = load_backbone(str(folder), device="cpu")
    latent = torch.zeros(1, *backbone.latent_shape(36, 40))
    assert backbone.predict(latent, 1.0, torch.ones(1, 77, 32)).shape == latent.shape


def only_float32(files: ModelFiles, device: str, dtype: str) -> StableDiffusion:
    return load_stable_diffusion(files, device)


def test_a_family_gets_no_lora_files_and_no_dtype_that_it_knows_nothing_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would leave them out, and the run would say that they were used."""
    monkeypatch.setitem(
        FAMILIES, "StableDiffusionPipeline", Family(of_folder, only_float32, stable_diffusion_canvas, PARTS)
    )
    assert load_backbone(str(folder), device="cpu").dtype == "float32"
    with pytest.raises(ModelError, match=r"does not compute in bfloat16, only in float32; set execution\.dtype"):
        load_backbone(str(folder), device="cpu", dtype="bfloat16")
    for ask in (identify, load_backbone):
        with pytest.raises(ModelError, match="takes no LoRA files; leave loras out"):
            ask(str(folder), loras=[str(folder / "unet/diffusion_pytorch_model.safetensors")])
