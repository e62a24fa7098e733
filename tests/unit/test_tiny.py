"""The tiny model of the tests is a real Stable Diffusion folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from tests.tiny import IMAGE_SIZE, LATENT_SHAPE, tiny_model


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prediction_type": "v_prediction", "vae": "shifted", "zero_terminal_snr": True},
        {"scheduler": "pndm", "text_only_conditions": True, "latent_channels": 8},
    ],
)
def test_diffusers_loads_and_runs_it(tmp_path: Path, options: dict) -> None:
    folder = tiny_model(tmp_path / "model", **options)
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 2**22
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    channels = options.get("latent_channels", 4)
    latents = torch.zeros(1, channels, *LATENT_SHAPE[1:])
    result = pipeline("a flat icon of a DOG", num_inference_steps=2, latents=latents, output_type="np")
    assert result.images.shape == (1, IMAGE_SIZE, IMAGE_SIZE, 3)


def test_equal_arguments_give_equal_bytes(tmp_path: Path) -> None:
    one = tiny_model(tmp_path / "one")
    for number in range(4):
        assert digests(tiny_model(tmp_path / str(number))) == digests(one)
    assert digests(tiny_model(tmp_path / "other", seed=1)) != digests(one)
    assert not list(one.rglob("*.bin"))


def test_words_are_tokens_of_their_own_and_any_text_can_be_spelled(tiny_folder: Path) -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(tiny_folder / "tokenizer", local_files_only=True)
    assert tokenizer.tokenize("a flat icon") == ["a</w>", "flat</w>", "icon</w>"]
    ids = tokenizer("zebra ☃ <flat>").input_ids
    assert tokenizer.unk_token_id not in ids[1:-1]
