"""Learning a domain's prompt from unlabelled images: textual inversion of the new token's vectors, nothing else.

For each step: a template, a batch of latents x, a sigma for each (log-uniform, one from each stratum), unit noise
eps, and the loss

    (1 + sigma²) |eps_hat(x + sigma eps, sigma) - eps|²

Its two parts are the noise-prediction loss and, since x_hat - x = sigma (eps - eps_hat), the denoising loss. The first
alone hardly notices what a prompt changes at large sigma, where layout and colour are decided; the second alone
notices nothing else. For a v-prediction network the sum is its own training loss.

Randomness is a function of seed and step, and images are taken in the order of their digests. So the result depends
neither on the order of files nor on how often the work was interrupted.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NotRequired, Protocol, TypedDict, TypeVar

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from torch import Tensor

from lsb.bridge.settings import BridgeSettings
from lsb.errors import BridgeError, FrozenSettingsError, PromptError
from lsb.models.prompt import Prompt, names_and_words, with_words
from lsb.models.protocol import Backbone
from lsb.pictures.geometry import Geometry, sigma_scale
from lsb.progress import NoProgress, Progress
from lsb.prompts.course import Course, generator
from lsb.prompts.listening import audible_from, listen
from lsb.prompts.seen import Fitting, distinct, latents_of, views
from lsb.prompts.settings import FORWARDS_OF_A_STEP, LARGEST, LearningConfig
from lsb.records import digest_of
from lsb.redaction import redact

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

MAX_MISHAPS = 3
_HEARD, _LEVELS = 16, 7  # pictures and noise levels that it is found out with where words begin to matter
_LONG = 120.0  # seconds that are worth a word before
_BETA_1, _BETA_2, _TINY = 0.9, 0.999, 1e-8  # Adam
_TENSORS = ("vectors", "mean", "square", "best_vectors")


class Checkpoint(Protocol):
    """Where a half-learned prompt is kept: a safetensors file, replaced as a whole."""

    def load(self) -> tuple[bytes, bool] | None:
        """The last state, and whether it was learned from some of the images only."""
        ...

    def save(self, state: bytes, /) -> None: ...


class Look(TypedDict):
    """What one look at the held-out images showed."""

    step: int
    learning_rate: float
    training_loss: float | None  # mean since the look before
    validation_loss: float | None  # None if it is not finite


class Settings(TypedDict):
    """What a learned prompt depends on, as its checkpoint keeps it."""

    model: str
    dtype: str
    images: str  # digest of the images' digests
    token: str
    initial: str
    vectors: int
    learning: dict[str, Any]
    seed: str
    geometry: NotRequired[dict[str, Any]]  # none of the letterbox


@dataclass(frozen=True)
class LearnedPrompt:
    """A prompt and how it came about.

    Attributes:
        prompt: the vectors with the lowest validation loss, in the first of the templates.
        history: each look at the held-out images.
        best_step: the step whose vectors these are; 0 if training helped nothing.
        stopped_because: `steps` or `patience`.
        sigmas: between which the noise was, at the model's own area.
        begun_with: the step until which there were fewer images, None if there were not.
    """

    prompt: Prompt
    history: list[Look]
    best_step: int
    stopped_because: str
    sigmas: tuple[float, float]
    begun_with: int | None = None


@dataclass
class _State:
    """Everything that changes from step to step; together with the settings it fixes the rest of the run."""

    vectors: Tensor
    mean: Tensor
    square: Tensor
    best_vectors: Tensor
    learning_rate: float
    step: int = 0
    updates: int = 0
    mishaps: int = 0
    stale: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    history: list[Look] = field(default_factory=list)
    sigmas: Sequence[float] | None = None
    begun_with: int | None = None
    longest: float = math.inf  # of a vector


def learn_prompt(
    backbone: Backbone,
    images: Tensor | Iterable[Image.Image],
    token: str,
    initial: str,
    vectors: int,
    learning: LearningConfig,
    seed: str,
    *,
    geometry: Geometry = Geometry(),
    against: str = "",
    checkpoint: Checkpoint | None = None,
    progress: Progress = NoProgress(),
) -> LearnedPrompt:
    """Learn `vectors` vectors for `token` from images of one domain.

    Args:
        images: (N, 3, H, W) in [-1, 1], with sides that the backbone works at, or images of any size, see
            `Translator.translate`, of which no more is held than the network sees; equal ones count once.
        token: the new word, such as `<flat>`.
        initial: words in whose vectors the new ones begin.
        vectors: how many take the token's place.
        learning: steps, batch, templates, sigmas, validation; part of the images is held out for it.
        seed: of all randomness, as text.
        geometry: how the network sees images; the sigmas are meant at the model's own area, see there.
        against: words for another look. Where they differ from `initial`, sigma_min is not below where they begin to
            matter.
        checkpoint: where to keep the state after each validation, and to resume from.
        progress: one bar, `learn <token>`.

    Raises:
        ResourceError: not even one image at a time fits into memory.
        PromptError: fewer than two different images, the loss is not finite again and again, or a template or the
            initial words do not fit the text encoder.
        FrozenSettingsError: the checkpoint belongs to other settings; `fields` names them.
        BridgeError: sigma_max is above the model's.
    """
    geometry = geometry.as_seen
    scale = sigma_scale(geometry, backbone.canvas)
    if learning.sigma_max is not None and learning.sigma_max * scale > backbone.sigma_max:
        raise BridgeError(
            f"learning.sigma_max is {learning.sigma_max}; this model's noise schedule ends at "
            f"{backbone.sigma_max / scale:.6g}{'' if scale == 1.0 else ' at this geometry.area'}",
            field="learning.sigma_max",
        )
    pixels, digests = distinct(images, geometry, backbone.canvas, learning.max_images)
    start = _initial_vectors(backbone.table_vectors(initial), vectors)
    settings: Settings = {
        "model": backbone.identity.digest,
        "dtype": backbone.dtype,
        "images": digest_of(digests),
        "token": token,
        "initial": initial,
        "vectors": vectors,
        "learning": learning.trace,
        "seed": seed,
    }
    if (trace := geometry.trace) is not None:
        settings["geometry"] = trace
    state = _resume(checkpoint, settings) or _begun(backbone, start, learning)
    prompts = [Prompt(template, token, start) for template in learning.templates]
    held_out = min(max(1, round(learning.validation_fraction * len(pixels))), len(pixels) - 1)
    random = generator(seed, "views", 0)
    seen = [*pixels[:held_out], *views(pixels[held_out:], random, flip=learning.flip, crops=learning.crops)]
    latents = latents_of(backbone, seen, learning.batch)
    if state.sigmas is None:
        words = learning.templates[0].replace("{token}", initial), against
        state.sigmas = _sigmas(backbone, latents[: len(pixels)], words, learning, seed, scale)
    low, high = state.sigmas
    course = Course(backbone, prompts, latents[held_out:], latents[:held_out], learning, seed, (low, high), scale)
    stopped = _train(course, state, lambda: _save(checkpoint, state, settings), progress)
    prompt = Prompt(learning.templates[0], token, state.best_vectors)
    return LearnedPrompt(prompt, state.history, state.best_step, stopped, (low, high), state.begun_with)


def _begun(backbone: Backbone, start: Tensor, learning: LearningConfig) -> _State:
    """The state before the first step."""
    rate, longest = learning.learning_rate, math.inf
    if rate is None or learning.longest is not None:
        spread, length = backbone.table_scale()
        rate = learning.relative_rate * spread if rate is None else rate
        longest = length * (learning.longest or math.inf)
    zeros = torch.zeros_like(start)
    return _State(start, zeros, zeros.clone(), start.clone(), rate, longest=longest)


def _sigmas(
    backbone: Backbone,
    latents: Sequence[Tensor],
    words: tuple[str, str],
    learning: LearningConfig,
    seed: str,
    scale: float,
) -> tuple[float, float]:
    """Between which sigmas to learn where the settings leave it open.

    The largest sigma of the paper's bridge depends on the model alone, so that a prompt serves every tau. Below where
    words for another look raise the loss by half of what they do where they do most, the picture itself says how it
    looks, and a prompt would learn something else.
    """
    high = min(LARGEST, backbone.sigma_max / scale) if learning.sigma_max is None else learning.sigma_max
    if learning.sigma_min is not None:
        return learning.sigma_min, high
    side = backbone.canvas.side
    low = min(BridgeSettings.tau_for(backbone.latent_shape(side, side)[-1]) / 2, high / 2)
    right, wrong = words
    if not wrong.strip() or right == wrong:
        return low, high
    conditions = backbone.embed(Prompt(right)), backbone.embed(Prompt(wrong))
    levels = np.geomspace(low / 4, high, _LEVELS).tolist()
    heard = listen(backbone, latents[:_HEARD], *conditions, levels, seed=seed, scale=scale)
    return max(low, min(audible_from(heard) or low, high / 2)), high


def _train(course: Course, state: _State, save: Callable[[], None], progress: Progress) -> str:
    """Run until the steps are done or patience is at its end; `state` is left at the best."""
    learning, name = course.learning, f"learn {course.prompts[0].token}"
    if state.step:
        name += f", going on at step {state.step}"
    progress.start(name, learning.steps - state.step)
    fitting = Fitting(learning.batch)
    if state.begun_with == state.step:  # with other images held out, no loss of before says anything
        fitting.call(partial(_validate, course, state, None))
        save()
    if not state.history:
        began = time.monotonic()
        fitting.call(partial(_validate, course, state, None))
        _announce(course, time.monotonic() - began)
        save()
    losses: list[float] = []
    while state.step < learning.steps and state.stale < learning.patience:
        loss = fitting.call(partial(_step, course, state))
        losses += [loss] if math.isfinite(loss) else []
        progress.advance(name, loss=loss, best=state.best_loss)
        if state.step % learning.validate_every == 0 or state.step == learning.steps:
            mean = sum(losses) / len(losses) if losses else None
            fitting.call(partial(_validate, course, state, mean))
            losses = []
            save()
    progress.finish(name)
    return "patience" if state.stale >= learning.patience else "steps"


def expected_seconds(look: float, pictures: int, learning: LearningConfig) -> float:
    """How long all steps take, by what one look at `pictures` held-out ones took: a network forward for each.

    A step goes forward and back, which costs about three forwards.
    """
    looks = math.ceil(learning.steps / learning.validate_every)
    return looks * look + learning.steps * learning.batch * FORWARDS_OF_A_STEP * look / pictures


def _announce(course: Course, look: float) -> None:
    """Say that it takes long, where it does."""
    seconds = expected_seconds(look, course.looked_at, course.learning)
    if seconds >= _LONG:
        logger.warning(
            "learning %s takes about %.0f minutes at most, for %d steps; a prompt of words (`text`) takes none",
            course.prompts[0].token,
            seconds / 60,
            course.learning.steps,
        )


def _step(course: Course, state: _State, rows: int) -> float:
    """One update of the vectors by Adam; a loss or gradient that is not finite is skipped and halves the rate.

    Args:
        rows: that go through the network at a time; the gradients of a batch are added up.
    """
    vectors = state.vectors.clone().requires_grad_()
    loss, gradient = torch.zeros(()), torch.zeros_like(state.vectors)
    for number, term in enumerate(course.training_losses(state.step, vectors, rows)):
        (more,) = torch.autograd.grad(term, vectors)
        loss = term.detach() if number == 0 else loss + term.detach()
        gradient = more if number == 0 else gradient + more
        del term
    state.step += 1
    if not (torch.isfinite(loss) and torch.isfinite(gradient).all()):
        state.mishaps += 1
        state.learning_rate /= 2
        logger.warning("step %d: the loss is not finite; learning rate now %g", state.step, state.learning_rate)
        if state.mishaps >= MAX_MISHAPS:
            raise PromptError(
                f"learning {course.prompts[0].token} met a loss that is not finite {state.mishaps} times, last at step "
                f"{state.step}; use a smaller learning_rate or dtype float32"
            )
        return math.nan
    state.updates += 1
    state.mean = _BETA_1 * state.mean + (1 - _BETA_1) * gradient
    state.square = _BETA_2 * state.square + (1 - _BETA_2) * gradient**2
    mean = state.mean / (1 - _BETA_1**state.updates)
    square = state.square / (1 - _BETA_2**state.updates)
    vectors = state.vectors - state.learning_rate * mean / (square.sqrt() + _TINY)
    if math.isfinite(state.longest):
        vectors = vectors * (state.longest / vectors.norm(dim=1, keepdim=True).clamp_min(_TINY)).clamp_max(1)
    state.vectors = vectors
    return float(loss)


def _validate(course: Course, state: _State, training_loss: float | None, rows: int) -> None:
    loss = course.validation_loss(state.vectors, rows)
    if loss < state.best_loss:
        state.best_loss, state.best_step, state.stale = loss, state.step, 0
        state.best_vectors = state.vectors.clone()
    else:
        state.stale += 1
    entry: Look = {
        "step": state.step,
        "learning_rate": state.learning_rate,
        "training_loss": training_loss,
        "validation_loss": loss if math.isfinite(loss) else None,
    }
    state.history.append(entry)


def _initial_vectors(rows: Tensor, count: int) -> Tensor:
    """(V, D) from the vectors (n, D) of the initial words: means of V groups of them, or the words over again."""
    if count > len(rows):
        return rows[torch.arange(count) % len(rows)].clone()
    return torch.stack([group.mean(0) for group in rows.tensor_split(count)])


def _save(checkpoint: Checkpoint | None, state: _State, settings: Settings) -> None:
    if checkpoint is None:
        return
    tensors = {name: getattr(state, name).contiguous() for name in _TENSORS}
    numbers = {name: value for name, value in vars(state).items() if name not in _TENSORS}
    checkpoint.save(with_words(tensors, json.dumps({"settings": settings, "state": numbers})))


def _resume(checkpoint: Checkpoint | None, settings: Settings) -> _State | None:
    """The saved state, or None where there is none that can be read.

    Raises:
        FrozenSettingsError: it belongs to other settings.
    """
    loaded = None if checkpoint is None else checkpoint.load()
    if loaded is None:
        return None
    data, of_fewer = loaded
    try:
        saved = json.loads(names_and_words(data)[1] or "")
        values: dict[str, Any] = {**safetensors_torch.load(data), **saved["state"]}
        state = _State(**values)
    except (PromptError, SafetensorError, ValueError, KeyError, TypeError) as error:
        logger.warning("the checkpoint of the prompt cannot be read and is begun anew: %s", redact(str(error)))
        return None
    now = json.loads(json.dumps(settings))
    open_to_change = {"images"} if of_fewer else set()
    differing = sorted(key for key in now.keys() - open_to_change if saved["settings"].get(key) != now[key])
    if differing:
        raise FrozenSettingsError(
            f"the checkpoint of {settings['token']} was made with another {', '.join(differing)}; "
            "delete it, or go back to those settings",
            fields=differing,
        )
    if of_fewer:
        logger.warning("%s goes on at step %d, with more images than before", settings["token"], state.step)
        state.begun_with, state.stale, state.best_loss = state.step, 0, math.inf
        state.vectors = state.best_vectors.clone()
    return state
