"""What a copy on this machine says of its end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from flows.runners.part import Part
from lsb.store.local import LocalStore
from tests.unit.jobs.work.fleet import config_over

LOUD = """
import os
from flows.runners import local
from lsb.errors import BudgetExceededError

def loud(part):
    os.write(1, b"what a library has to say\\n" * 4000)
    raise BudgetExceededError("too much")

local.do = loud
local.main()
"""


def test_what_libraries_print_is_no_part_of_it_and_fills_no_pipe(tmp_path: Path) -> None:
    part = Part(config_over(LocalStore(tmp_path / "store"), tmp_path), "run", mark="m")
    with subprocess.Popen(
        [sys.executable, "-P", "-c", LOUD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as copy:
        assert copy.stdin is not None
        assert copy.stdout is not None
        copy.stdin.write(json.dumps(part.document()).encode() + b"\n")
        copy.stdin.flush()
        copy.wait(60)  # nobody reads meanwhile
        assert json.loads(copy.stdout.read()) == {"kind": "BudgetExceededError", "message": "too much"}
