"""Prefect takes no settings from files that happen to lie in the working folder.

By itself it reads `.env`, `prefect.toml` and `pyproject.toml` there, and a setting may name a logging file that calls
functions, or a server that hears everything. The environment and the user's own profile count as ever.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def ignore_working_folder() -> None:
    """Import Prefect's settings without those files, and let nobody read them later."""
    with _elsewhere():  # the settings are read for the first time when the module is imported
        from prefect.settings import sources

    def nothing(*_: Any, **__: Any) -> dict[str, Any]:
        return {}

    sources.TomlConfigSettingsSourceBase._read_files = nothing  # type: ignore[method-assign]
    sources.FilteredDotEnvSettingsSource._read_env_files = nothing  # type: ignore[method-assign]


@contextmanager
def _elsewhere() -> Iterator[None]:
    """In the root folder, where only the system's owner can write."""
    here = os.open(".", getattr(os, "O_PATH", os.O_RDONLY))
    os.chdir("/")
    try:
        yield
    finally:
        os.fchdir(here)
        os.close(here)
