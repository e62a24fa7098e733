from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from PIL import Image

from lsb.errors import (
    CannotStartError,
    ModelDiedError,
    ModelError,
    ModelHungError,
    OutOfMemoryError,
    StoreBusyError,
    TranslationError,
    UnfinishedError,
)
from lsb.pictures.tiles import tiles_of
from lsb.translation.batch import Batches, Picture, Result
from lsb.translation.model import Made, Task
from lsb.translation.model import Model as InProcess
from tests.ledger import own_size, tasks

IMAGE, TRUTH = Image.new("RGB", (2, 2)), Image.new("RGB", (3, 3))
MADE = Made(IMAGE, scores=TRUTH)


@dataclass
class Model:
    """Remembers how it was called; `faults` maps a digest to what happens, `fits` is the largest batch that does."""

    faults: dict[str, list[Exception]] = field(default_factory=dict)
    fits: int = 8
    batch: int = 8
    calls: list[tuple[int, str]] = field(default_factory=list)

    def make(self, tasks: Sequence[Task], *, batch: int) -> list[Made]:
        size, digests = batch, [task.digest for task in tasks]
        self.calls.append((size, "".join(digests)))
        if size > self.fits:
            raise MemoryError("too large")
        for digest in digests:
            if self.faults.get(digest):
                raise self.faults[digest].pop(0)
        return [Made(task.image, scores=task.truth) for task in tasks]


@dataclass
class Watch:
    """Hints that are only remembered."""

    alone: list[str] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)

    def write(self, records: Sequence[str]) -> None:
        self.alone += records

    def died(self, records: Sequence[str]) -> None:
        self.dead += records


@dataclass
class Trial:
    model: Any
    deaths: Counter[str] = field(default_factory=Counter)
    hints: Watch = field(default_factory=Watch)

    def __post_init__(self) -> None:
        self.batches = Batches(self.model, self.hints, self.deaths)

    def __call__(self, names: str) -> dict[str, Result]:
        pictures = [Picture([{"record_id": name}], {}, task) for name, task in zip(names, asked(names), strict=True)]
        return dict(zip(names, self.batches.translate(pictures), strict=True))


def asked(names: str) -> list[Task]:
    return tasks([IMAGE] * len(names), names, [TRUTH] * len(names))


def problems(results: dict[str, Result]) -> dict[str, str]:
    return {name: result.problem.code for name, result in results.items() if result.problem is not None}


def test_a_batch_that_comes_out_is_asked_for_once() -> None:
    trial = Trial(Model())
    assert trial("abc") == {name: Result(MADE, None, 8, padding=5) for name in "abc"}
    assert trial.model.calls == [(8, "abc")]
    assert (trial.hints.alone, trial.hints.dead) == ([], [])


def test_a_batch_that_does_not_fit_is_halved_for_good() -> None:
    trial = Trial(Model(fits=2))
    results = trial("abcdefg")
    assert {(result.batch, result.problem) for result in results.values()} == {(2, None)}
    assert trial.model.calls == [(8, "abcdefg"), (4, "abcd"), (2, "ab"), (2, "cd"), (2, "ef"), (2, "g")]
    assert [result.padding for result in results.values()] == [0] * 6 + [1]
    trial("h")
    assert trial.model.calls[-1] == (2, "h")
    later = trial("ijklm")  # put together when a batch was larger
    assert trial.model.calls[-3:] == [(2, "ij"), (2, "kl"), (2, "m")]
    assert [result.padding for result in later.values()] == [0] * 4 + [1]


def test_batches_of_tiles_that_do_not_fit_are_halved_too() -> None:
    beats: list[int] = []

    class Tiling(Model):
        def make(self, tasks: Sequence[Task], *, batch: int, alive: Callable[[], None]) -> list[Made]:
            made = super().make(tasks, batch=batch)
            alive()
            return made

    trial = Trial(Tiling(fits=2))
    trial.batches.alive = lambda: beats.append(1)
    frame = replace(own_size((2, 2)), tiles=tiles_of((96, 64), 32, 8))
    assert frame.tiles is not None
    picture = Picture([{"record_id": "a"}], {}, replace(asked("a")[0], frame=frame))
    assert trial.batches.translate([picture]) == [Result(MADE, None, 2, padding=-frame.tiles.count % 2)]
    assert trial.model.calls == [(8, "a"), (4, "a"), (2, "a")]
    assert beats == [1]


