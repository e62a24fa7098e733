"""What a copy on this machine says of its end, and what else it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from flows.runners.part import Part
from lsb.logs import WANTED
from lsb.store.local import LocalStore
from tests.unit.jobs.work.fleet import config_over

LOUD = """
import logging, os
from flows.runners import local
from lsb.errors import BudgetExceededError

def loud(part):
    os.write(1, b"what a library has to say\\n" * 4000)
    logging.getLogger("lsb.x").info("at work on %s", part.run)
    raise BudgetExceededError("too much")

local.do = loud
local.main()
"""


def test_its_end_alone_goes_to_whoever_started_it_and_logs_are_as_asked(tmp_path: Path) -> None:
    part = Part(config_over(LocalStore(tmp_path / "store"), tmp_path), "run", mark="m")
    said = tmp_path / "said"
    with (
        said.open("wb") as errors,
        subprocess.Popen(
            [sys.executable, "-P", "-c", LOUD],
            env={**os.environ, WANTED: "json"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        ) as copy,
    ):
        assert copy.stdin is not None
        assert copy.stdout is not None
        copy.stdin.write(json.dumps(part.document()).encode() + b"\n")
        copy.stdin.flush()
        copy.wait(60)  # nobody reads meanwhile
        assert json.loads(copy.stdout.read()) == {"kind": "BudgetExceededError", "message": "too much"}
    (line,) = [json.loads(line) for line in said.read_text().splitlines() if line.startswith("{")]
    assert line["message"] == "at work on run"
