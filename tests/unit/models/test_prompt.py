"""Prompts: what they are, their files, and the exchange of learned embeddings with diffusers."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load, save, save_file

from lsb.errors import PromptError, UnsafeWeightsError
from lsb.models.prompt import Prompt, from_bytes, load_prompt, to_bytes
from lsb.models.stable_diffusion import StableDiffusion
from lsb.records import sha256
from lsb.store.store import Store


def vectors(count: int = 1, width: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_text() -> None:
    assert Prompt("a photo of a cat").text == "a photo of a cat"
    learned = Prompt("a {token} icon", "<flat>", vectors(), prefix="ugly, ")
    assert learned.text == "ugly, a <flat> icon"
    assert Prompt("a <flat> icon", "<flat>", vectors()).text == "a <flat> icon"


@pytest.mark.parametrize("prompt", [Prompt("a cat", prefix="ugly, "), Prompt("a {token}", "<x>", vectors(3), "no ")])
def test_files_come_back_as_they_were(prompt: Prompt, tmp_path: Path) -> None:
    data = to_bytes(prompt)
    again = from_bytes(data)
    assert again == prompt
    assert hash(again) == hash(prompt)
    assert to_bytes(again) == data
    assert prompt.id == sha256(data)
    (tmp_path / "prompt.safetensors").write_bytes(data)
    assert load_prompt(tmp_path / "prompt.safetensors") == prompt


def test_every_part_enters_the_id() -> None:
    prompt = Prompt("a {token}", "<x>", vectors())
    others = [
        dataclasses.replace(prompt, template="the {token}"),
        dataclasses.replace(prompt, prefix="ugly "),
        dataclasses.replace(prompt, token="<y>"),
        dataclasses.replace(prompt, vectors=vectors(seed=1)),
        Prompt("a <x>"),
    ]
    assert len({prompt.id, *(other.id for other in others)}) == 6
    assert prompt != others[0]
    assert prompt != "a <x>"


def test_vectors_are_a_copy() -> None:
    mine = vectors()
    prompt = Prompt("{token}", "<x>", mine)
    before = prompt.id
    mine.zero_()
    assert dataclasses.replace(prompt).id == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"template": ""}, "empty"),
        ({"template": "a {token}"}, "no token"),
        ({"template": "a {token}", "token": "<x>"}, "no vectors"),
        ({"template": "a {token}", "vectors": vectors()}, "no token"),
        ({"template": "a dog", "token": "<x>", "vectors": vectors()}, "does not contain its token"),
        ({"template": "a {token}", "token": "two words", "vectors": vectors()}, "one word"),
        ({"template": "a {token}", "token": "", "vectors": vectors()}, "one word"),
        ({"template": "{token}", "token": "<x>", "vectors": torch.tensor([[1.0, torch.nan]])}, "NaN or infinity"),
        ({"template": "{token}", "token": "<x>", "vectors": torch.tensor([[torch.inf]])}, "NaN or infinity"),
        ({"template": "{token}", "token": "<x>", "vectors": torch.zeros(4)}, r"shape \(4,\)"),
        ({"template": "{token}", "token": "<x>", "vectors": torch.zeros(1, 2, 3)}, r"shape \(1, 2, 3\)"),
        ({"template": "{token}", "token": "<x>", "vectors": torch.zeros(0, 3)}, r"shape \(0, 3\)"),
        ({"template": "{token}", "token": "<x>", "vectors": torch.zeros(2, 3).long()}, "int64"),
    ],
)
def test_bad_prompts(arguments: dict, message: str) -> None:
    with pytest.raises(PromptError, match=message) as caught:
        Prompt(**arguments)
    assert "\n" not in str(caught.value)


def test_bad_files(tmp_path: Path) -> None:
    good = to_bytes(Prompt("{token}", "<x>", vectors()))
    entry = b'"<x>":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = b"{" + entry + b"," + entry + b"}"
    cases = {
        b"": "neither",
        b"\x80\x04 a pickle": "neither",
        good[:-8]: "not valid safetensors",
        good[:40]: "cut short",
        struct.pack("<Q", 1 << 40) + b"{}": "cut short",
        struct.pack("<Q", 2) + b"{]": "not JSON",
        struct.pack("<Q", len(header)) + header + b"\0" * 4: "names a key twice",
        struct.pack("<Q", 26) + b'{"__metadata__":{"lsb":7}}': "metadata are no texts",
        save({"one": vectors(), "two": vectors()}): r"one embedding, this one 2 \(one, two\)",
        save({"<x>": torch.full((1, 4), torch.nan)}): "NaN",
        save({"<x>": torch.zeros(2, 3, 4)}): "shape",
        save({"<x>": torch.zeros(1, 4)}, {"lsb": '{"template":"a dog","prefix":""}'}): "does not contain its token",
        save({"<x>": torch.zeros(1, 4)}, {"lsb": '{"template":7,"prefix":""}'}): "as text",
        b'{"template":"a dog"}': "template and prefix",
        b'{"template":"a","template":"b","prefix":""}': "twice",
        b"[1, 2]": "template and prefix",
    }
    for data, message in cases.items():
        with pytest.raises(PromptError, match=message):
            from_bytes(data)
    (tmp_path / "bad.safetensors").write_bytes(good[:-8])
    with pytest.raises(PromptError, match=r"bad\.safetensors: "):
        load_prompt(tmp_path / "bad.safetensors")
    with pytest.raises(PromptError, match="cannot read prompt"):
        load_prompt(tmp_path / "missing.safetensors")
    (tmp_path / "learned_embeds.bin").write_bytes(b"\x80\x04")
    with pytest.raises(UnsafeWeightsError, match="is a pickle"):
        load_prompt(tmp_path / "learned_embeds.bin")


def test_a_prompt_file_at_a_uri(store: Store) -> None:
    prompt = Prompt("a {token}", "<flat>", vectors(2))
    store.write("prompts/flat.safetensors", to_bytes(prompt))
    uri = store.uri if "://" in store.uri else f"file://{store.uri}"
    assert load_prompt(f"{uri}/prompts/flat.safetensors") == prompt
    with pytest.raises(PromptError, match=f"cannot read prompt {uri}/prompts/no.safetensors: no object"):
        load_prompt(f"{uri}/prompts/no.safetensors")


@pytest.mark.parametrize("count", [1, 3])
def test_diffusers_reads_our_files(
    tiny_folder: Path, tiny_backbone: StableDiffusion, tmp_path: Path, count: int
) -> None:
    """Loaded there and here, the same text gives the same condition."""
    prompt = Prompt("a {token} icon of a dog", "<flat>", vectors(count))
    (tmp_path / "flat.safetensors").write_bytes(to_bytes(prompt))
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder, local_files_only=True)
    pipeline.load_textual_inversion(str(tmp_path), weight_name="flat.safetensors", local_files_only=True)
    expected, _ = pipeline.encode_prompt(prompt.text, "cpu", 1, do_classifier_free_guidance=False)
    assert torch.equal(tiny_backbone.embed(prompt), expected)
    assert not torch.equal(tiny_backbone.embed(Prompt("a dog icon of a dog")), expected)


@pytest.mark.parametrize("shape", [(32,), (1, 32), (4, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_we_read_common_files(
    tiny_folder: Path, tiny_backbone: StableDiffusion, tmp_path: Path, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """As diffusers' training scripts write them: one key, the token; one vector often without the first axis."""
    values = vectors(shape[0] if len(shape) == 2 else 1).view(shape).to(dtype)
    save_file({"<cat-toy>": values}, tmp_path / "learned_embeds.safetensors", {"format": "pt"})
    prompt = load_prompt(tmp_path / "learned_embeds.safetensors")
    assert (prompt.token, prompt.text, prompt.prefix) == ("<cat-toy>", "<cat-toy>", "")
    assert prompt.vectors is not None
    assert torch.equal(prompt.vectors, values.float().view(-1, 32))
    if dtype == torch.float32:
        pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder, local_files_only=True)
        pipeline.load_textual_inversion(str(tmp_path), local_files_only=True)
        expected, _ = pipeline.encode_prompt("<cat-toy> on a beach", "cpu", 1, do_classifier_free_guidance=False)
        there = dataclasses.replace(prompt, template="{token} on a beach")
        assert torch.equal(tiny_backbone.embed(there), expected)


