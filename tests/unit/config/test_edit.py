"""Settings are changed in a job's text, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from lsb.config.edit import with_settings, without_section

TEXTS = {
    "inline": "# mine\nname: a\nbridge: {tau: 0.1, nfe: 8}  # why\nseed: 1\n",
    "comma": "{name: a, bridge: {tau: 0.1, nfe: 8,}, seed: 1}",
    "long": "name: a\nbridge: {\n  tau: 0.1,  # why\n  nfe: 8  # too\n}\nseed: 1\n",
    "lines": "name: a\nbridge:  # why\n  nfe: 8\n  tau: 0.1  # too\n#  t0: 0.2\nseed: 1\n",
    "last": "name: a\nseed: 1\nbridge:\n    tau: 0.1\n    nfe: 8",
    "windows": "name: a\r\nbridge:\r\n  tau: 0.1\r\n  nfe: 8\r\nseed: 1\r\n",
    "without": "name: a\nseed: 1",
    "without, in braces": "{name: a, seed: 1}",
    "empty": "name: a\nbridge: {}\nseed: 1\n",
}
VALUES = {"tau": 0.25, "noise": "mix", "times": [0.1, 0.5], "t0": 0.1}


@pytest.mark.parametrize("name", TEXTS)
def test_values_are_set_and_all_else_stays(name: str) -> None:
    before = TEXTS[name]
    after = with_settings(before, "bridge", VALUES)
    expected: dict[str, Any] = yaml.safe_load(before)
    expected["bridge"] = (expected.get("bridge") or {}) | VALUES
    assert yaml.safe_load(after) == expected
    assert [line.partition("#")[2] for line in after.splitlines() if "#" in line] == [
        line.partition("#")[2] for line in before.splitlines() if "#" in line and line != "#  t0: 0.2"
    ]
    assert with_settings(after, "bridge", VALUES) == after


@pytest.mark.parametrize("name", TEXTS)
def test_a_section_goes_and_comments_between_others_stay(name: str) -> None:
    before = TEXTS[name]
    expected = yaml.safe_load(before)
    expected.pop("bridge", None)
    after = without_section(before, "bridge")
    assert yaml.safe_load(after) == expected
    assert ("#  t0: 0.2" in after) == ("#  t0: 0.2" in before)


FIRST_FILE = """\
# A job.
name: a
bridge:  # How far.
#  preset: published  # which
  tau: 0.1  # mine
#  # A comment that is too long for its line.
#  t0: 0.9 is what Anna used
#  t0: 0.5
#  noise: step
#learning:  # How prompts are learned.
#  times: 3
#  noise: learned
seed: 1
"""
SET = """\
# A job.
name: a
bridge:  # How far.
  times: [0.1, 0.5]
#  preset: published  # which
  tau: 0.25  # mine
#  # A comment that is too long for its line.
#  t0: 0.9 is what Anna used
  t0: 0.1
  noise: mix
#learning:  # How prompts are learned.
#  times: 3
#  noise: learned
seed: 1
"""


@pytest.mark.parametrize("commented", [False, True])
def test_what_is_commented_out_gives_its_line(commented: bool) -> None:
    """Of this section, not of the next; the section itself may be commented out."""
    before, after = FIRST_FILE, SET
    if commented:
        before = before.replace("bridge:", "#bridge:").replace("  tau: 0.1  # mine", "#  tau: 0.1  # mine")
    assert with_settings(before, "bridge", VALUES) == (
        after
        if commented
        else after.replace("  times: [0.1, 0.5]\n", "").replace("  tau: ", "  times: [0.1, 0.5]\n  tau: ")
    )
    assert yaml.safe_load(after)["bridge"] == VALUES


def test_a_commented_section_may_be_the_last_line() -> None:
    after = with_settings("name: a\n#bridge:", "bridge", {"nfe": 8, "tau": 0.5})
    assert yaml.safe_load(after) == {"name": "a", "bridge": {"nfe": 8, "tau": 0.5}}


def test_an_empty_section_is_filled() -> None:
    assert with_settings("bridge: {}\nname: a\n", "bridge", {"nfe": 8}) == "bridge: {nfe: 8}\nname: a\n"
