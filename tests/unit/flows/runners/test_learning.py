"""Who learns prompts, and what becomes of a copy that is to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from flows.runners import learning
from flows.runners.fleet import FUTILE
from flows.runners.learning import learn_by
from flows.runners.part import Part, VanishedError, part_of
from flows.runners.runner import AwayError
from lsb.config.job import JobConfig
from lsb.errors import PromptError, UnfinishedError
from lsb.prompts.settings import LearningConfig
from lsb.store.local import LocalStore
from tests.unit.jobs.work.fleet import config_over


def config(tmp_path: Path, **execution: object) -> JobConfig:
    cluster = {"runner": "ray", "ray": {"address": "head:6379"}, **execution}
    return config_over(LocalStore(tmp_path / "store"), tmp_path, execution=cluster)


class Scripted:
    """Each copy ends as the next of `endings` says; an AwayError is raised."""

    def __init__(self, *endings: Exception | None) -> None:
        self.endings = [*endings]
        self.started: list[Part] = []

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None: ...

    def start(self, number: int, part: Part) -> None:
        self.started.append(part)

    def ended(self) -> dict[str, Exception | None]:
        how = self.endings.pop(0) if len(self.endings) > 1 else self.endings[0]
        if isinstance(how, AwayError):
            raise how
        assert self.started[-1].mark
        return {self.started[-1].mark: how}

    def stop(self, marks: Iterable[str]) -> None: ...


def learn(tmp_path: Path, runner: Scripted) -> None:
    now = [0.0]

    def pause(seconds: float) -> None:
        now[0] += seconds

    clock: Callable[[], float] = lambda: now[0]  # noqa: E731
    learn_by(runner, Part(config(tmp_path), side="source", refit=True), clock, pause)


def test_one_that_vanishes_is_started_again(tmp_path: Path) -> None:
    runner = Scripted(VanishedError("killed"), AwayError("no server"), VanishedError("killed"), None)
    learn(tmp_path, runner)
    assert len({part.mark for part in runner.started}) == len(runner.started) == 3
    assert {(part.run, part.side, part.refit) for part in runner.started} == {(None, "source", True)}


@pytest.mark.parametrize(
    ("how", "error", "started"),
    [
        (PromptError("too few pictures"), PromptError, 1),
        (VanishedError("killed"), UnfinishedError, FUTILE + 1),
        (AwayError("no server"), UnfinishedError, 1),
    ],
    ids=str,
)
def test_what_cannot_be_learned_ends_it(tmp_path: Path, how: Exception, error: type[Exception], started: int) -> None:
    runner = Scripted(how)
    with pytest.raises(error, match=str(how)):
        learn(tmp_path, runner)
    assert len(runner.started) == started


@pytest.mark.parametrize(
    ("execution", "device", "here"),
    [
        ({}, "cpu", False),  # automatic, and there is no accelerator
        ({}, "cuda:0", True),
        ({"device": "cpu"}, "cpu", True),
        ({"runner": "local", "ray": {}}, "cpu", True),
    ],
)
def test_prompts_are_learned_here_where_the_device_for_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, execution: dict[str, object], device: str, here: bool
) -> None:
    monkeypatch.setattr(learning, "device_of", lambda config: device)
    assert learning._learned_here(config(tmp_path, **execution)) is here


def test_a_copy_does_not_take_a_default_for_what_the_job_says(tmp_path: Path) -> None:
    said: dict[str, dict[str, object]] = {"learning": {"steps": 7}, "geometry": {"fit": "letterbox"}}
    for settings in ({}, said, {"method": {"name": "sdedit"}}):
        job = config_over(LocalStore(tmp_path / "store"), tmp_path, **settings)
        there = part_of(json.loads(json.dumps(Part(job, "run").document()))).config
        assert there == job
        assert there.learning.model_fields_set == settings.get("learning", {}).keys()
        assert there.geometry.model_fields_set == settings.get("geometry", {}).keys()
        before = LearningConfig.of_trace({**job.learning.model_dump(mode="json"), "longest": None})
        assert there.learning.allows(before)