def test_a_file_without_a_token_is_named_after_itself(tmp_path: Path) -> None:
    save_file({"emb_params": vectors(2)}, tmp_path / "flat-icons.safetensors")
    assert load_prompt(tmp_path / "flat-icons.safetensors").token == "<flat-icons>"
    assert load_prompt(tmp_path / "flat-icons.safetensors", token="<f>").token == "<f>"


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("Bad Hands 5", "<Bad-Hands-5>"),
        ("style (v2)", "<style-(v2)>"),
        (" two  spaces\u00a0wide ", "<two-spaces-wide>"),
        ("a{token}b", "<atokenb>"),
    ],
)
def test_a_file_name_that_is_no_token_gives_one(tmp_path: Path, name: str, token: str) -> None:
    save_file({"emb_params": vectors(2)}, tmp_path / f"{name}.safetensors")
    assert load_prompt(tmp_path / f"{name}.safetensors").token == token


def test_a_token_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    save_file({"<cat-toy>": vectors()}, tmp_path / "toy.safetensors")
    assert load_prompt(tmp_path / "toy.safetensors", token="<cat-toy>").token == "<cat-toy>"
    with pytest.raises(PromptError, match="token is <dog>, but the file names its embedding <cat-toy>; leave token"):
        load_prompt(tmp_path / "toy.safetensors", token="<dog>")
    (tmp_path / "text.json").write_bytes(to_bytes(Prompt("a cat")))
    with pytest.raises(PromptError, match="token is <dog>, but the file holds plain text"):
        load_prompt(tmp_path / "text.json", token="<dog>")


def test_an_embedding_for_another_kind_of_model_is_named(tmp_path: Path) -> None:
    save_file({"clip_l": torch.zeros(2, 768), "clip_g": torch.zeros(2, 1280)}, tmp_path / "xl.safetensors")
    with pytest.raises(PromptError, match=r"for SDXL \(clip_g, clip_l\); use one made for Stable Diffusion 1\.x"):
        load_prompt(tmp_path / "xl.safetensors")


def test_our_file_holds_one_key_and_readable_metadata(tmp_path: Path) -> None:
    file = tmp_path / "prompt.safetensors"
    file.write_bytes(to_bytes(Prompt("a {token}", "<x>", vectors(2), "no ")))
    assert list(load(file.read_bytes())) == ["<x>"]
    with safe_open(file, "pt") as handle:
        assert json.loads(handle.metadata()["lsb"]) == {"template": "a {token}", "prefix": "no "}


def test_a_token_used_twice(tiny_backbone: StableDiffusion) -> None:
    rows = tiny_backbone.table_vectors("red dog")
    twice = Prompt("{token} and {token}", "<x>", rows)
    assert torch.equal(tiny_backbone.embed(twice), tiny_backbone.embed(Prompt("red dog and red dog")))
