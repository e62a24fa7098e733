"""A model in a process of its own, so that an image that kills or hangs it costs that process and nothing else.

    model = ModelProcess(partial(build, "settings"), batch=8, limit=1800)
    model.translate(images, digests)      # starts the process; after ModelDiedError or ModelHungError another one
    model.close()

Processes are forked off a server that has imported what `build`'s module imports, so that a new one only has to load
the model. On CUDA, which does not survive a fork, they are spawned.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

from PIL import Image

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
from lsb.translation.equipment import ScoresImages, Translates

SIGNALS = (signal.SIGTERM, signal.SIGINT)
START_SECONDS = 1800.0  # for loading the model, which may come over a network


@dataclass(frozen=True)
class Model:
    """What runs in the process."""

    translator: Translates
    scorer: ScoresImages | None = None


class ModelProcess:
    """Translates and scores in a process that is started when it is needed. For one thread at a time."""

    def __init__(
        self,
        build: partial[Model],
        *,
        batch: int,
        limit: float,
        method: Literal["forkserver", "spawn"] = "forkserver",
    ) -> None:
        """Nothing is started yet.

        Args:
            build: makes the model, in the process; importable from its module.
            batch: images at a time.
            limit: seconds after which a batch without an answer counts as hanging.
        """
        self.batch = batch
        self.limit = limit
        self._build = build
        self._context = multiprocessing.get_context(method)
        self._process: Any = None
        self._connection: Connection | None = None
        self._closed = False

    def translate(
        self, images: Sequence[Image.Image], digests: Sequence[str] | None = None, *, batch: int | None = None
    ) -> list[Image.Image]:
        """As `lsb.translation.translator.Translator.translate`.

        Raises:
            ModelDiedError, ModelHungError: the process is gone; the next call starts another.
            OutOfMemoryError: the batch does not fit.
            CannotStartError: the model cannot be loaded.
            UnfinishedError: closed meanwhile.
        """
        options = {} if batch is None else {"batch": batch}
        return self._ask("translator", "translate", (list(images), digests), options)

    def score(
        self, sources: Sequence[Image.Image], outputs: Sequence[Image.Image], truths: Sequence[Image.Image | None]
    ) -> list[Any]:
        """As `lsb.metrics.scores.Scorer.score`, with the errors of `translate`."""
        return self._ask("scorer", "score", (list(sources), list(outputs), list(truths)), {})

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

    def _ask(self, part: str, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if self._process is None:
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
        return self._exchange((part, name, arguments, options), self.limit)

    def _start(self) -> None:
        isolate_children()
        self._context.set_forkserver_preload([self._build.func.__module__])
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
        self._exchange(None, START_SECONDS)

    def _fork(self) -> None:
        self._connection, far = self._context.Pipe()
        try:
            process = self._context.Process(target=_serve, args=(far, self._build, dict(os.environ)), daemon=True)  # type: ignore[attr-defined]
            # It does not end by a signal that was meant for us, such as Ctrl-C.
            with _signals_held_back():
                process.start()
        finally:
            far.close()
        self._process = process

    def _exchange(self, question: Any, limit: float) -> Any:
        """Ask and wait. A process that gives no answer is gone afterwards, whatever the reason."""
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
            if question is not None:
                self._connection.send(question)
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
        """End the process; its exit code."""
        process, self._process = self._process, None
        if self._connection is not None:
            self._connection.close()
        if process is None:
            return None
        atexit.unregister(self.close)
        process.kill()
        process.join()
        code: int | None = process.exitcode
        process.close()
        return code


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory did not suffice, the host's or an accelerator's."""
    if isinstance(error, MemoryError | OutOfMemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    words = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def _serve(connection: Connection, build: Callable[[], Model], environment: Mapping[str, str]) -> None:
    """The process: load, then answer until nobody asks any more."""
    os.environ.update(environment)  # the server that forked it may have an older one
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    model: Model | None = None
    question: Any = None
    with suppress(EOFError, BrokenPipeError):  # nobody is there any more
        while True:
            good, full = True, False
            try:
                if model is None:
                    model, answer = build(), None
                else:
                    part, name, arguments, options = question
                    answer = getattr(getattr(model, part), name)(*arguments, **options)
            except Exception as error:  # noqa: BLE001  whoever asked decides what it means
                good, full, answer = False, is_out_of_memory(error), _portable(error)
            if full:  # only now does no traceback hold on to what was in the memory
                _free_memory()
            connection.send((good, answer))
            if model is None:
                return
            question = connection.recv()


def _portable(error: Exception) -> LsbError:
    """The error as one that survives the way to another process."""
    if isinstance(error, LsbError):
        return error
    kind = OutOfMemoryError if is_out_of_memory(error) else TranslationError
    return kind(f"{type(error).__name__}: {error}")


def _free_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


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
    """What is started inside never gets SIGTERM or SIGINT, unless it asks for them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
