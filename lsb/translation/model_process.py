"""A model in a process of its own, so that an image that kills or hangs it costs that process and nothing else.

    model = ModelProcess(partial(build, "settings"), batch=8, limit=1800)
    model.make(tasks)             # starts the process; after ModelDiedError or ModelHungError another one
    answer = model.begin(others)  # asks while the process may still be at work
    answer()                      # what `make` would have given
    model.close()

Processes are forked off a server that has imported what `build` needs, so that a new one only has to load
the model. On CUDA, which does not survive a fork, they are spawned. A process has two questions at most, so that it
need not wait for the next one while the answer to the last is taken.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

from lsb.errors import (
    CannotStartError,
    LsbError,
    ModelDiedError,
    ModelError,
    ModelHungError,
    OutOfMemoryError,
    TranslationError,
    UnfinishedError,
)
from lsb.isolation import isolate_children
from lsb.logs import log_as_asked
from lsb.memory import free_memory
from lsb.redaction import redact
from lsb.translation.model import Made, Model, Task, Tasks, joined, portable
from lsb.translation.shared_pixels import SharedPixels

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
ALIVE = (None, None)  # a reply between answers: the work goes on
START_SECONDS = 1800.0  # for loading the model, which may come over a network
QUESTIONS = 2  # that a process has at most, each with pixels of its own


@dataclass(frozen=True, eq=False)
class _Question:
    """One that the process has."""

    count: int  # of its tasks
    place: int  # which of the shared memories has its pictures, and then those of the answer
    limit: float  # seconds after which it counts as hanging


class ModelProcess:
    """Translates and scores in a process that is started when it is needed."""

    def __init__(
        self,
        build: partial[Model],
        *,
        batch: int,
        limit: float,
        method: Literal["forkserver", "spawn"] = "forkserver",
        imports: Sequence[str] = (),
    ) -> None:
        """Nothing is started yet.

        Args:
            build: makes the model, in the process; importable from its module.
            batch: images at a time.
            limit: seconds after which a batch without an answer, or one of tiles, counts as hanging.
            imports: modules that `build` imports only when it is called, for the server that forks.
        """
        self.batch = batch
        self.limit = limit
        self._build = build
        self._imports = [build.func.__module__, *imports]
        self._context = multiprocessing.get_context(method)
        self._process: Any = None
        self._connection: Connection | None = None
        self._pixels: list[SharedPixels] = []
        self._asked: tuple[_Question, ...] = ()  # whose answers have not been taken, in their order
        self._state = threading.Lock()  # held while any of these changes
        self._taking = threading.Lock()  # held by whoever waits for an answer
        self._loaded = False
        self._closed = False

    def make(self, tasks: Tasks, *, batch: int | None = None, alive: Callable[[], None] = lambda: None) -> list[Made]:
        """As `Model.make`, in one question. If `alive` raises, the process is gone.

        Raises:
            ModelDiedError, ModelHungError: the process is gone; the next call starts another. One that ends while it
                scores one image alone leaves it without scores.
            OutOfMemoryError: the batch does not fit.
            CannotStartError: the model cannot be loaded.
            UnfinishedError: closed meanwhile.
        """
        return self.begin(tasks, batch=batch, alive=alive)()

    def begin(
        self, tasks: Tasks, *, batch: int | None = None, alive: Callable[[], None] = lambda: None
    ) -> Callable[[], list[Made]]:
        """Ask without waiting: what gives what `make` would give, or raises what that would raise.

        Answers are taken in the order of their questions; those before one that is taken are passed over. What cannot
        be asked now, or is lost together with a process that another question has ended, is asked when it is taken.
        """
        return partial(self._answer, self._ask(tasks, batch), tasks, batch, alive)

    def close(self) -> None:
        """End the process at once, for good. May be called from any thread."""
        self._closed = True
        process = self._process
        if process is not None:
            with suppress(ValueError):  # another thread has just cleared it away
                process.kill()

    def __enter__(self) -> ModelProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
        self._forget()

    def _ask(self, tasks: Tasks, batch: int | None) -> _Question | None:
        """Give the process a question, if there is one that has room for it."""
        with self._state:
            free = {*range(QUESTIONS)} - {one.place for one in self._asked}
            if not (self._loaded and free):
                return None
            assert self._connection is not None
            question = _Question(len(tasks), min(free), self.limit)
            pictures = (image for task in tasks for image in (task.image, task.source, task.truth))
            placed = self._pixels[question.place].put(pictures)
            with suppress(OSError):  # it is gone, as whoever takes the answer finds out
                asked = [(task.digest, task.frame) for task in tasks]
                self._connection.send((asked, question.place, placed, batch))
            self._asked += (question,)
            return question

    def _answer(
        self, question: _Question | None, tasks: Tasks, batch: int | None, alive: Callable[[], None]
    ) -> list[Made]:
        with self._taking:
            while True:
                if question not in self._asked:
                    if not self._loaded:
                        self._start_or_say_why()
                    question = self._ask(tasks, batch)
                first = self._asked[0]
                if first is question:
                    return self._take(question, alive)
                try:
                    self._take(first)  # nobody waits for it any more, or its taker will ask again
                except UnfinishedError:
                    raise
                except LsbError as error:
                    logger.info("an answer that nobody took: %s", redact(str(error)))

    def _take(self, question: _Question, alive: Callable[[], None] = lambda: None) -> list[Made]:
        """The answer to the first of the questions."""
        try:
            outputs = self._pixels[question.place].get(self._receive(question.limit, alive))
            return joined(outputs, *self._measured(question))
        except LsbError:
            raise
        except BaseException:  # the second answer may still come, and must not be taken for that to the next question
            self._forget()
            raise
        finally:
            with self._state:
                self._asked = tuple(one for one in self._asked if one is not question)

    def _measured(self, question: _Question) -> tuple[list[Any], float | None]:
        """The scores, and the seconds that the answers took."""
        try:
            scores, seconds = self._receive(question.limit)
        except (ModelDiedError, ModelHungError) as error:
            if question.count > 1:  # whose fault it is shows when they are asked for one by one
                raise
            return [error], None
        return scores, seconds

    def _start_or_say_why(self) -> None:
        try:
            self._start()
        except (ModelDiedError, ModelHungError) as error:
            reason = ModelError(f"no model: {error}; lower execution.workers or execution.batch if memory is short")
            raise CannotStartError(str(reason), reason=reason) from error
        except TranslationError as error:
            raise CannotStartError(str(error), reason=ModelError(str(error))) from error
        except UnfinishedError:
            raise
        except LsbError as error:
            raise CannotStartError(str(error), reason=error) from error

    def _start(self) -> None:
        isolate_children()
        self._context.set_forkserver_preload([*self._imports, "lsb.translation.forkserver"])
        try:
            self._fork()
        except (EOFError, OSError):
            # The server that forks may have been ended. Asked again, it is started again.
            try:
                self._fork()
            except (EOFError, OSError) as error:
                raise ModelDiedError(f"the model's process could not be started ({type(error).__name__})") from error
        # At our end multiprocessing would wait for it, after a SIGTERM that it does not listen to.
        atexit.register(self.close)
        try:
            self._receive(START_SECONDS)
        except LsbError:
            self._forget()
            raise
        self._loaded = True

    def _fork(self) -> None:
        self._connection, far = self._context.Pipe()
        self._pixels = [SharedPixels() for _ in range(QUESTIONS)]
        try:
            arguments = far, self._pixels, self._build, dict(os.environ)
            process = self._context.Process(target=_serve, args=arguments, daemon=True)  # type: ignore[attr-defined]
            # No signal that was meant for us, such as Ctrl-C, ends it, nor the server that forks it, while they begin.
            # Starting multiprocessing's tracker would let them in again.
            resource_tracker.ensure_running()
            with _signals_held_back():
                process.start()
        finally:
            far.close()
        self._process = process

    def _receive(self, limit: float, alive: Callable[[], None] = lambda: None) -> Any:
        """Wait for what the process says next. One that says nothing is gone afterwards, whatever the reason."""
        assert self._connection is not None
        hung = threading.Event()

        def end() -> None:
            hung.set()
            self._process.kill()

        watchdog = threading.Timer(limit, end)
        watchdog.start()
        try:
            if self._closed:
                raise EOFError
            good, answer = self._connection.recv()
            while good is None:
                watchdog.cancel()
                alive()
                watchdog = threading.Timer(limit, end)
                watchdog.start()
                good, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            code = self._forget()
            if self._closed:
                raise UnfinishedError("the model's process was ended with the run; run again to go on") from error
            if hung.is_set():
                message = f"no answer from the model's process within {limit:g} s; it was ended"
                raise ModelHungError(message) from error
            raise ModelDiedError(f"the model's process ended ({_ending(code)})") from error
        except BaseException:  # an answer may still come, and must not be taken for that to the next question
            self._forget()
            raise
        finally:
            watchdog.cancel()
        if not good:
            raise answer
        return answer

    def _forget(self) -> int | None:
        """End the process, and with it all questions that it has; its exit code."""
        with self._state:
            process, self._process, self._loaded = self._process, None, False
            self._asked = ()
            if self._connection is not None:
                self._connection.close()
            for pixels in self._pixels:
                pixels.close()
            self._pixels = []
        if process is None:
            return None
        atexit.unregister(self.close)
        process.kill()
        process.join()
        code: int | None = process.exitcode
        process.close()
        return code


def _serve(
    connection: Connection, pixels: Sequence[SharedPixels], build: Callable[[], Model], environment: Mapping[str, str]
) -> None:
    """The process: load, then answer until nobody asks any more."""
    os.environ.update(environment)  # the server that forked it may have an older one
    log_as_asked()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    loaded: list[Model] = []

    def load() -> Iterator[None]:
        loaded.append(build())
        yield None

    with suppress(EOFError, BrokenPipeError):  # nobody is there any more
        for reply in _replies(load):
            connection.send(reply)
        while loaded:
            answers = partial(_answers, loaded[0], connection.recv(), pixels, partial(connection.send, ALIVE))
            for reply in _replies(answers):
                connection.send(reply)


def _answers(model: Model, question: Any, pixels: Sequence[SharedPixels], alive: Callable[[], None]) -> Iterator[Any]:
    """Those of `Model.answers`, the outputs by where they lie."""
    asked, place, placed, batch = question
    images = iter(pixels[place].get(placed))
    tasks = [
        Task(image, digest, frame, source, truth)
        for (digest, frame), image, source, truth in zip(asked, images, images, images, strict=True)
    ]
    answers = model.answers((tasks, batch), alive)
    yield pixels[place].put(next(answers))
    yield from answers


def _replies(answers: Callable[[], Iterator[Any]]) -> Iterator[tuple[bool, Any]]:
    """Each answer as a good one, and as the last one the error if there is one: whoever asked decides what it means."""
    try:
        for answer in answers():
            yield True, answer
        return
    except Exception as error:  # noqa: BLE001
        problem = portable(error)
    if isinstance(problem, OutOfMemoryError):  # only now does no traceback hold on to what was in the memory
        free_memory()
    yield False, problem


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}" + (
            ", often for lack of memory" if code == -signal.SIGKILL else ""
        )
    return f"exit code {code}"


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """What is started inside gets no SIGTERM or SIGINT before it asks for them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
