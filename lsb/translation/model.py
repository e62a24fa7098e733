"""What a shard asks of the model: a batch of images in, translations and their scores out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from lsb.errors import LsbError, OutOfMemoryError, TranslationError
from lsb.memory import free_memory, is_out_of_memory
from lsb.metrics.pixels import reduced
from lsb.pictures.geometry import Frame
from lsb.pictures.tiles import Tiles

Images = Sequence[Image.Image]
MaybeImages = Sequence[Image.Image | None]


@dataclass(frozen=True)
class Task:
    """What the model is given of one image.

    Attributes:
        image: at the size that the network works at.
        digest: SHA-256 of the source file.
        frame: what becomes of the network's picture.
        source: the source, as far as it is measured.
        truth: what a perfect translation would be, likewise; None where nobody knows.
    """

    image: Image.Image
    digest: str
    frame: Frame
    source: Image.Image
    truth: Image.Image | None = None

    @property
    def held_bytes(self) -> int:
        """Of its pixels, three a pixel."""
        images = (self.image, self.source, self.truth)
        return sum(3 * image.width * image.height for image in images if image is not None)


Tasks = Sequence[Task]
Question = tuple[Tasks, int | None]  # and how many at a time


class Translates(Protocol):
    """What is needed of `lsb.translation.engine.Engine`."""

    @property
    def batch(self) -> int: ...

    def translate(
        self,
        images: Images,
        digests: Sequence[str],
        *,
        batch: int | None = None,
        tiles: Tiles | None = None,
        alive: Callable[[], None] = ...,
    ) -> list[Image.Image]: ...


class ScoresImages(Protocol):
    """What is needed of `lsb.metrics.scores.Scorer`; each result has `.values` and `.features`."""

    def score(self, sources: Images, outputs: Images, truths: MaybeImages) -> Sequence[Any]: ...


@dataclass(frozen=True)
class Made:
    """What the model made of one image; `image` has the size that the network works at."""

    image: Image.Image
    scores: Any = None  # `.values` and `.features`; None where nothing was measured
    unscored: LsbError | None = None  # why scores are missing
    # Its share of the time that the model was at work on what it was asked.
    seconds: float | None = field(default=None, compare=False)


class MakesImages(Protocol):
    """What a shard needs: a `Model`, here or in a process of its own."""

    @property
    def batch(self) -> int: ...

    def make(self, tasks: Tasks, *, batch: int | None = None, alive: Callable[[], None] = ...) -> list[Made]: ...


@runtime_checkable
class AsksAhead(MakesImages, Protocol):
    """One that takes a question while it works on another."""

    def begin(
        self, tasks: Tasks, *, batch: int | None = None, alive: Callable[[], None] = ...
    ) -> Callable[[], list[Made]]:
        """Ask without waiting: what gives what `make` would give, or raises what that would raise."""
        ...


@dataclass(frozen=True)
class Model:
    """Translates, and scores what it has translated."""

    translator: Translates
    scorer: ScoresImages | None = None

    @property
    def batch(self) -> int:
        """Images at a time."""
        return self.translator.batch

    def make(self, tasks: Tasks, *, batch: int | None = None, alive: Callable[[], None] = lambda: None) -> list[Made]:
        """Translations of images of one size, and their scores, in order; errors as `Translates.translate` has them.

        An output that cannot be scored is still an output.

        Args:
            batch: images at a time, by default the translator's own.
            alive: called after each batch of tiles; what it raises is raised.
        """
        outputs, measured = self.answers((tasks, batch), alive)
        return joined(outputs, *measured)

    def answers(self, question: Question, alive: Callable[[], None] = lambda: None) -> Iterator[Any]:
        """The outputs and then, of each, the scores or the error that stands for them, with the seconds that both took.

        Args:
            alive: called after each batch of tiles.
        """
        tasks, batch = question
        begun = time.perf_counter()
        options: dict[str, Any] = {} if batch in (None, self.batch) else {"batch": batch}
        if tasks and tasks[0].frame.tiles is not None:
            options |= {"tiles": tasks[0].frame.tiles, "alive": alive}
        outputs = self.translator.translate([task.image for task in tasks], [task.digest for task in tasks], **options)
        if len(outputs) != len(tasks):
            raise ValueError(f"{len(outputs)} outputs for {len(tasks)} images")
        seconds = time.perf_counter() - begun
        yield outputs
        begun = time.perf_counter()
        scores = self._scores(tasks, outputs)
        yield scores, seconds + time.perf_counter() - begun

    def _scores(self, tasks: Tasks, outputs: Images) -> list[Any]:
        if self.scorer is None:
            return [None] * len(outputs)
        try:
            sources, truths = [task.source for task in tasks], [task.truth for task in tasks]
            made = [reduced(task.frame.finish(output)) for task, output in zip(tasks, outputs, strict=True)]
            return list(self.scorer.score(sources, made, truths))
        except Exception as error:  # noqa: BLE001  it becomes what the result says
            problem = portable(error)
        if isinstance(problem, OutOfMemoryError):  # only now does no traceback hold on to what was in the memory
            free_memory()
        if len(outputs) == 1:
            return [problem]
        pairs = zip(tasks, outputs, strict=True)
        return [score for task, output in pairs for score in self._scores([task], [output])]


def joined(outputs: Images, scores: Sequence[Any], seconds: float | None) -> list[Made]:
    """One result for each output, of both answers to a question."""
    share = None if seconds is None else seconds / len(outputs)
    return [
        Made(output, unscored=score, seconds=share) if isinstance(score, LsbError) else Made(output, score, None, share)
        for output, score in zip(outputs, scores, strict=True)
    ]


def portable(error: Exception) -> LsbError:
    """The error as one that survives the way to another process."""
    if isinstance(error, LsbError):
        return error
    kind = OutOfMemoryError if is_out_of_memory(error) else TranslationError
    return kind(f"{type(error).__name__}: {error}")