def test_an_image_that_does_not_fit_alone_fails_and_may_be_tried_again() -> None:
    trial = Trial(Model(fits=0))
    results = trial("ab")
    assert problems(results) == {"a": "out_of_memory", "b": "out_of_memory"}
    assert all(result.batch == 1 and result.problem and result.problem.retryable for result in results.values())


def test_one_that_breaks_takes_no_other_along() -> None:
    trial = Trial(Model(faults={"b": [KeyError("x"), KeyError("x")]}))
    assert problems(trial("abc")) == {"b": "translate_error"}
    assert trial.model.calls == [(8, "abc"), (8, "a"), (8, "b"), (8, "c")]
    assert trial.hints.alone == ["a", "b", "c"]


def test_one_that_kills_twice_alone_is_not_tried_a_third_time() -> None:
    trial = Trial(Model(faults={"b": [ModelDiedError("x")] * 9}))
    results = trial("abc")
    assert problems(results) == {"b": "worker_died"}
    problem = results["b"].problem
    assert problem
    assert not problem.retryable
    assert "2 times" in str(problem)
    # In company once, alone, and once more with a batch of one.
    assert trial.model.calls == [(8, "abc"), (8, "a"), (8, "b"), (1, "b"), (8, "c")]
    assert trial.hints.dead == ["b", "b"]


def test_one_that_lives_in_a_batch_of_one_was_killed_for_its_memory() -> None:
    trial = Trial(Model(faults={"a": [ModelDiedError("x")]}))
    assert trial("a") == {"a": Result(MADE, None, 1)}
    trial("b")
    assert trial.model.calls == [(8, "a"), (1, "a"), (4, "b")]


def test_deaths_of_earlier_attempts_count() -> None:
    trial = Trial(Model(faults={"b": [ModelDiedError("x")] * 9}), Counter({"a": 2, "b": 1, "c": 0}))
    assert problems(trial("a")) == problems({"a": trial("a")["a"]}) == {"a": "worker_died"}
    assert trial.model.calls == []
    assert problems(trial("b")) == {"b": "worker_died"}
    assert trial.model.calls == [(1, "b")]
    assert problems(trial("c")) == {}


def test_one_that_hangs_alone_is_not_waited_for_again() -> None:
    trial = Trial(Model(faults={"b": [ModelHungError("x")] * 9}))
    results = trial("ab")
    assert problems(results) == {"b": "timed_out"}
    assert results["b"].problem
    assert results["b"].problem.retryable
    assert trial.model.calls == [(8, "ab"), (8, "a"), (8, "b")]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (StoreBusyError("again"), StoreBusyError),
        (UnfinishedError("closed"), UnfinishedError),
        (CannotStartError("x", reason=ModelError("gone")), ModelError),
    ],
)
def test_what_is_no_images_fault_is_raised(error: Exception, raised: type[Exception]) -> None:
    trial = Trial(Model(faults={"a": [error]}))
    with pytest.raises(raised):
        trial("ab")


@pytest.mark.parametrize("error", [ModelError("NaN"), OutOfMemoryError("x"), TranslationError("x")])
def test_errors_of_the_model_are_the_batchs(error: Exception) -> None:
    assert problems(Trial(Model(faults={"a": [error] * 9}, batch=1))("a"))


def test_a_model_that_loses_an_image_is_not_believed() -> None:
    class Short:
        batch = 8

        def translate(self, images: Sequence[Image.Image], *rest: object, **more: object) -> list[Image.Image]:
            return list(images)[:-1]

    results = Trial(InProcess(Short()))("ab")
    assert problems(results) == {"a": "translate_error", "b": "translate_error"}
