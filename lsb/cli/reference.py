"""The page `docs/commands.md`, from the commands themselves: `python -m lsb.cli.reference > docs/commands.md`."""

from __future__ import annotations

import inspect
import sys

import typer.main

from lsb.cli.main import app

HEAD = """# Commands

What `lsb --help` and `lsb COMMAND --help` say, on one page. It is made from the commands (`make reference`).
`lsb --version` says which lsb is installed.
What a command ends with is in [operations](operations.md#stopping-and-going-on).
"""


def reference() -> str:
    """The page, as Markdown."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.main.TyperGroup)
    sections = []
    for name, command in group.commands.items():
        assert isinstance(command, typer.main.TyperCommand)
        sections.append(_section(f"{group.name} {name}", command))
    return "\n".join([HEAD, *sections])


def _section(name: str, command: typer.main.TyperCommand) -> str:
    context = typer.Context(command, info_name=name)
    text, _, example = inspect.cleandoc(command.help or "").partition("Example: ")
    # The usage line has an argument in braces where it is named by its metavar.
    usage = " ".join([name, *command.collect_usage_pieces(context)]).replace("{", "").replace("}", "")
    rows = [record for parameter in command.params if (record := parameter.get_help_record(context))]
    table = [
        "| argument or option | what it does |",
        "|---|---|",
        *(f"| `{what}` | {_cell(said)} |" for what, said in rows),
    ]
    return "\n".join([f"## {name}", "", text.strip(), "", f"    {usage}", "", *table, "", f"Example: `{example}`", ""])


def _cell(text: str) -> str:
    """Text escaped for a table of Markdown, but for its code in backticks."""
    for character in "\\|<*[":
        text = text.replace(character, f"\\{character}")
    return text


if __name__ == "__main__":
    sys.stdout.write(reference())
