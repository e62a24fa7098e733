"""Learning a prompt: the right gradient, the best vectors, the same result however often it was interrupted."""

from __future__ import annotations

import math
import re
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lsb.config.job import LearningConfig
from lsb.errors import BridgeError, FrozenSettingsError, PromptError
from lsb.models.prompt import Prompt
from lsb.models.stable_diffusion import StableDiffusion
from lsb.prompts.learning import expected_seconds, learn_prompt
from lsb.prompts.listening import Heard, audible_from, listen
from lsb.prompts.seen import views
from tests.unit.prompts.line import QUICK, Bars, Line, Memory, flat_colour, learn, pictures, same


def test_it_finds_the_vectors_that_are_known_to_be_best() -> None:
    settings = QUICK.model_copy(update={"steps": 400, "learning_rate": 0.01, "validate_every": 50})
    learned = learn(Line(), flat_colour((0.5, -0.3, 0.8)), settings)
    assert learned.prompt.vectors is not None
    assert torch.allclose(learned.prompt.vectors.sum(0), torch.tensor([0.5, -0.3, 0.8]), atol=0.01)
    assert learned.history[-1]["validation_loss"] < 1e-3 * learned.history[0]["validation_loss"]


def test_validation_loss_is_the_one_of_the_docstring() -> None:
    """Where eps_hat is off by (m - c) / sigma, the loss is (1 + sigma²) / sigma² |m - c|² at the strata's middles."""
    settings = QUICK.model_copy(update={"steps": 1})
    learned = learn(Line(), flat_colour((0.5, -0.3, 0.8), count=2), settings)
    low, high = math.log(settings.sigma_min), math.log(settings.sigma_max)
    sigmas = [math.exp(low + (high - low) * (number + 0.5) / 16) for number in range(16)]
    squares = (0.25 + 0.09 + 0.64) / 3
    expected = sum((1 + sigma**2) / sigma**2 * squares for sigma in sigmas) / 16
    assert learned.history[0]["validation_loss"] == pytest.approx(expected, rel=1e-4)


def test_it_improves_a_real_network_s_loss_and_is_deterministic(tiny_backbone: StableDiffusion) -> None:
    settings = QUICK.model_copy(update={"steps": 24, "batch": 8, "validate_every": 8, "learning_rate": 0.1})
    learned = learn(tiny_backbone, pictures(), settings)
    assert learned.prompt.text == settings.templates[0].replace("{token}", "<new>")
    assert learned.prompt.vectors is not None
    assert learned.prompt.vectors.shape == (2, 32)
    losses = [entry["validation_loss"] for entry in learned.history]
    assert [entry["step"] for entry in learned.history] == [0, 8, 16, 24]
    assert learned.stopped_because == "steps"
    assert min(losses) < losses[0]
    assert learned.best_step == learned.history[losses.index(min(losses))]["step"]
    torch.manual_seed(99)
    assert same(learned, learn(tiny_backbone, list(reversed(pictures())), settings))
    other = learn_prompt(tiny_backbone, pictures(), "<new>", "red dog", 2, settings, "8")
    assert other.prompt != learned.prompt


def test_only_the_vectors_change(tiny_backbone: StableDiffusion) -> None:
    networks = (tiny_backbone._unet, tiny_backbone._vae, tiny_backbone._text._encoder)
    before = [parameter.clone() for network in networks for parameter in network.parameters()]
    learn(tiny_backbone, pictures(4))
    after = [parameter for network in networks for parameter in network.parameters()]
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
    assert all(parameter.grad is None for parameter in after)


@pytest.mark.parametrize("dies_after", [1, 2, 3])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(tiny_backbone: StableDiffusion, dies_after: int) -> None:
    whole = learn(tiny_backbone, pictures())
    memory = Memory(dies_after=dies_after)
    with pytest.raises(KeyboardInterrupt):
        learn(tiny_backbone, pictures(), checkpoint=memory)
    resumed = learn(tiny_backbone, pictures(), checkpoint=memory)
    assert memory.saves == 4
    assert same(resumed, whole)
    # A finished run that is started again does nothing more.
    assert same(learn(tiny_backbone, pictures(), checkpoint=memory), whole)
    assert memory.saves == 4


