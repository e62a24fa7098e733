"""The process with the model, with a real process and a model that does what its input says."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
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
from lsb.memory import is_out_of_memory
from lsb.translation.model import Model
from lsb.translation.model_process import ModelProcess
from tests.ledger import picture, tasks


class Obedient:
    """Does what the first digest says."""

    batch = 4

    def translate(
        self, images: Sequence[Image.Image], digests: Sequence[str] | None = None, *, batch: int | None = None
    ) -> list[Any]:
        order = digests[0] if digests else ""
        if order == "die":
            os._exit(7)
        if order == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if order == "hang":
            threading.Event().wait()
        if order == "memory":
            raise MemoryError("1 TiB")
        if order == "break":
            raise KeyError("unet")
        if order == "busy":
            raise StoreBusyError("try again")
        if order == "signals":
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
        if order.startswith("touch "):
            Path(order.removeprefix("touch ")).touch()
        if order == "slow":
            time.sleep(0.01)
        if order == "pid":
            return [os.getpid()]
        if order == "batch":
            return [batch]
        return list(images)

    def score(self, sources: Sequence[Any], outputs: Sequence[Any], truths: Sequence[Any]) -> list[Any]:
        """Does what the truths say."""
        if "die" in truths:
            os._exit(7)
        if "hang" in truths:
            threading.Event().wait()
        if "break" in truths:
            raise KeyError("block")
        return [(len(outputs), truth) for truth in truths]


def build() -> Model:
    return Model(Obedient(), Obedient())


def broken(error: Exception | None) -> Model:
    if error is None:
        os._exit(1)
    raise error


@pytest.fixture
def model() -> Iterator[ModelProcess]:
    with ModelProcess(partial(build), batch=4, limit=600) as process:
        yield process


def ask(model: ModelProcess, order: str) -> Any:
    return model.make(tasks([picture(0)], [order]))[0].image


def test_images_go_there_and_come_back_and_one_process_serves_many_batches(model: ModelProcess) -> None:
    there = [picture(0), picture(1)]
    back = model.make(tasks(there, ["a", "b"], [None, "truth"]))
    assert [made.image.tobytes() for made in back] == [image.tobytes() for image in there]
    assert [made.scores for made in back] == [(2, None), (2, "truth")]
    assert ask(model, "pid") == ask(model, "pid") != os.getpid()
    assert ask(model, "batch") is None
    assert model.make(tasks([picture(0)], ["batch"]), batch=2)[0].image == 2


def test_a_batch_is_one_question_without_pixels_and_each_picture_lies_in_memory_once(
    model: ModelProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(model, "pid")
    said: list[Any] = []
    receive, connection = model._receive, model._connection
    assert connection is not None

    def listening(*limits: Any) -> Any:
        said.append(receive(*limits))
        return said[-1]

    class Telling:
        def send(self, question: Any) -> None:
            said.append(question)
            connection.send(question)

        def __getattr__(self, name: str) -> Any:
            return getattr(connection, name)

    monkeypatch.setattr(model, "_receive", listening)
    monkeypatch.setattr(model, "_connection", Telling())
    images = [picture(0, (200, 100)), picture(1, (200, 100))]  # each is its own source as well
    made = model.make(tasks(images, ["a", "b"]))
    assert [one.image.tobytes() for one in made] == [image.tobytes() for image in images]
    assert len(said) == 3  # the question, the outputs, the scores
    assert len(pickle.dumps(said)) < 2500
    assert os.fstat(model._pixels[0]._descriptor).st_size == 2 * 200 * 100 * 3


def test_each_of_two_who_ask_at_once_gets_its_own_answer(model: ModelProcess) -> None:
    """As where somebody gave up a shard while the model had its batch, and the shard is tried again."""
    images = [[picture(index, (400, 300))] for index in range(12)]
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda batch: model.make(tasks(batch, ["slow"])), images))
    assert [one.image.tobytes() for (one,) in made] == [image.tobytes() for (image,) in images]


def test_the_process_has_the_next_question_while_the_answer_to_the_last_is_not_taken(
    model: ModelProcess, tmp_path: Path
) -> None:
    images = [picture(index, (100, 70)) for index in range(3)]
    model.make(tasks(images, ["a", "b", "c"]))
    first = model.begin(tasks(images[:1], ["a"]))
    second = model.begin(tasks(images[1:2], [f"touch {tmp_path / 'there'}"]))
    while not (tmp_path / "there").exists():
        time.sleep(0.01)
    third = model.begin(tasks(images[2:], [f"touch {tmp_path / 'too-many'}"]))
    assert [one.image.tobytes() for one in first()] == [images[0].tobytes()]
    assert [one.image.tobytes() for one in second()] == [images[1].tobytes()]
    assert not (tmp_path / "too-many").exists()
    assert [one.image.tobytes() for one in third()] == [images[2].tobytes()]


def test_an_answer_that_nobody_takes_is_passed_over(model: ModelProcess) -> None:
    images = [picture(index, (100, 70)) for index in range(3)]
    model.make(tasks(images, ["a", "b", "c"]))
    model.begin(tasks(images[:1], ["break"]))
    model.begin(tasks(images[1:2], ["b"]))
    assert [one.image.tobytes() for one in model.make(tasks(images[2:], ["c"]))] == [images[2].tobytes()]


@pytest.mark.parametrize("order", ["die", "memory"])
def test_what_one_question_ends_with_is_not_the_answer_to_the_next(model: ModelProcess, order: str) -> None:
    before = ask(model, "pid")
    first, second = model.begin(tasks([picture(0)], [order])), model.begin(tasks([picture(1)], ["pid"]))
    with pytest.raises(ModelDiedError if order == "die" else OutOfMemoryError):
        first()
    (answer,) = second()
    assert (answer.image == before) == (order == "memory")


def test_pictures_of_any_number_and_size_come_back_as_they_were(model: ModelProcess) -> None:
    """The memory grows with what is asked, and what is asked next takes nothing of what was answered."""
    before: list[tuple[Image.Image, bytes]] = []
    for number, size in ((1, (4, 3)), (5, (300, 200)), (2, (7, 5)), (6, (301, 200))):
        images = [picture(index + number, size) for index in range(number)]
        made = [one.image for one in model.make(tasks(images, [str(index) for index in range(number)]))]
        before += [(one, image.tobytes()) for one, image in zip(made, images, strict=True)]
    assert all(one.tobytes() == data for one, data in before)


def test_outputs_that_cannot_be_scored_are_still_outputs_and_take_no_other_scores_along(model: ModelProcess) -> None:
    made = model.make(tasks([picture(0), picture(1)], ["a", "b"], ["break", None]))
    assert [one.image.size for one in made] == [picture(0).size] * 2
    assert [one.scores for one in made] == [None, (1, None)]
    assert str(made[0].unscored) == "KeyError: 'block'"
    assert made[1].unscored is None


@pytest.mark.parametrize(("order", "error"), [("die", ModelDiedError), ("hang", ModelHungError)])
def test_a_process_that_ends_while_it_scores_costs_one_picture_its_scores(
    model: ModelProcess, order: str, error: type[Exception]
) -> None:
    ask(model, "pid")
    model.limit = 60 if order == "die" else 1
    with pytest.raises(error):
        model.make(tasks([picture(0), picture(1)], ["a", "b"], [order, None]))
    ask(model, "pid")
    (made,) = model.make(tasks([picture(0)], ["a"], [order]))
    assert made.image.tobytes() == picture(0).tobytes()
    assert isinstance(made.unscored, error)
    assert ask(model, "pid") != os.getpid()


def test_no_answer_to_one_question_is_taken_for_that_to_the_next(
    model: ModelProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ask(model, "pid")

    def interrupted(count: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model, "_measured", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ask(model, "pid")
    assert ask(model, "pid") != first


@pytest.mark.parametrize(("order", "words"), [("die", "exit code 7"), ("kill", "SIGKILL.*memory")])
def test_a_process_that_dies_is_replaced(model: ModelProcess, order: str, words: str) -> None:
    first = ask(model, "pid")
    with pytest.raises(ModelDiedError, match=words):
        ask(model, order)
    assert ask(model, "pid") not in (first, os.getpid())


@pytest.mark.parametrize("failures", [1, 2])
def test_a_process_that_cannot_be_started_is_no_images_fault(
    model: ModelProcess, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    start, left = model._context.Process.start, [EOFError()] * failures

    def fail_first(process: Any) -> None:
        if left:
            raise left.pop()
        start(process)

    monkeypatch.setattr(model._context.Process, "start", fail_first)
    if failures == 2:
        with pytest.raises(CannotStartError, match="could not be started"):
            ask(model, "pid")
    assert ask(model, "pid") != os.getpid()


def test_one_that_hangs_is_ended_and_replaced(model: ModelProcess) -> None:
    first = ask(model, "pid")
    model.limit = 0.2
    with pytest.raises(ModelHungError, match=r"within 0\.2 s"):
        ask(model, "hang")
    model.limit = 600
    assert ask(model, "pid") != first
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


@pytest.mark.parametrize(
    ("order", "error", "words"),
    [
        ("memory", OutOfMemoryError, "MemoryError: 1 TiB"),
        ("break", TranslationError, "KeyError: 'unet'"),
        ("busy", StoreBusyError, "try again"),
    ],
)
def test_errors_come_back_and_the_process_stays(
    model: ModelProcess, order: str, error: type[Exception], words: str
) -> None:
    first = ask(model, "pid")
    with pytest.raises(error, match=words):
        ask(model, order)
    assert ask(model, "pid") == first


def test_signals_for_us_are_not_for_it(model: ModelProcess) -> None:
    assert ask(model, "signals").size == picture(0).size


BLOCKED = """
from pathlib import Path

