from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from examples.object_server import ObjectServer
from lsb.errors import ModelError, StoreBusyError, UnsafeWeightsError
from lsb.models.download import download
from lsb.models.load import identify, load_backbone, locate
from lsb.store.store import Store, open_store
from tests.unit.store.lying_proxy import LyingProxy, flipped, page


def upload(folder: Path, store: Store, name: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            store.write(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())


@pytest.fixture
def store(s3_uri: str) -> Store:
    return open_store(s3_uri)


def reads(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Keys of the objects that were read since the last call."""
    keys = [record.args[1] for record in caplog.records if record.args and record.args[0] == "get_object"]
    caplog.clear()
    return [str(key) for key in keys]


def test_a_model_on_s3_is_the_same_as_on_the_disk(
    tiny_folder: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    upload(tiny_folder, store, "model")
    store.write("model/README.md", b"about")
    store.write("model/unet/diffusion_pytorch_model.bin", b"a pickle")
    store.write("model-other/unet/config.json", b"not ours")
    caplog.set_level(logging.DEBUG, logger="lsb.store.s3")
    assert identify(f"{store.uri}/model/") == identify(str(tiny_folder))
    assert sorted(reads(caplog)) == sorted(
        f"model/{path.relative_to(tiny_folder).as_posix()}" for path in tiny_folder.rglob("*") if path.is_file()
    )
    backbone = load_backbone(f"{store.uri}/model", device="cpu")
    assert backbone.identity.digest == identify(str(tiny_folder)).digest
    assert reads(caplog) == []


def test_a_model_that_changed_is_copied_again(tiny_folder: Path, store: Store) -> None:
    upload(tiny_folder, store, "model")
    before = identify(f"{store.uri}/model")
    weights = bytearray((tiny_folder / "vae" / "diffusion_pytorch_model.safetensors").read_bytes())
    weights[-1] ^= 1
    store.write("model/vae/diffusion_pytorch_model.safetensors", bytes(weights))
    after = identify(f"{store.uri}/model")
    assert {name for name in before.files if before.files[name] != after.files[name]} == {
        "vae/diffusion_pytorch_model.safetensors"
    }


def test_a_single_file_has_its_configuration_beside_it(tiny_folder: Path, store: Store, tmp_path: Path) -> None:
    store.write("model.safetensors", b"weights")
    with pytest.raises(ModelError, match=f"needs its configuration.* into {store.uri}/model$"):
        locate(f"{store.uri}/model.safetensors")
    configuration = Path(
        shutil.copytree(tiny_folder, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    )
    upload(configuration, store, "model")
    files = locate(f"{store.uri}/model.safetensors")
    assert files.checkpoint is not None
    assert (files.id, files.checkpoint.read_bytes()) == ("model.safetensors", b"weights")


def test_a_lora_may_lie_on_s3(tiny_folder: Path, store: Store) -> None:
    store.write("look.safetensors", b"weights")
    (lora,) = locate(str(tiny_folder), loras=[f"{store.uri}/look.safetensors"]).loras
    assert (lora.name, lora.read_bytes()) == ("look.safetensors", b"weights")


def test_large_files_come_in_pieces(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsb.store.s3.PIECE", 3)
    store.write("look.safetensors", b"0123456789")
    assert download(f"{store.uri}/look.safetensors").read_bytes() == b"0123456789"


def test_what_cannot_be_loaded_is_named_by_its_uri(tiny_folder: Path, store: Store) -> None:
    with pytest.raises(ModelError, match=f"no model at {store.uri}/nothing"):
        locate(f"{store.uri}/nothing")
    with pytest.raises(ModelError, match=f"cannot read model {store.uri}/no.safetensors: no object"):
        locate(f"{store.uri}/no.safetensors")
    with pytest.raises(ModelError, match="no bucket no-such-bucket"):
        locate("s3://no-such-bucket/model")
    with pytest.raises(ModelError, match="is a whole bucket"):
        locate("s3://bucket/")
    upload(tiny_folder, store, "model")
    with pytest.raises(ModelError, match="has no revisions"):
        locate(f"{store.uri}/model", revision="main")
    store.delete("model/scheduler/scheduler_config.json")
    with pytest.raises(ModelError, match=f"^{store.uri}/model is no Stable Diffusion folder"):
        locate(f"{store.uri}/model")


def test_a_model_of_another_family_is_copied_as_that_says(store: Store) -> None:
    for name in ("words.safetensors", "notes.txt", "old/words.safetensors"):
        store.write(f"model/{name}", b"words")
    copy = download(f"{store.uri}/model", ["words.safetensors"])
    assert [path.name for path in copy.iterdir()] == ["words.safetensors"]
    store.delete("model/words.safetensors")
    store.write("model/words.ckpt", b"a pickle")
    with pytest.raises(UnsafeWeightsError, match="has only pickled weights"):
        download(f"{store.uri}/model", ["words.safetensors"])


def test_pickles_are_not_even_copied(tiny_folder: Path, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    upload(tiny_folder, store, "model")
    store.delete("model/unet/diffusion_pytorch_model.safetensors")
    store.write("model/unet/diffusion_pytorch_model.bin", b"a pickle")
    store.write("model.ckpt", b"a pickle")
    caplog.set_level(logging.DEBUG, logger="lsb.store.s3")
    for name in ("model", "model.ckpt"):
        with pytest.raises(UnsafeWeightsError, match="can run code"):
            locate(f"{store.uri}/{name}")
    assert reads(caplog) == []


@pytest.fixture
def proxy(object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[LyingProxy]:
    made = LyingProxy(object_server.endpoint)
    monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", made.endpoint)
    yield made
    made.close()


def test_a_copy_is_what_lies_there_whatever_is_answered_once(
    tiny_folder: Path, store: Store, proxy: LyingProxy
) -> None:
    upload(tiny_folder, store, "model")
    proxy.lies = {"LIST": [None, page()], "GET": [flipped, page(), page(404), None, None, flipped]}
    assert identify(f"{store.uri}/model") == identify(str(tiny_folder))
    assert proxy.told == 5


def test_bytes_that_are_others_each_time_are_no_model(tiny_folder: Path, store: Store, proxy: LyingProxy) -> None:
    upload(tiny_folder, store, "model")
    proxy.lies["GET"] = [flipped, lambda answer: flipped(replace(answer, body=answer.body[::-1]))]
    with pytest.raises(StoreBusyError, match="comes with other bytes each time"):
        identify(f"{store.uri}/model")


def test_what_is_left_of_a_copy_is_copied_again(tiny_folder: Path, store: Store) -> None:
    upload(tiny_folder, store, "model")
    copy = locate(f"{store.uri}/model").folder
    (weights,) = (copy / "unet").glob("*.safetensors")
    weights.write_bytes(b"")
    (copy / "vae" / "config.json").unlink()
    assert identify(f"{store.uri}/model") == identify(str(tiny_folder))
