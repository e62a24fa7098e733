"""How a command ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROGRAM = """
import atexit, sys

class Library:
    def __del__(self):
        print("torn down")

library = Library()

def command():
    atexit.register(print, "done at exit")
    sys.stdout.write("answer, ")
    return 7

from lsb.cli.exit_code import end_with
end_with(command)
"""


WAITS = """
import atexit, time
from lsb.cli.exit_code import end_with

def wait():
    print("at exit", flush=True)
    time.sleep(3600)

end_with(lambda: atexit.register(wait) and 7)
"""


def test_ctrl_c_while_the_process_is_ending_says_nothing_more() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAITS],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as ending:
        assert ending.stdout is not None
        assert ending.stdout.readline() == "at exit\n"
        ending.send_signal(signal.SIGINT)
        assert ending.communicate() == ("", "")
    assert ending.returncode == -signal.SIGINT


def test_the_process_ends_with_the_commands_code_and_past_the_teardown_of_libraries() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, "answer, done at exit\n", "")
