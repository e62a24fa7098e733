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

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NotRequired, Protocol, TypedDict, TypeVar

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from torch import Tensor

from lsb.bridge.noise import unit_noise
from lsb.errors import BridgeError, FrozenSettingsError, PromptError, ResourceError
from lsb.memory import free_memory, is_out_of_memory
from lsb.models.prompt import Prompt, names_and_words, with_words
from lsb.models.protocol import Backbone
from lsb.pictures.geometry import Canvas, Geometry, frame_of, sigma_scale
from lsb.pictures.images import pixels_sha256, to_rgb, to_tensor
from lsb.progress import NoProgress, Progress
from lsb.prompts.settings import LearningConfig
from lsb.records import digest_of, sha256
from lsb.redaction import redact

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

MAX_MISHAPS = 3
_VALIDATION_DRAWS = 16
_FORWARDS_OF_A_STEP, _LONG = 3, 120.0  # of each picture; seconds that are worth a word before
_BETA_1, _BETA_2, _TINY = 0.9, 0.999, 1e-8  # Adam
_TENSORS = ("vectors", "mean", "square", "best_vectors")


class Checkpoint(Protocol):
    """Where a half-learned prompt is kept: a safetensors file, replaced as a whole."""

    def load(self) -> bytes | None: ...

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
    """

    prompt: Prompt
    history: list[Look]
    best_step: int
    stopped_because: str


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
    if learning.sigma_max * scale > backbone.sigma_max:
        raise BridgeError(
            f"learning.sigma_max is {learning.sigma_max}; this model's noise schedule ends at "
            f"{backbone.sigma_max / scale:.6g}{'' if scale == 1.0 else ' at this geometry.area'}",
            field="learning.sigma_max",
        )
    pixels, digests = _distinct(images, geometry, backbone.canvas, learning.max_images)
    start = _initial_vectors(backbone.table_vectors(initial), vectors)
    settings: Settings = {
        "model": backbone.identity.digest,
        "dtype": backbone.dtype,
        "images": digest_of(digests),
        "token": token,
        "initial": initial,
        "vectors": vectors,
        "learning": learning.model_dump(mode="json"),
        "seed": seed,
    }
    if (trace := geometry.trace) is not None:
        settings["geometry"] = trace
    state = _resume(checkpoint, settings) or _State(
        start, torch.zeros_like(start), torch.zeros_like(start), start.clone(), learning.learning_rate
    )
    prompts = [Prompt(template, token, start) for template in learning.templates]
    latents = _latents(backbone, pixels, learning.batch)
    held_out = min(max(1, round(learning.validation_fraction * len(latents))), len(latents) - 1)
    course = _Course(backbone, prompts, latents[held_out:], latents[:held_out], learning, seed, scale)
    stopped = _train(course, state, lambda: _save(checkpoint, state, settings), progress)
    prompt = Prompt(learning.templates[0], token, state.best_vectors)
    return LearnedPrompt(prompt, state.history, state.best_step, stopped)


@dataclass(frozen=True)
class _Course:
    """What stays the same during the learning: the model, the latents, each (C, h, w), the settings."""

    backbone: Backbone
    prompts: Sequence[Prompt]
    training: Sequence[Tensor]
    validation: Sequence[Tensor]
    learning: LearningConfig
    seed: str
    scale: float  # of all sigmas

    def training_losses(self, step: int, vectors: Tensor, rows: int) -> Iterator[Tensor]:
        """The loss of one batch as a sum of terms of at most so many rows each; a function of seed and step alone."""
        draw = _generator(self.seed, "draw", step)
        count = self.learning.batch
        chosen = draw.choice(len(self.training), count, replace=len(self.training) < count)
        strata = (draw.permutation(count) + draw.random(count)) / count
        prompt = self.prompts[int(draw.integers(len(self.prompts)))]
        latents = [self.training[row] for row in chosen]
        losses = self._losses(latents, strata, "noise", step, prompt, vectors, rows)
        if rows >= count:
            yield torch.cat([*losses]).mean()
        else:
            for some in losses:
                yield some.sum() / count

    @property
    def looked_at(self) -> int:
        """How many rows the network is asked for in a look at the held-out images."""
        return math.ceil(_VALIDATION_DRAWS / len(self.validation)) * len(self.validation)

    @torch.no_grad()
    def validation_loss(self, vectors: Tensor, rows: int) -> float:
        """The loss over the held-out images, at the same noise and sigmas each time, in the template to be used."""
        latents = [*self.validation] * (self.looked_at // len(self.validation))
        strata = (_generator(self.seed, "validation", 0).permutation(len(latents)) + 0.5) / len(latents)
        size = self.learning.batch
        losses = [
            some
            for start in range(0, len(latents), size)
            for some in self._losses(
                latents[start : start + size],
                strata[start : start + size],
                "validation",
                start // size,
                self.prompts[0],
                vectors,
                rows,
            )
        ]
        return float(torch.cat(losses).double().mean())

    def _losses(
        self,
        latents: Sequence[Tensor],
        strata: np.ndarray,
        purpose: str,
        step: int,
        prompt: Prompt,
        vectors: Tensor,
        rows: int,
    ) -> Iterator[Tensor]:
        """The loss of each row, in some order; `strata` in [0, 1] say where between sigma_min and sigma_max.

        Rows of one shape go through the network together, at most so many at a time.
        """
        alike: dict[torch.Size, list[int]] = {}
        for place, latent in enumerate(latents):
            alike.setdefault(latent.shape, []).append(place)
        for number, places in enumerate(alike.values()):
            x = torch.stack([latents[place] for place in places])
            which = purpose if number == 0 else f"{purpose}/{number}"
            noisy = self._noisy(x, strata[places], which, step)
            for some, eps, sigmas in zip(*(values.split(rows) for values in noisy), strict=True):
                yield self._losses_of(some, eps, sigmas, prompt, vectors)

    def _noisy(self, x: Tensor, strata: np.ndarray, purpose: str, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (B, C, h, w), their noise, and their sigmas (B,) in float64."""
        low, high = math.log(self.learning.sigma_min), math.log(self.learning.sigma_max)
        sigmas = np.exp(low + (high - low) * strata) * self.scale
        eps = unit_noise(x.shape, seed=self.seed, digest="learning", purpose=purpose, step=step).to(x)
        return x, eps, torch.from_numpy(sigmas)

    def _losses_of(self, x: Tensor, eps: Tensor, sigmas: Tensor, prompt: Prompt, vectors: Tensor) -> Tensor:
        sigma = sigmas.to(x).view(-1, 1, 1, 1)
        condition = self.backbone.embed(prompt, vectors)
        eps_hat = self.backbone.predict(x + sigma * eps, sigmas.tolist(), condition)
        return ((1 + sigma**2) * (eps_hat - eps) ** 2).flatten(1).mean(1)