def blocked(process):
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("SigBlk"))
"""
BEGINS = """
from functools import partial
from multiprocessing import get_context
from multiprocessing.forkserver import _forkserver
from time import sleep
from blocked import blocked
from lsb.translation.model_process import ModelProcess
from tests.unit.flows.echo import echoing

if __name__ == "__main__":
    with ModelProcess(partial(echoing), batch=1, limit=600, imports=["long"]) as model:
        model._start()
        other = get_context("forkserver").Process(target=sleep, args=(600,))
        other.start()
        print(Path("held").read_text(), blocked(_forkserver._forkserver_pid), blocked(other.pid))
        other.terminate()
        other.join()
        print(other.exitcode)
"""


def test_neither_are_they_for_the_server_that_forks_it_while_that_begins(tmp_path: Path) -> None:
    """In a process of its own, where the first start begins multiprocessing's tracker as well."""
    (tmp_path / "blocked.py").write_text(BLOCKED)
    (tmp_path / "long.py").write_text("from blocked import *\nPath('held').write_text(blocked('self'))\n")
    (tmp_path / "begins.py").write_text("from pathlib import Path\n" + BEGINS)
    path = os.pathsep.join((str(Path(__file__).parents[3]), str(tmp_path)))
    command, environment = [sys.executable, tmp_path / "begins.py"], {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    while_importing, afterwards, others, code = done.stdout.split()
    held_back = sum(1 << number - 1 for number in (signal.SIGINT, signal.SIGTERM))
    assert int(while_importing, 16) & held_back == held_back
    assert int(afterwards, 16) & held_back == int(others, 16) & held_back == 0
    assert int(code) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("error", "words"),
    [(ModelError("no such folder"), "no such folder"), (ValueError("x"), "ValueError: x"), (None, "no model.*code 1")],
)
def test_a_model_that_cannot_be_loaded_is_no_images_fault(error: Exception | None, words: str) -> None:
    with ModelProcess(partial(broken, error), batch=4, limit=600) as process, pytest.raises(CannotStartError) as caught:
        process.make(tasks([picture(0)], ["a"]))
    with pytest.raises(ModelError, match=words):
        raise caught.value.reason


