"""The page of all commands is what the commands say of themselves."""

from __future__ import annotations

from pathlib import Path

import typer.main

from lsb.cli.main import app
from lsb.cli.reference import reference

PAGE = Path(__file__).resolve().parents[3] / "docs" / "commands.md"


def test_the_page_is_that_of_today() -> None:
    assert PAGE.read_text() == reference(), "a command has changed: run `make reference`"


def test_every_command_and_option_is_on_it() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.main.TyperGroup)
    for name, command in group.commands.items():
        _, _, after = PAGE.read_text().partition(f"\n## lsb {name}\n")
        section = after.partition("\n## ")[0]
        assert section
        for parameter in command.params:
            named = (
                parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.metavar or parameter.name.upper()
            )
            assert named in section, f"{name} {named}"
            assert f"lsb {name} " in section
