"""The one place that decides how Prefect and the model libraries behave in an `lsb` process.

Must run before Prefect is imported, because Prefect reads its settings at import. A variable that the user has
set is never changed. Importing this module changes nothing; `prepare()` does.
"""

from __future__ import annotations

import os
import tempfile
import tomllib
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path

from lsb.isolation import isolate_children, private_folder

DEFAULTS: Mapping[str, str] = {
    # No telemetry.
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # Prefect 3.8.8 cancels its recorder in the middle of a flush when the server stops, and loses task runs;
    # with one flush at the end it keeps them all. Can go when PrefectHQ flushes before it cancels.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "5000",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "60",
    # Results live in the store; Prefect keeps none.
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    # Work does not wait long for a server that only looks on; see `tasks.guarded.connection`.
    "PREFECT_CLIENT_MAX_RETRIES": "2",
    "PREFECT_API_REQUEST_TIMEOUT": "10",
    # OpenMP threads that wait sleep. Spinning, the default, makes torch a hundred times slower where processes share
    # cores (a pool of ours, or a neighbour); sleeping costs next to nothing where they do not. Changes no pixel.
    "OMP_WAIT_POLICY": "PASSIVE",
    # No progress bars of other people in the middle of ours.
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def prepare(*, verbose: bool = False, environment: MutableMapping[str, str] = os.environ) -> None:
    """Fill in what the user has not set.

    Args:
        verbose: let Prefect's own log lines reach the terminal.

    Raises:
        ResourceError: the folder for our own state is somebody else's, or cannot be made.
    """
    isolate_children(environment)
    # A proxy for this machine itself is never meant; Prefect's events would go through it.
    around = [name.strip() for name in (environment.get("no_proxy") or environment.get("NO_PROXY") or "").split(",")]
    if "*" not in around:
        around += [name for name in LOOPBACK if name not in around]
        environment["no_proxy"] = environment["NO_PROXY"] = ",".join(filter(None, around))
    profile = active_profile(environment)
    for name, value in DEFAULTS.items():
        if name not in profile:
            environment.setdefault(name, value)
    environment.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "DEBUG" if verbose else "CRITICAL")
    environment["PREFECT_PROFILES_PATH"] = str(_profiles(environment))
    if not home_is_writable(environment):
        state = _state(environment)
        environment.setdefault("HF_HOME", str(state / "huggingface"))
        environment.setdefault("MPLCONFIGDIR", str(state / "matplotlib"))
    named = environment.get("PREFECT_HOME") or profile.get("PREFECT_HOME")
    home = Path(named or _state(environment) / "prefect").expanduser().absolute()
    environment["PREFECT_HOME"] = str(home)
    # Prefect makes the folder but not those above it. One that cannot be made is reported by our server.
    with suppress(OSError):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)


def home_is_writable(environment: Mapping[str, str]) -> bool:
    """Whether the user's home directory exists and can be written to."""
    home = environment.get("HOME", "")
    return bool(home) and os.path.isdir(home) and os.access(home, os.W_OK)


def _state(environment: Mapping[str, str]) -> Path:
    """The folder for what we keep between commands; nobody else can write or read it."""
    given = environment.get("XDG_STATE_HOME", "")
    if os.path.isabs(given):
        path = Path(given, "lsb")
    elif home_is_writable(environment):
        path = Path(environment["HOME"]).absolute() / ".local" / "state" / "lsb"
    else:
        path = Path(tempfile.gettempdir()) / f"lsb-{os.geteuid()}"
    return private_folder(path, "set XDG_STATE_HOME, or PREFECT_HOME, HF_HOME and MPLCONFIGDIR, to folders of yours")


def _profiles(environment: Mapping[str, str]) -> Path:
    """The user's own profiles of Prefect, which Prefect would otherwise look for in the working folder first."""
    home = environment.get("PREFECT_HOME") or Path(environment.get("HOME") or "/", ".prefect")
    return Path(environment.get("PREFECT_PROFILES_PATH") or Path(home, "profiles.toml")).expanduser().absolute()


def active_profile(environment: Mapping[str, str]) -> dict[str, str]:
    """The settings of the user's active profile; empty if there is none, or no file that can be read."""
    try:
        found = tomllib.loads(_profiles(environment).read_text(encoding="utf-8"))
        return dict(found["profiles"][environment.get("PREFECT_PROFILE") or found["active"]])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