def test_closing_from_another_thread_ends_what_is_under_way_for_good(model: ModelProcess) -> None:
    ask(model, "pid")
    threading.Timer(0.2, model.close).start()
    with pytest.raises(UnfinishedError, match="run again"):
        ask(model, "hang")
    with pytest.raises(UnfinishedError):
        ask(model, "pid")


def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    starter = context.Process(target=start_and_wait, args=(tmp_path / "pid",))
    starter.start()
    while not (tmp_path / "pid").exists():
        time.sleep(0.01)
    pid = int((tmp_path / "pid").read_text())
    starter.kill()
    starter.join()
    starter.close()
    until = time.monotonic() + 200
    while alive(pid):
        assert time.monotonic() < until
        time.sleep(0.01)


def start_and_wait(told: Path) -> None:
    process = ModelProcess(partial(build), batch=4, limit=600)
    pid = ask(process, "pid")
    told.with_suffix(".new").write_text(str(pid))
    told.with_suffix(".new").rename(told)
    threading.Event().wait()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (MemoryError(), True),
        (OutOfMemoryError("x"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("size mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_lack_of_memory_looks_like(error: Exception, full: bool) -> None:
    assert is_out_of_memory(error) is full


def test_torch_says_so_in_its_own_words() -> None:
    import torch  # only here: the processes of the other tests start in no time without it

    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)
