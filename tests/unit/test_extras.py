"""What a plain install brings is enough for the library and for whoever checks a run."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from lsb.cli.exit_code import EXTRAS

REPOSITORY = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
OPTIONAL = PROJECT["optional-dependencies"]

# Runs code in a process that cannot import the packages of the extras.
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
{code}
"""


def names(requirements: list[str]) -> set[str]:
    """The distributions that they ask for, lsb itself left out."""
    return {re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in requirements} - {"lsb"}


def modules(*extras: str) -> set[str]:
    """The packages that the extras bring to be imported."""
    wanted = set().union(*(names(OPTIONAL[extra]) for extra in extras))
    return {module for module, homes in packages_distributions().items() if wanted & {home.lower() for home in homes}}


def without_extras(code: str) -> subprocess.CompletedProcess[str]:
    everything = modules(*OPTIONAL) - modules("dev") | {"peft"}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(names=everything, code=code)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_library_is_imported_without_any_extra() -> None:
    code = "import lsb, lsb.audit, lsb.views.page_html, lsb.views.trace, lsb.translation.translator\n"
    code += "for name in set(lsb.__all__) - {'load_backbone'}: getattr(lsb, name)"
    done = without_extras(code)
    assert done.returncode == 0, done.stderr


def test_a_run_is_verified_and_looked_at_without_any_extra(tmp_path: Path) -> None:
    with zipfile.ZipFile(REPOSITORY / "tests" / "fixtures" / "old_store.zip") as old:
        old.extractall(tmp_path)
    runs = sorted(path.parent for path in tmp_path.rglob("run.json"))
    run = next(run for run in runs if (run / "snapshots").exists())
    commands = [
        ["verify", run],
        ["status", run],
        ["report", run],
        ["export", run, tmp_path / "out"],
        ["diff", run, run],
    ]
    commands += [["gc", run.parent.parent, "--dry-run"]]
    calls = [[str(word) for word in command] for command in commands]
    code = f"from lsb.cli.main import run_command\nprint([run_command(call) for call in {calls!r}])"
    done = without_extras(code)
    assert done.stdout.splitlines()[-1] == str([0] * len(calls)), done.stdout + done.stderr


@pytest.mark.parametrize(("command", "extra"), [(["run"], "run"), (["run", "--dry-run"], "models")])
def test_a_command_that_needs_one_names_it(command: list[str], extra: str) -> None:
    call = [*command, "examples/emoji/job.yaml"]
    done = without_extras(f"from lsb.cli.main import run_command\nsys.exit(run_command({call!r}))")
    assert done.returncode == 3
    assert done.stderr.startswith("lsb: error: this command needs the package ")
    assert done.stderr.endswith(f"; pip install 'lsb[{extra}]'\n")
    assert done.stderr.count("\n") == 1


def test_every_package_of_these_extras_is_named_so() -> None:
    for extra in ("models", "run"):
        assert {module for module, home in EXTRAS.items() if home == extra} == names(OPTIONAL[extra])


def test_the_newest_release_in_the_changelog_is_this_version() -> None:
    headings = re.findall(r"^## (.+)$", (REPOSITORY / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[0] == "Unreleased"
    version, _, date = headings[1].partition(" - ")
    assert version == PROJECT["version"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", date)


def test_everything_that_make_installs_is_pinned() -> None:
    pinned = names([line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if "==" in line])
    (installed,) = re.findall(r"-e '\.\[(.+)\]'", (REPOSITORY / "Makefile").read_text())
    asked = names(PROJECT["dependencies"]).union(*(names(OPTIONAL[extra]) for extra in installed.split(",")))
    assert {name.replace("_", "-") for name in asked} <= {name.replace("_", "-") for name in pinned}
