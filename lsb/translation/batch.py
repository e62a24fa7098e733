"""A batch through the model, and whose fault it is if that fails.

runs out of memory     halved and tried again, down to one image
fails otherwise        its images run one by one
one image alone        one that ends the model's process is tried once more, with a batch of one, in case it was
                       memory that the system took the process for; everything else is what its row says
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from lsb.errors import CannotStartError, LsbError, ModelDiedError, OutOfMemoryError, TranslationError, UnfinishedError
from lsb.ledger.schemas import ManifestRow, PlanRow
from lsb.memory import is_out_of_memory
from lsb.pictures.output import Kept
from lsb.redaction import redact
from lsb.store.usage import Usage
from lsb.translation.hints import Hints
from lsb.translation.model import AsksAhead, Made, MakesImages, Task

logger = logging.getLogger(__name__)

DEATHS = 2  # a record that has ended so many processes is not tried again


@dataclass(frozen=True)
class Picture:
    """A readable source: one image, and every planned record that has these bytes."""

    members: list[PlanRow]
    read: ManifestRow  # what is now known of the source, by the manifest's column names
    task: Task
    kept: Kept = field(default_factory=Kept)
    usage: Usage = field(default_factory=Usage)  # of reading it

    @property
    def held_bytes(self) -> int:
        """Of what waits in memory."""
        return self.task.held_bytes + self.kept.held_bytes

    @property
    def records(self) -> list[str]:
        return [row["record_id"] for row in self.members]

    @property
    def leader(self) -> str:
        """The record whose id stands for all."""
        return self.records[0]


@dataclass(frozen=True)
class Result:
    """What was made or why nothing was; the shape of the batch that it was in, and how many of its rows were no
    picture's. Of a picture in tiles: of its last batch of them."""

    made: Made | None
    problem: TranslationError | None
    batch: int
    padding: int = 0


@dataclass
class Batches:
    """Translates the batches of one attempt, each of pictures of one size. Every batch has `size` rows; one of fewer
    pictures is padded."""

    model: MakesImages
    hints: Hints  # which records are tried alone, and which of them end the model's process
    deaths: Counter[str] = field(default_factory=Counter)  # by record, as far as known
    size: int = 0
    alive: Callable[[], None] = lambda: None  # called after each batch of tiles
    quiet: Callable[[], None] = lambda: None  # returns once the model has nothing else; called where a batch failed

    def __post_init__(self) -> None:
        self.size = self.size or self.model.batch

    def ask(self, pictures: Sequence[Picture]) -> list[Result]:
        """What the model makes of them at the first try, for `translate`. In any thread, one at a time."""
        results: list[Result] = []
        while left := pictures[len(results) :]:  # more than one batch if they were put together before it was halved
            results += self._call(left[: self.size], self.size)
        return results

    def begin(self, pictures: Sequence[Picture]) -> Callable[[], list[Result]] | None:
        """Ask the model while it has another batch: what gives what `ask` would. None where it is to be asked later, as
        for tiles, which may take hours of which whoever waits for the other batch knows nothing."""
        alone = len(pictures) > self.size or self.tried_alone(pictures) or pictures[0].task.frame.tiles is not None
        if alone or not isinstance(self.model, AsksAhead):
            return None
        return self._call_ahead(self.model, pictures)

    def translate(self, pictures: Sequence[Picture], asked: Callable[[], list[Result]] | None = None) -> list[Result]:
        """One result for each, in order.

        Args:
            asked: gives what `ask` gave for them, or raises what it raised.

        Raises:
            LsbError: the model cannot be loaded, the run is being ended, or a transient fault.
        """
        size = self.size
        if asked is None and len(pictures) > size:
            results: list[Result] = []
            while left := pictures[len(results) :]:
                results += self.translate(left[: self.size])
            return results
        try:
            if asked is not None:
                return asked()
            if self.tried_alone(pictures):
                return [self._again(pictures[0])]
            return self._call(pictures, size)
        except TranslationError as problem:
            self.quiet()
            if len(pictures) > size:  # which of its batches failed shows when they are asked for one by one
                return self.translate(pictures)
            if isinstance(problem, OutOfMemoryError):
                return self._halved(pictures, problem)
            if len(pictures) > 1:
                logger.warning("a batch failed, its images run one by one: %s", redact(str(problem)))
                return [result for picture in pictures for result in self._alone(picture)]
            if isinstance(problem, ModelDiedError):
                self._count(pictures[0])
                return [self._again(pictures[0])]
            return [Result(None, problem, size)]

    def tried_alone(self, pictures: Sequence[Picture]) -> bool:
        """Whether they are one picture that has ended a process before."""
        return len(pictures) == 1 and self.deaths[pictures[0].leader] > 0

    def _halved(self, pictures: Sequence[Picture], problem: OutOfMemoryError) -> list[Result]:
        size = self.size
        if size == 1:
            return [Result(None, problem, 1)]
        # Other batches are of the same shape and would not fit either.
        half = self.size = size // 2
        logger.warning("a batch of %d does not fit into memory; from now on %d: %s", size, half, redact(str(problem)))
        return self.translate(pictures)

    def _alone(self, picture: Picture) -> list[Result]:
        self.hints.write(picture.records)
        return self.translate([picture])

    def _again(self, picture: Picture) -> Result:
        """The last try of a picture that has ended a process before."""
        if self.deaths[picture.leader] < DEATHS:
            self.hints.write(picture.records)
            try:
                (result,) = self._call([picture], 1)
            except ModelDiedError:
                self._count(picture)
            except TranslationError as problem:
                return Result(None, problem, 1)
            else:
                self.size = max(1, self.size // 2)
                return result
        times = self.deaths[picture.leader]
        return Result(None, ModelDiedError(f"ended the model's process {times} times, alone in its batch"), 1)

    def _count(self, picture: Picture) -> None:
        self.deaths[picture.leader] += 1
        self.hints.died(picture.records)

    def _call(self, pictures: Sequence[Picture], size: int) -> list[Result]:
        tasks, options = self._question(pictures, size)
        return self._results(tasks, size, partial(self.model.make, tasks, **options))

    def _call_ahead(self, model: AsksAhead, pictures: Sequence[Picture]) -> Callable[[], list[Result]]:
        tasks, options = self._question(pictures, self.size)
        return partial(self._results, tasks, self.size, model.begin(tasks, **options))

    def _question(self, pictures: Sequence[Picture], size: int) -> tuple[list[Task], dict[str, Any]]:
        tasks = [picture.task for picture in pictures]
        return tasks, {"batch": size} | ({} if tasks[0].frame.tiles is None else {"alive": self.alive})

    def _results(self, tasks: Sequence[Task], size: int, answer: Callable[[], list[Made]]) -> list[Result]:
        try:
            made = answer()
            if [one.image.size for one in made] != [task.image.size for task in tasks]:
                raise ValueError("an output has another size than its image")
        except CannotStartError as error:
            raise error.reason from error
        except (TranslationError, UnfinishedError):
            raise
        except Exception as error:
            if isinstance(error, LsbError) and error.transient:
                raise
            kind = OutOfMemoryError if is_out_of_memory(error) else TranslationError
            raise kind(f"{type(error).__name__}: {error}") from error
        tiles = tasks[0].frame.tiles
        padding = size - len(tasks) if tiles is None else -tiles.count % size
        return [Result(one, None, size, padding) for one in made]
