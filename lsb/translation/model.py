"""What a shard asks of the model: a batch of images in, translations and their scores out."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from lsb.errors import LsbError, OutOfMemoryError, TranslationError

Images = Sequence[Image.Image]
MaybeImages = Sequence[Image.Image | None]
Question = tuple[Images, Sequence[str], MaybeImages, int | None]  # images, their digests and truths, batch


class Translates(Protocol):
    """What is needed of `lsb.translation.translator.Translator`."""

    @property
    def batch(self) -> int: ...

    def translate(
        self, images: Images, digests: Sequence[str] | None = None, *, batch: int | None = None
    ) -> list[Image.Image]: ...


class ScoresImages(Protocol):
    """What is needed of `lsb.metrics.scores.Scorer`; each result has `.values` and `.features`."""

    def score(self, sources: Images, outputs: Images, truths: MaybeImages) -> Sequence[Any]: ...


@dataclass(frozen=True)
class Made:
    """What the model made of one image."""

    image: Image.Image
    scores: Any = None  # `.values` and `.features`; None where nothing was measured
    unscored: LsbError | None = None  # why scores are missing


class MakesImages(Protocol):
    """What a shard needs: a `Model`, here or in a process of its own."""

    @property
    def batch(self) -> int: ...

    def make(
        self, images: Images, digests: Sequence[str], truths: MaybeImages, *, batch: int | None = None
    ) -> list[Made]: ...


@dataclass(frozen=True)
class Model:
    """Translates, and scores what it has translated."""

    translator: Translates
    scorer: ScoresImages | None = None

    @property
    def batch(self) -> int:
        """Images at a time."""
        return self.translator.batch

    def make(
        self, images: Images, digests: Sequence[str], truths: MaybeImages, *, batch: int | None = None
    ) -> list[Made]:
        """Translations and scores in the order of the images; errors as `Translates.translate` has them.

        An output that cannot be scored is still an output.

        Args:
            digests: SHA-256 of each source file.
            truths: what a perfect translation would be, None where nobody knows.
            batch: images at a time, by default the translator's own.
        """
        outputs, scores = self.answers((images, digests, truths, batch))
        return joined(outputs, scores)

    def answers(self, question: Question) -> Iterator[list[Any]]:
        """The outputs and then, of each, the scores or the error that stands for them."""
        images, digests, truths, batch = question
        options = {} if batch in (None, self.batch) else {"batch": batch}
        outputs = self.translator.translate(images, digests, **options)
        if len(outputs) != len(images):
            raise ValueError(f"{len(outputs)} outputs for {len(images)} images")
        yield outputs
        yield self._scores(images, outputs, truths)

    def _scores(self, images: Images, outputs: Images, truths: MaybeImages) -> list[Any]:
        if self.scorer is None:
            return [None] * len(outputs)
        try:
            return list(self.scorer.score(images, outputs, truths))
        except Exception as error:  # noqa: BLE001  it becomes what the result says
            problem = portable(error)
        if isinstance(problem, OutOfMemoryError):  # only now does no traceback hold on to what was in the memory
            free_memory()
        if len(outputs) == 1:
            return [problem]
        triples = zip(images, outputs, truths, strict=True)
        return [score for source, output, truth in triples for score in self._scores([source], [output], [truth])]


def joined(outputs: Images, scores: Sequence[Any]) -> list[Made]:
    """One result for each output, of both answers to a question."""
    return [
        Made(output, unscored=score) if isinstance(score, LsbError) else Made(output, score)
        for output, score in zip(outputs, scores, strict=True)
    ]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory did not suffice, the host's or an accelerator's."""
    if isinstance(error, MemoryError | OutOfMemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    words = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def portable(error: Exception) -> LsbError:
    """The error as one that survives the way to another process."""
    if isinstance(error, LsbError):
        return error
    kind = OutOfMemoryError if is_out_of_memory(error) else TranslationError
    return kind(f"{type(error).__name__}: {error}")


def free_memory() -> None:
    """Give back what nobody holds on to any more, an accelerator's memory too."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
