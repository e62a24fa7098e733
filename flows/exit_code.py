"""How a command ends: every error becomes its exit code and one line."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from flows import render
from lsb.errors import LsbError

EXIT_BUG = 1
EXIT_UNFINISHED = 5
EXIT_INTERRUPTED = 130


def exit_code(command: Callable[[], Any], *, verbose: bool) -> int:
    """Call a typer command; the exit code, whatever happens in it. `verbose` adds tracebacks."""
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
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return _complain(f"unexpected {reason}; this is a bug, --verbose shows where", EXIT_BUG, verbose)
    except BaseException as error:
        from flows.interruption import Terminated

        if isinstance(error, Terminated):
            return _complain(
                "stopped by SIGTERM; what is committed stays, run again to go on", EXIT_UNFINISHED, verbose
            )
        raise
    # typer turns Ctrl-C into this exit code without a word.
    return _interrupted(False) if code == EXIT_INTERRUPTED else code


def _interrupted(verbose: bool) -> int:
    return _complain("interrupted; what is committed stays, run again to go on", EXIT_INTERRUPTED, verbose)


def _guarded(command: Callable[[], Any]) -> int:
    try:
        command()
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    return 0


def _complain(message: str, code: int, verbose: bool) -> int:
    if verbose:
        traceback.print_exc()
    render.complain(f"lsb: error: {' '.join(message.split())}")
    return code
