"""What is known of a model before its weights are read is what the loaded model says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from diffusers import DDIMScheduler

from lsb.bridge.schedule import NoiseSchedule
from lsb.errors import ModelError, PromptError
from lsb.models.facts import largest_sigma
from lsb.models.load import facts_of, load_backbone
from lsb.models.prompt import Prompt
from lsb.models.stable_diffusion import StableDiffusion
from tests.tiny import LATENT_SHAPE, tiny_model

SCHEDULERS: list[dict[str, Any]] = [
    {},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "rescale_betas_zero_snr": True},
    {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 100},
    {"trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.mark.parametrize("settings", SCHEDULERS, ids=str)
def test_the_largest_sigma_is_that_of_diffusers(settings: dict[str, Any]) -> None:
    schedule = NoiseSchedule.of(DDIMScheduler(**settings).alphas_cumprod.double().tolist())
    assert largest_sigma(settings) == pytest.approx(schedule.sigma_max, rel=1e-4)
    assert largest_sigma({"_class_name": "Any", **settings}) == largest_sigma(settings)


@pytest.mark.parametrize(
    "settings", [{"beta_schedule": "of its own"}, {"beta_start": "low"}, {"trained_betas": []}, {"beta_end": 2.0}]
)
def test_of_another_schedule_nothing_is_known(settings: dict[str, Any]) -> None:
    assert largest_sigma(settings) is None


def test_a_folder_says_what_the_network_says(model: Path, tiny_backbone: StableDiffusion) -> None:
    facts = facts_of(str(model))
    assert facts is not None
    assert facts.sigma_max == pytest.approx(tiny_backbone.sigma_max, rel=1e-4)
    assert facts.latent_side == LATENT_SHAPE[1]


@pytest.mark.parametrize("words", ["icon " * 200, "ICON, " * 40, "ﷺ" * 30, "a " * 75, "é" * 20])
def test_a_prompt_is_too_long_just_where_the_network_says_so(model: Path, words: str) -> None:
    facts, backbone = facts_of(str(model)), load_backbone(str(model), device="cpu")
    assert facts is not None
    texts = [words, *(words[:cut] for cut in range(len(words) // 2, len(words), len(words) // 6))]
    found = [facts.tokens([text], 0) > facts.longest for text in texts]
    assert found == [_is_refused(backbone, text) for text in texts]


def _is_refused(backbone: Any, text: str) -> bool:
    try:
        backbone.embed(Prompt(text))
    except PromptError:
        return True
    return False


def test_vectors_take_places(model: Path) -> None:
    facts = facts_of(str(model))
    assert facts is not None
    assert facts.tokens(["a", "b"], facts.longest - 2) == facts.longest
    assert facts.tokens(["a", "b"], facts.longest - 1) == facts.longest + 1


def test_a_tokenizer_that_is_damaged_is_named(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    config = folder / "tokenizer" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text())))
    facts = facts_of(str(folder))
    assert facts is not None
    assert facts.tokens(["short"], 0) == 5
    with pytest.raises(ModelError, match="cannot load the tokenizer of model"):
        facts.tokens(["long " * 100], 0)