def _train(course: _Course, state: _State, save: Callable[[], None], progress: Progress) -> str:
    """Run until the steps are done or patience is at its end; `state` is left at the best."""
    learning, name = course.learning, f"learn {course.prompts[0].token}"
    if state.step:
        name += f", going on at step {state.step}"
    progress.start(name, learning.steps - state.step)
    fitting = _Fitting(learning.batch)
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
    return looks * look + learning.steps * learning.batch * _FORWARDS_OF_A_STEP * look / pictures


def _announce(course: _Course, look: float) -> None:
    """Say that it takes long, where it does."""
    seconds = expected_seconds(look, course.looked_at, course.learning)
    if seconds >= _LONG:
        logger.warning(
            "learning %s takes about %.0f minutes at most, for %d steps; a prompt of words (`text`) takes none",
            course.prompts[0].token,
            seconds / 60,
            course.learning.steps,
        )


@dataclass
class _Fitting:
    """How many rows fit into memory at a time: all of a batch until it turns out that they do not."""

    rows: int

    def call(self, act: Callable[[int], Result]) -> Result:
        """What `act(rows)` gives, which changes nothing before it has all that it calculates.

        Raises:
            ResourceError: one row is too many.
        """
        while True:
            try:
                return act(self.rows)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                problem = redact(str(error))
            free_memory()  # of which no traceback holds any more
            if self.rows == 1:
                raise ResourceError(
                    f"learning a prompt does not fit into memory, not even one picture at a time ({problem}); free "
                    "memory, or use a smaller geometry.area or another dtype"
                )
            self.rows = -(-self.rows // 2)
            logger.warning("learning does not fit into memory; from now on %d rows at a time: %s", self.rows, problem)


def _step(course: _Course, state: _State, rows: int) -> float:
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
    state.vectors = state.vectors - state.learning_rate * mean / (square.sqrt() + _TINY)
    return float(loss)


def _validate(course: _Course, state: _State, training_loss: float | None, rows: int) -> None:
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


def _distinct(
    images: Tensor | Iterable[Image.Image], geometry: Geometry, canvas: Canvas, limit: int
) -> tuple[list[Tensor | Image.Image], list[str]]:
    """The first `limit` different images in the order of their digests, as the network sees them, and the digests."""
    by_digest: dict[str, Tensor | Image.Image]
    if isinstance(images, Tensor):
        by_digest = {sha256(row.contiguous().cpu().float().numpy().tobytes()): row.float() for row in images}
    else:
        seen = (frame_of(image.size, geometry, canvas).prepare(image) for image in map(to_rgb, images))
        by_digest = {pixels_sha256(image): image for image in seen}
    digests = sorted(by_digest)[:limit]
    if len(digests) < 2:
        raise PromptError(f"{len(digests)} different images to learn from; at least 2 are needed, better 100")
    return [by_digest[digest] for digest in digests], digests


def _latents(backbone: Backbone, images: Sequence[Tensor | Image.Image], batch: int) -> list[Tensor]:
    """The latent (C, h, w) of each; images of one size are encoded together, `batch` at a time or as many as fit."""
    fitting = _Fitting(batch)
    alike: dict[tuple[int, ...], list[int]] = {}
    for place, image in enumerate(images):
        alike.setdefault(tuple(image.shape) if isinstance(image, Tensor) else image.size, []).append(place)
    latents: dict[int, Tensor] = {}
    for places in alike.values():
        encoded: list[Tensor] = []
        while left := places[len(encoded) :]:
            encoded += fitting.call(partial(_encoded, backbone, [_pixels(images[place]) for place in left[:batch]]))
        latents |= dict(zip(places, encoded, strict=True))
    return [latents[place] for place in range(len(images))]


def _encoded(backbone: Backbone, pixels: Sequence[Tensor], rows: int) -> Tensor:
    return backbone.encode(torch.stack([*pixels[:rows]]))


def _pixels(image: Tensor | Image.Image) -> Tensor:
    return image if isinstance(image, Tensor) else to_tensor([image])[0]


def _initial_vectors(rows: Tensor, count: int) -> Tensor:
    """(V, D) from the vectors (n, D) of the initial words: means of V groups of them, or the words over again."""
    if count > len(rows):
        return rows[torch.arange(count) % len(rows)].clone()
    return torch.stack([group.mean(0) for group in rows.tensor_split(count)])


def _generator(seed: str, purpose: str, step: int) -> np.random.Generator:
    key = np.frombuffer(hashlib.sha256(f"{seed}/{purpose}/{step}".encode()).digest()[:16], dtype="<u8")
    return np.random.Generator(np.random.Philox(key=key.astype(np.uint64)))


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
    data = None if checkpoint is None else checkpoint.load()
    if data is None:
        return None
    try:
        saved = json.loads(names_and_words(data)[1] or "")
        values: dict[str, Any] = {**safetensors_torch.load(data), **saved["state"]}
        state = _State(**values)
    except (PromptError, SafetensorError, ValueError, KeyError, TypeError) as error:
        logger.warning("the checkpoint of the prompt cannot be read and is begun anew: %s", redact(str(error)))
        return None
    now = json.loads(json.dumps(settings))
    differing = sorted(key for key in now if saved["settings"].get(key) != now[key])
    if differing:
        raise FrozenSettingsError(
            f"the checkpoint of {settings['token']} was made with another {', '.join(differing)}; "
            "delete it, or go back to those settings",
            fields=differing,
        )
    return state
