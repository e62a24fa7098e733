"""Every command explains itself with an example that can be typed, and errors become exit codes."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer.main

from lsb.cli import main as cli
from lsb.cli.commands import looking, making
from lsb.errors import BudgetExceededError, StoreBusyError, TamperedError, UsageError

COMMANDS = {
    "init", "listen", "tune", "run", "ingest", "optimise", "plan", "translate", "work", "evaluate", "publish",
    "ls", "status", "rerun", "diff", "verify", "export", "report", "gc", "erase", "trace",
}  # fmt: skip


def group() -> typer.main.TyperGroup:
    made = typer.main.get_command(cli.app)
    assert isinstance(made, typer.main.TyperGroup)
    return made


def test_there_are_these_commands() -> None:
    assert set(group().commands) == COMMANDS


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_carries_an_example_that_parses(name: str) -> None:
    command = group().commands[name]
    examples = re.findall(r"^\s*Example: lsb (.+)$", command.help or "", flags=re.MULTILINE)
    assert len(examples) == 1
    first, *arguments = examples[0].split()
    assert first == name
    command.make_context(name, arguments)
    for file in (Path(word) for word in arguments if word.endswith(".yaml")):
        assert file.exists()


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_is_explained(name: str) -> None:
    for parameter in group().commands[name].params:
        if parameter.name not in ("help", "config"):
            assert getattr(parameter, "help", None), parameter.name


def test_help_answers_without_loading_torch_or_prefect() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = "import sys, lsb.cli.main; sys.exit(bool({'torch', 'prefect', 'pyarrow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert 0.01 < used < 1.5  # CPU seconds of the child


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("two words"), 2),
        (StoreBusyError("busy"), 3),
        (BudgetExceededError("too many"), 4),
        (TamperedError("changed", key="a"), 10),
        (ZeroDivisionError("no\nlines"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_is_one_line_and_its_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(making, "load_config", fail)
    assert cli.run_command(["run", "any.yaml"]) == code
    complaint = capsys.readouterr().err
    assert complaint.startswith("lsb: error: ")
    assert complaint.count("\n") == 1
    if code == 1:
        assert "--verbose" in complaint


def test_verbose_shows_where(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: object) -> None:
        raise UsageError("two words")

    monkeypatch.setattr(making, "load_config", fail)
    assert cli.run_command(["run", "any.yaml", "--verbose"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_takes_verbose(name: str) -> None:
    (option,) = [parameter for parameter in group().commands[name].params if parameter.name == "verbose"]
    assert set(option.opts) == {"--verbose", "-v"}


def test_verbose_shows_where_a_bug_is_in_a_command_without_prefect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError("no lines")

    monkeypatch.setattr(looking, "open_store_of", fail)
    for extra in ([], ["--verbose"]):
        assert cli.run_command(["status", "out/runs/a-0123456789ab", *extra]) == 1
        assert ("Traceback" in capsys.readouterr().err) == bool(extra)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nonsense"], "no such command 'nonsense'; `lsb --help` says what there is"),
        (["--nonsense"], "no such option: --nonsense; `lsb --help` says what there is"),
        (["run", "a.yaml", "--nonsense"], "no such option: --nonsense; `lsb run --help` says what there is"),
        (["run"], "missing argument 'CONFIG'; `lsb run --help` says what there is"),
        (["run", "a.yaml", "b.yaml"], "got unexpected extra argument(s) (b.yaml); `lsb run --help` says what there is"),
        (["erase", "runs/a"], "missing option '--reason'; `lsb erase --help` says what there is"),
        (
            ["rerun", "runs/a", "--workers", "0"],
            "invalid value for '--workers': Input should be greater than or equal to 1; "
            "`lsb rerun --help` says what there is",
        ),
    ],
)
def test_wrong_arguments_are_one_line(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(arguments) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"lsb: error: {complaint}\n")


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["--version"]) == 0
    declared = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]["version"]
    assert capsys.readouterr().out == f"lsb {declared}\n"


def test_without_arguments_there_is_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command([]) == 2
    assert "Usage: lsb [OPTIONS] COMMAND" in capsys.readouterr().err


def test_nobody_reading_the_output_is_no_error() -> None:
    lsb = Path(sys.executable).with_name("lsb")
    reader = f"{lsb} --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", reader], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("0", "")
