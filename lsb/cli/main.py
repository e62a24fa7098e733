"""The `lsb` command: its list of commands, and how a call of it ends.

A command parses, builds a configuration, calls, renders; nothing else. torch and Prefect are imported by the commands
that need them, so that `lsb --help` answers at once.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from lsb.cli.commands.deleting import erase, gc
from lsb.cli.commands.looking import diff, export, listen, ls, report, status, trace, verify
from lsb.cli.commands.making import (
    evaluate,
    ingest,
    init,
    optimise,
    plan,
    publish,
    rerun,
    run,
    translate,
    tune,
    work,
)
from lsb.cli.exit_code import end_with, exit_code
from lsb.cli.terminal import tame_terminal
from lsb.errors import UsageError
from lsb.logs import log_as_asked

app = typer.Typer(
    name="lsb",
    help="Translate whole image data sets from one look to another, and prove what happened to every picture.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    init, listen, tune, run, ingest, optimise, plan, translate, work, evaluate, publish,
    ls, status, rerun, verify, diff, trace, export, report, gc, erase,
):  # fmt: skip
    app.command()(command)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"lsb {version('lsb')}")
        raise typer.Exit


@app.callback()
def lsb(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: an error becomes its exit code and one line."""
    tame_terminal()
    end_with(lambda: run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run `lsb` with arguments; the exit code."""
    verbose = "--verbose" in arguments or "-v" in arguments
    return exit_code(lambda: _call(arguments), verbose=verbose)


def _call(arguments: list[str]) -> Any:
    log_as_asked()
    try:
        return app(args=arguments, prog_name="lsb", standalone_mode=False)
    except TyperException as error:
        if not arguments:  # it carries the help
            raise
        message = error.format_message().rstrip(".")
        context = getattr(error, "ctx", None)
        shown = f"{context.command_path if context else 'lsb'} --help"
        raise UsageError(f"{message[:1].lower()}{message[1:]}; `{shown}` says what there is") from error


if __name__ == "__main__":
    main()
