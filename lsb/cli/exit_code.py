"""How a command ends: every error becomes its exit code and one line."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from typer.exceptions import TyperException

from lsb.cli import render
from lsb.cli.terminal import tamed
from lsb.errors import LsbError, ResourceError
from lsb.logs import json_wanted

EXIT_BUG = 1
EXIT_UNFINISHED = 5
EXIT_INTERRUPTED = 130

# What a plain `pip install lsb` leaves out; see pyproject.toml.
EXTRAS = {
    **dict.fromkeys(("accelerate", "diffusers", "transformers"), "models"),
    **dict.fromkeys(("fastapi", "prefect", "rich", "sqlalchemy"), "run"),
    "optuna": "tune",
    **dict.fromkeys(("prefect_ray", "ray"), "ray"),
}


def exit_code(command: Callable[[], Any], *, verbose: bool) -> int:
    """Call a typer command, not in its standalone mode; the exit code, whatever happens. `verbose` adds tracebacks."""
    output = sys.stdout
    try:
        code = _guarded(command)
        if sys.stdout is not output:  # how typer tells that whoever read our output has gone
            return 0
        sys.stdout.flush()
    except BrokenPipeError:
        # What Python flushes at exit must not complain about it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
        return 0
    except LsbError as error:
        return _complain(str(error), error.exit_code, verbose)
    except KeyboardInterrupt:
        return _interrupted(verbose)
    except Exception as error:  # noqa: BLE001 the last boundary: nobody gets a traceback unasked
        if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
            needed = f"this command needs the package {error.name}; pip install 'lsb[{EXTRAS[error.name]}]'"
            return _complain(needed, ResourceError.exit_code, verbose)
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return _complain(f"unexpected {reason}; this is a bug, --verbose shows where", EXIT_BUG, verbose)
    except BaseException as error:
        from flows.watching.interruption import Terminated

        if isinstance(error, Terminated):
            return _complain(
                "stopped by SIGTERM; what is committed stays, run again to go on", EXIT_UNFINISHED, verbose
            )
        raise
    # typer turns Ctrl-C into this exit code without a word.
    return _interrupted(False) if code == EXIT_INTERRUPTED else code


def end_with(command: Callable[[], int]) -> NoReturn:
    """Call a command and end the process with the exit code that it gives.

    What is registered to be done at exit is done; the teardown of libraries after it is left out, since at times a
    thread of Arrow's meets it and aborts the process, long after all is printed.
    """
    ended = [EXIT_BUG]
    atexit.register(_leave, ended)  # the first that is registered is the last that is called
    ended[0] = command()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # all is said: one more Ctrl-C ends the process without a traceback
    sys.exit(ended[0])


def _leave(ended: list[int]) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(ended[0])


def _interrupted(verbose: bool) -> int:
    return _complain("interrupted; what is committed stays, run again to go on", EXIT_INTERRUPTED, verbose)


def _guarded(command: Callable[[], Any]) -> int:
    try:
        code = command()
    except SystemExit as ending:
        code = ending.code
    except TyperException as error:  # wrong arguments, which it repeats
        error.message = tamed(error.message)
        error.show()  # type: ignore[attr-defined]  # its class of errors of use is not public
        return error.exit_code
    return code if isinstance(code, int) else int(code is not None)


def _complain(message: str, code: int, verbose: bool) -> int:
    if verbose and not json_wanted():
        sys.stderr.write(tamed(traceback.format_exc()))
    render.complain(" ".join(message.split()), logging.ERROR, exit_code=code)
    return code
