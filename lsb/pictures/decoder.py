"""Foreign files are decoded in a process that may die: of memory, of time, or of a fault in a codec.

    decoder = Decoder()
    image, info = decoder.decode(data)    # what `lsb.pictures.images.decode` gives, to the bit
    info = decoder.inspect(data)          # decodes all of it as well, but leaves the pixels there
    picture = decoder.decode_transparent(data)    # RGBA
    exif = decoder.metadata_of(data).exif

One process serves many files and is started with the first. It has no credentials in its environment and cannot
import from the working folder, and it ends with whoever started it. A file may take

    CPU_SECONDS   of processor time, so that a busy machine fails no picture; and WALL_SECONDS, should it stand still
    MEMORY        bytes of address space, the file and Python included. JPEGs of more than 100
                  megapixels are read smaller, see lsb.pictures.images.reduction

One for which memory does not suffice beside others is decoded once more, with nothing beside it.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, fields
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import IO, Any, TypedDict, TypeGuard

from PIL import AvifImagePlugin, Image

from lsb.errors import DecodingError, ImageError, ResourceError
from lsb.pictures.images import ERROR_CODES as IMAGE_CODES
from lsb.pictures.images import RULES, ImageInfo, announced_pixels, decode, decode_transparent, metadata_of
from lsb.pictures.metadata import Metadata

logger = logging.getLogger(__name__)

CPU_SECONDS = 120.0
WALL_SECONDS = 1200.0
MEMORY = 4 << 30
DECODERS = min(4, os.cpu_count() or 1)  # processes for one reader of many files, each with a picture in memory
ERROR_CODES = {
    "decode_timed_out": f"decoding took more than {CPU_SECONDS:g} s of processor time, or stood still",
    "decode_out_of_memory": f"decoding needs more memory than there is, or than {MEMORY >> 30} GiB",
    "decoder_died": "the process that decodes ended",
}

_SHORT = ("decode_out_of_memory", "decoder_died")  # what becomes of a file where memory does not suffice
_START_SECONDS = 300.0
_THREADS = 4
_BYTES_A_PIXEL = 28  # the most that decoding takes, rounded up
_SIGNALS = {signal.SIGTERM, signal.SIGINT}
_OUT_OF_MEMORY = 70  # exit code
_CODE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from lsb.pictures.decoder import serve; serve()"
_REQUEST = struct.Struct(">cBQ")  # what is asked, the rules of decoding, length of the file
_ANSWER = struct.Struct(">IQ")  # lengths of a JSON text and of the pixels
_MAX_TEXT = 1 << 20


class Answer(TypedDict, total=False):
    """What the process says: of a usable picture its header and size, of another one what is wrong, and nothing when it
    is ready."""

    info: dict[str, Any]  # of `ImageInfo`
    size: tuple[int, int]
    lengths: list[int]  # of each kind of metadata
    code: str
    message: str


class Decoder:
    """Decodes in processes of its own, as many as threads that ask at the same time."""

    def __init__(
        self, *, cpu_seconds: float = CPU_SECONDS, wall_seconds: float = WALL_SECONDS, memory: int = MEMORY
    ) -> None:
        """Nothing is started yet. The arguments bound what a file may take."""
        self._limits = {"cpu_seconds": cpu_seconds, "memory": memory}
        self._wall_seconds = wall_seconds
        self._idle: list[_Process] = []
        self._company = _Company()
        self._end = weakref.finalize(self, _end_all, self._idle)

    def decode(self, data: bytes, rules: int = RULES) -> tuple[Image.Image, ImageInfo]:
        """As `lsb.pictures.images.decode`.

        Raises:
            ImageError: the bytes prove that they are no usable picture.
            DecodingError: it took too much time or memory, or the process died; with one of `ERROR_CODES` as `code`.
            ResourceError: no process can be started.
        """
        answer, pixels = self._ask(b"d", data, rules)
        width, height = answer["size"]
        return Image.frombytes("RGB", (width, height), pixels), ImageInfo(**answer["info"])

    def inspect(self, data: bytes, rules: int = RULES) -> ImageInfo:
        """What is known of a file that can be decoded; errors as for `decode`."""
        return ImageInfo(**self._ask(b"i", data, rules)[0]["info"])

    def decode_transparent(self, data: bytes, rules: int = RULES) -> Image.Image:
        """As `lsb.pictures.images.decode_transparent`; errors as for `decode`."""
        answer, pixels = self._ask(b"a", data, rules)
        width, height = answer["size"]
        return Image.frombytes("RGBA", (width, height), pixels)

    def metadata_of(self, data: bytes) -> Metadata:
        """As `lsb.pictures.images.metadata_of`; errors as for `decode`."""
        answer, blocks = self._ask(b"m", data)
        ends = list(accumulate(answer["lengths"], initial=0))
        return Metadata(*(blocks[start:end] for start, end in pairwise(ends)))

    def close(self) -> None:
        """End the processes that are not at work. A later call starts another."""
        _end_all(self._idle)

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self, what: bytes, data: bytes, rules: int = RULES) -> tuple[Answer, bytes]:
        try:
            with self._company.beside_others() as had_company:
                return self._ask_once(what, data, rules)
        except DecodingError as error:
            if error.code not in _SHORT or not had_company():
                raise
            logger.info("a picture is decoded once more, with nothing beside it: %s", error)
        with self._company.alone():
            self.close()
            return self._ask_once(what, data, rules)

    def _ask_once(self, what: bytes, data: bytes, rules: int) -> tuple[Answer, bytes]:
        process = self._take()
        try:
            answer, pixels = process.ask(what, data, rules, self._wall_seconds)
        except BaseException:  # an answer may still come, and must not be taken for that to the next question
            process.end()
            raise
        self._idle.append(process)
        if "code" in answer:
            raise ImageError(answer["message"], code=answer["code"])
        return answer, pixels

    def _take(self) -> _Process:
        with suppress(IndexError):
            while True:
                process = self._idle.pop()
                if process.usable:
                    return process
                process.end()
        return _Process(self._limits)


class _Company:
    """Who is at work at the same time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._at_work = 0
        self._begun = 0  # ever
        self._wanting = 0  # to be alone: nobody else begins

    @contextmanager
    def beside_others(self) -> Iterator[Callable[[], bool]]:
        """Gives what tells, at the end, whether anybody else was at work since the beginning."""
        with self._changed:
            self._changed.wait_for(lambda: not self._wanting)
            company = self._at_work > 0
            self._at_work += 1
            begun = self._begun = self._begun + 1
        try:
            yield lambda: company or self._begun > begun
        finally:
            self._leave()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Waits until nobody is at work, and lets nobody begin."""
        with self._changed:
            self._wanting += 1
            try:
                self._changed.wait_for(lambda: not self._at_work)
            except BaseException:
                self._wanting -= 1
                raise
            self._at_work += 1
        try:
            yield
        finally:
            with self._changed:
                self._wanting -= 1
            self._leave()

    def _leave(self) -> None:
        with self._changed:
            self._at_work -= 1
            self._changed.notify_all()


@cache
def shared_decoder() -> Decoder:
    """The decoder of this process."""
    return Decoder()


class _Process:
    """One process that decodes, seen from the one that asks."""

    def __init__(self, limits: dict[str, float]) -> None:
        self._owner = os.getpid()
        command = [sys.executable, "-P", "-c", _CODE, json.dumps(_search_path())]
        command.append(json.dumps({**limits, "parent": self._owner}))
        # What is meant for us, such as Ctrl-C, does not end it.
        try:
            with _signals_held_back():
                self._process = subprocess.Popen(  # noqa: S603
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env=_environment(),
                )
        except OSError as error:
            raise ResourceError(
                f"cannot start a process that decodes pictures: {error.strerror}; free memory"
            ) from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        try:
            self._exchange(None, b"", _START_SECONDS)
        except DecodingError as error:
            self.end()
            raise ResourceError(f"a process that decodes pictures does not start: {error}; free memory") from error
        except BaseException:
            self.end()
            raise

    @property
    def usable(self) -> bool:
        """Whether it runs, and is ours and not that of a process that we were forked from."""
        return self._owner == os.getpid() and self._process.poll() is None

    def ask(self, what: bytes, data: bytes, rules: int, wall_seconds: float) -> tuple[Answer, bytes]:
        answer, pixels = self._exchange(_REQUEST.pack(what, rules, len(data)), data, wall_seconds)
        if not _sound(answer, pixels, what):
            raise _decoding_error("decoder_died", "its answer makes no sense")
        return answer, pixels

    def end(self) -> None:
        """End it at once."""
        if self._owner != os.getpid():
            self._process.returncode = 0  # it is not ours to wait for
        else:
            self._process.kill()
            self._process.wait()
        for pipe in (self._to, self._from):
            with suppress(OSError):
                pipe.close()

    def _exchange(self, request: bytes | None, data: bytes, limit: float) -> tuple[Any, bytes]:
        late = threading.Event()

        def kill() -> None:
            late.set()
            self._process.kill()

        watchdog = threading.Timer(limit, kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            if request is not None:
                self._to.write(request)
                self._to.write(data)
                self._to.flush()
            text_length, pixel_length = _ANSWER.unpack(_read(self._from, _ANSWER.size))
            if text_length > _MAX_TEXT or pixel_length > MEMORY:
                raise _decoding_error("decoder_died", "its answer makes no sense")
            text, pixels = _read(self._from, text_length), _read(self._from, pixel_length)
        except (EOFError, OSError) as error:
            raise self._how_it_ended(late.is_set()) from error
        finally:
            watchdog.cancel()
        try:
            return json.loads(text), pixels
        except ValueError as error:
            raise _decoding_error("decoder_died", "its answer makes no sense") from error

    def _how_it_ended(self, late: bool) -> DecodingError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)  # its pipes close a moment before it is gone
        code = self._process.poll()
        if late or code == -signal.SIGPROF:
            return _decoding_error("decode_timed_out", "it was ended")
        if code == _OUT_OF_MEMORY:
            return _decoding_error("decode_out_of_memory", "it was given up")
        if code is not None and code < 0:
            short = ", often for lack of memory" if code == -signal.SIGKILL else ""
            return _decoding_error("decoder_died", f"signal {signal.Signals(-code).name}{short}")
        return _decoding_error("decoder_died", f"exit code {code}")


def serve() -> None:
    """The process: answer until nobody asks any more."""
    limits = json.loads(sys.argv[2])
    threading.Thread(target=_end_with, args=(limits["parent"],), daemon=True).start()
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # codecs print where they like
    Image.init()
    # The address space of a thread for each core of a large machine would be more than the pictures'.
    AvifImagePlugin.DEFAULT_MAX_THREADS = min(_THREADS, os.cpu_count() or 1)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    room = _limit_memory(int(limits["memory"]))
    _answer(answers, {})
    with suppress(EOFError, BrokenPipeError):
        while True:
            try:
                what, rules, length = _REQUEST.unpack(_read(questions, _REQUEST.size))
                signal.setitimer(signal.ITIMER_PROF, limits["cpu_seconds"])
                _answer(answers, *_decoded(what, rules, _read(questions, length), room))
                signal.setitimer(signal.ITIMER_PROF, 0)
            except MemoryError:
                os._exit(_OUT_OF_MEMORY)


def _decoded(what: bytes, rules: int, data: bytes, room: int) -> tuple[Answer, bytes]:
    try:
        if what == b"m":
            blocks = astuple(metadata_of(data))
            return {"lengths": [len(block) for block in blocks]}, b"".join(blocks)
        if what == b"a":
            picture = decode_transparent(data, rules)
            return {"size": picture.size}, picture.tobytes()
        picture, info = decode(data, rules)
    except ImageError as error:
        # A codec that gets no memory says all sorts of things.
        if error.code in ("corrupt", "truncated") and not _has_room(data, room):
            raise MemoryError from error
        return {"code": error.code, "message": error.message}, b""
    return {"info": asdict(info), "size": picture.size}, picture.tobytes() if what == b"d" else b""


def _has_room(data: bytes, room: int) -> bool:
    """Whether the picture, by its header, fits into `room` bytes whatever its format."""
    if room >= MEMORY - (1 << 29):
        return True
    pixels = announced_pixels(data)
    return pixels is not None and pixels * _BYTES_A_PIXEL + 2 * len(data) < room


def _limit_memory(limit: int) -> int:
    """Take no more than `limit` bytes, be the first to be ended if memory is short, and leave no core file.

    Returns:
        how many of the bytes are free.
    """
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = min([limit, *(value for value in (soft, hard) if value != resource.RLIM_INFINITY)])
    with suppress(ValueError, OSError):  # a system that knows no such limit
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        taken = 0
    return limit - taken


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _answer(answers: IO[bytes], text: Answer, pixels: bytes = b"") -> None:
    words = json.dumps(text).encode()
    answers.write(_ANSWER.pack(len(words), len(pixels)))
    answers.write(words)
    answers.write(pixels)
    answers.flush()


def _read(pipe: IO[bytes], length: int) -> bytes:
    """Exactly `length` bytes; EOFError if there are fewer."""
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError
    return data


def _sound(answer: Any, pixels: bytes, what: bytes) -> bool:
    """Whether it is what `_decoded` gives. What foreign bytes may have taken over is not trusted."""
    if not isinstance(answer, dict):
        return False
    if answer.keys() == {"code", "message"}:
        return answer["code"] in IMAGE_CODES and isinstance(answer["message"], str)
    if what == b"m":
        lengths = answer.get("lengths")
        return _whole_numbers(lengths, 3) and sum(lengths) == len(pixels)
    size = answer.get("size")
    if not _whole_numbers(size, 2):
        return False
    if what == b"a":
        return len(pixels) == size[0] * size[1] * 4
    info = answer.get("info")
    kinds = {field.name: field.type for field in fields(ImageInfo)}
    if not isinstance(info, dict) or {name: type(value).__name__ for name, value in info.items()} != kinds:
        return False
    reduced = [*ImageInfo(**info).reduced_size]
    if size not in (reduced, reduced[::-1]):
        return False
    return len(pixels) == (size[0] * size[1] * 3 if what == b"d" else 0)


def _whole_numbers(value: Any, count: int) -> TypeGuard[list[int]]:
    return isinstance(value, list) and len(value) == count and all(type(one) is int and one >= 0 for one in value)


def _decoding_error(code: str, detail: str) -> DecodingError:
    return DecodingError(f"{code}: {ERROR_CODES[code]} ({detail})", code=code)


def _end_all(processes: list[_Process]) -> None:
    while processes:
        processes.pop().end()


def _search_path() -> list[str]:
    """Where the process finds its modules: where we find ours, but for the working folder, unless lsb lies there."""
    home, here = Path(__file__).resolve().parents[2], Path.cwd()
    return [entry for entry in sys.path if entry and (Path(entry).resolve() == home or Path(entry).resolve() != here)]


def _environment() -> dict[str, str]:
    kept = ("PATH", "HOME", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")
    few = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}  # either reserves address space for each thread
    return {name: os.environ[name] for name in kept if name in os.environ} | few


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """What is started inside never gets SIGTERM or SIGINT."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
