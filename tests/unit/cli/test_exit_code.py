"""How a command ends."""

from __future__ import annotations

import os
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


def test_the_process_ends_with_the_commands_code_and_past_the_teardown_of_libraries() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, "answer, done at exit\n", "")