def test_a_checkpoint_of_other_settings_is_refused() -> None:
    memory = Memory()
    learn(Line(), flat_colour((0.1, 0.2, 0.3)), checkpoint=memory)
    with pytest.raises(FrozenSettingsError, match="another images, learning") as caught:
        learn(Line(), flat_colour((0.1, 0.2, 0.4)), QUICK.model_copy(update={"batch": 2}), checkpoint=memory)
    assert caught.value.fields == ["images", "learning"]


@pytest.mark.parametrize("data", [b"", b"rubbish", b"\x02\0\0\0\0\0\0\0{}"])
def test_an_unreadable_checkpoint_is_begun_anew(data: bytes) -> None:
    images = flat_colour((0.1, 0.2, 0.3))
    assert same(learn(Line(), images, checkpoint=Memory(data)), learn(Line(), images))


def test_patience_keeps_the_best() -> None:
    """With a rate far too large the loss gets worse at once."""
    settings = QUICK.model_copy(update={"steps": 400, "learning_rate": 50.0, "patience": 3})
    learned = learn(Line(), flat_colour((0.0, 0.0, 0.0)), settings)
    assert learned.stopped_because == "patience"
    assert learned.best_step == 0
    assert [entry["step"] for entry in learned.history] == [0, 4, 8, 12]
    assert learned.prompt.vectors is not None
    assert torch.equal(learned.prompt.vectors, torch.zeros(2, 3))


def test_a_loss_that_is_not_finite_is_skipped_and_halves_the_rate() -> None:
    learned = learn(Line(broken=frozenset({2, 6})), flat_colour((0.5, -0.3, 0.8)))
    rates = [entry["learning_rate"] for entry in learned.history]
    assert rates == [0.02, 0.01, 0.005, 0.005]
    assert all(math.isfinite(entry["training_loss"]) for entry in learned.history[1:])
    assert learned.history[-1]["validation_loss"] < learned.history[0]["validation_loss"]


def test_the_third_such_loss_is_an_error() -> None:
    with pytest.raises(PromptError, match="not finite 3 times, last at step 9"):
        learn(Line(broken=frozenset({1, 5, 9})), flat_colour((0.5, -0.3, 0.8)))


def test_initial_vectors() -> None:
    class Table(Line):
        def table_vectors(self, text: str) -> torch.Tensor:
            return torch.arange(3.0 * len(text.split())).view(-1, 3)

    def start(initial: str, count: int) -> list[list[float]]:
        settings = QUICK.model_copy(update={"steps": 1, "learning_rate": 1e-30})
        images = flat_colour((0.0, 0.0, 0.0))
        learned = learn_prompt(Table(), images, "<n>", initial, count, settings, "0")  # type: ignore[arg-type]
        assert learned.prompt.vectors is not None
        return learned.prompt.vectors.tolist()

    assert start("one", 1) == [[0.0, 1.0, 2.0]]
    assert start("one two", 1) == [[1.5, 2.5, 3.5]]
    assert start("one two three", 2) == [[1.5, 2.5, 3.5], [6.0, 7.0, 8.0]]
    assert start("one two", 3) == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [0.0, 1.0, 2.0]]


def test_progress() -> None:
    bars = Bars()
    learn(Line(), flat_colour((0.5, -0.3, 0.8)), progress=bars)
    assert bars.calls[0] == ("start", ("learn <new>", 12))
    assert sum(value for name, value in bars.calls if name == "advance") == 12
    assert bars.calls[-1] == ("finish", "learn <new>")


def test_learning_that_goes_on_says_where(tiny_backbone: StableDiffusion) -> None:
    memory, bars = Memory(dies_after=2), Bars()
    with pytest.raises(KeyboardInterrupt):
        learn(tiny_backbone, pictures(), checkpoint=memory)
    learn(tiny_backbone, pictures(), checkpoint=memory, progress=bars)
    name, left = bars.calls[0][1]
    assert re.fullmatch(r"learn <new>, going on at step [1-9]\d*", name)
    assert left == sum(value for call, value in bars.calls if call == "advance")  # so that the pace is that of today
    assert bars.calls[-1] == ("finish", name)


def test_how_long_it_takes_is_reckoned_from_the_first_look() -> None:
    learning = LearningConfig(steps=100, batch=4, validate_every=50)
    assert expected_seconds(8.0, 16, learning) == 2 * 8 + 100 * 4 * 3 * 0.5


def test_learning_that_takes_long_says_so_before(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    learn(Line(), flat_colour((0.5, -0.3, 0.8)))
    assert "minutes" not in caplog.text
    minutes = count(0, 60)
    monkeypatch.setattr("lsb.prompts.learning.time", SimpleNamespace(monotonic=lambda: next(minutes)))
    learn(Line(), flat_colour((0.5, -0.3, 0.8)))
    assert "learning <new> takes about" in caplog.text
    assert f"minutes at most, for {QUICK.steps} steps" in caplog.text


def test_bad_requests(tiny_backbone: StableDiffusion) -> None:
    with pytest.raises(PromptError, match="1 different images"):
        learn(Line(), flat_colour((0.5, -0.3, 0.8), count=1).repeat(5, 1, 1, 1))
    with pytest.raises(BridgeError, match=r"sigma_max is 11.0; this model's noise schedule ends at 10"):
        learn(Line(), flat_colour((0.5, -0.3, 0.8)), QUICK.model_copy(update={"sigma_max": 11.0}))
    with pytest.raises(PromptError, match="no tokens"):
        learn(tiny_backbone, pictures(3), initial=" ")


def test_no_more_than_max_images_and_equal_ones_once() -> None:
    seen: list[int] = []

    class Counting(Line):
        def encode(self, images: torch.Tensor, eps: torch.Tensor | None = None) -> torch.Tensor:
            seen.append(len(images))
            return images

    images = flat_colour((0.5, -0.3, 0.8), count=9)
    learn(Counting(), torch.cat([images, images]), QUICK.model_copy(update={"max_images": 7}))
    assert sum(seen) == 7


def test_the_rate_is_a_share_of_the_tables_spread() -> None:
    learned = learn(Line(), flat_colour((0.5, -0.3, 0.8)), LearningConfig(steps=1, relative_rate=0.1))
    assert learned.history[0]["learning_rate"] == pytest.approx(0.1 * 0.5)


def test_vectors_stay_near_the_lengths_of_the_table() -> None:
    """In the direction that is best, and no longer than is allowed."""
    settings = QUICK.model_copy(update={"steps": 60, "learning_rate": 0.1, "longest": 0.04})
    learned = learn(Line(), flat_colour((3.0, 0.0, 0.0)), settings)
    assert learned.prompt.vectors is not None
    assert learned.prompt.vectors.norm(dim=1).tolist() == pytest.approx([0.4, 0.4], abs=1e-3)
    assert learned.prompt.vectors[:, 0].min() > 0.39


def test_mirrored_pictures_and_cut_outs_are_learned_from_and_not_judged_by() -> None:
    seen: list[int] = []

    class Counting(Line):
        def encode(self, images: torch.Tensor, eps: torch.Tensor | None = None) -> torch.Tensor:
            seen.append(len(images))
            return images

    images = flat_colour((0.5, -0.3, 0.8), count=5)  # of which one is held out
    plain = learn(Counting(), images)
    more = learn(Counting(), images, QUICK.model_copy(update={"flip": True, "crops": 2}))
    assert sum(seen) == 5 + 1 + 2 * 4 * 3
    assert more.history[0] == plain.history[0]
    assert same(more, learn(Line(), images.flip(0), QUICK.model_copy(update={"flip": True, "crops": 2})))


def test_views_are_parts_of_their_picture_and_mirrored() -> None:
    picture = Image.new("RGB", (40, 20), "red")
    picture.paste("blue", (0, 0, 20, 20))
    found = views([picture], np.random.default_rng(0), flip=True, crops=3)
    assert len(found) == 8
    assert {one.size for one in found if isinstance(one, Image.Image)} == {(40, 20)}
    assert found[4].getpixel((0, 5)) == (255, 0, 0)  # type: ignore[union-attr]
    assert found[4].getpixel((39, 5)) == (0, 0, 255)  # type: ignore[union-attr]
    tensor = torch.rand(3, 10, 12)
    assert [tuple(one.shape) for one in views([tensor], np.random.default_rng(0), flip=True, crops=1)] == [  # type: ignore[union-attr]
        (3, 10, 12)
    ] * 4


def test_a_range_that_is_left_open_follows_from_the_model() -> None:
    """The paper's largest sigma for latents of 4 x 4 is 2.3 / 2 x 4 / 64; the model ends at 10."""
    open_range = LearningConfig(steps=1, learning_rate=0.1, longest=None)
    assert learn(Line(), flat_colour((0.5, -0.3, 0.8)), open_range).sigmas == pytest.approx((0.071875, 8.0))
    narrow = Line()
    narrow.sigma_max = 3.0  # type: ignore[misc]
    assert learn(narrow, flat_colour((0.5, -0.3, 0.8)), open_range).sigmas[1] == 3.0


class Listener(Line):
    """Its answer is off by `wrong` under words other than the first, the more the nearer sigma is to 1."""

    def embed(self, prompt: Prompt, vectors: torch.Tensor | None = None) -> torch.Tensor:
        if vectors is None:
            return torch.full((1, 1, 3), 0.0 if prompt.text.startswith("red") else 1.0)
        return super().embed(prompt, vectors)

    def predict(self, x_t: torch.Tensor, sigma: Any, condition: torch.Tensor) -> Any:
        if isinstance(sigma, list):
            return super().predict(x_t, sigma, condition)
        rise = math.exp(-(math.log(sigma) ** 2)) * condition.mean()
        return x_t * 0 + math.sqrt(1 + rise) / sigma  # of which eps is no part: losses are (1 + rise) to chance


def test_no_prompt_is_learned_where_words_hardly_matter() -> None:
    """By half of what they do at the best sigma, exp(-log² sigma) = 1/2 at sigma = 0.435."""
    backbone = Listener()
    images = torch.zeros(20, 3, 4, 4)
    heard = listen(
        backbone, [*images], *(backbone.embed(Prompt(word)) for word in ("red", "blue")), (0.3, 1.0), seed="0"
    )  # type: ignore[arg-type]
    assert [round(one.rise, 1) for one in heard] == pytest.approx([0.2, 0.5], abs=0.15)  # less by noise, 1 + sigma²
    found = [Heard(s, 1.0, math.exp(-(math.log(s) ** 2)), 0.01) for s in (0.1, 0.25, 0.5, 1, 2, 4)]
    assert audible_from(found) == pytest.approx(0.435, abs=0.02)
    assert audible_from(found[3:]) == 1
    assert audible_from([Heard(s, 1.0, 0.01, 0.01) for s in (0.5, 1.0)]) is None
    learned = learn(
        Listener(),
        flat_colour((0.5, -0.3, 0.8), 20),
        LearningConfig(steps=1, learning_rate=0.1, longest=None),
        against="blue",
    )
    assert learned.sigmas[0] > 0.2


def test_more_pictures_go_on_from_what_was_learned_of_fewer() -> None:
    """From its best vectors, and by losses of the pictures that are held out now."""
    memory = Memory(dies_after=3)
    images = flat_colour((0.5, -0.3, 0.8), 9)
    with pytest.raises(KeyboardInterrupt):
        learn(Line(), images[:6], checkpoint=memory)
    memory.of_fewer, memory.dies_after = True, None
    learned = learn(Line(), images, checkpoint=memory)
    assert learned.begun_with == 8
    assert [look["step"] for look in learned.history] == [0, 4, 8, 8, 12]
    memory.of_fewer = False  # what was saved is the state of these images
    assert same(learn(Line(), images, checkpoint=memory), learned)
    other = Memory(memory.data, of_fewer=True)
    with pytest.raises(FrozenSettingsError, match="another learning"):
        learn(Line(), images, QUICK.model_copy(update={"batch": 2}), checkpoint=other)
