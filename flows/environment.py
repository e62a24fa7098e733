"""The one place that decides how Prefect and the model libraries behave in an `lsb` process.

Must run before Prefect is imported, because Prefect reads its settings at import. A variable that the user has
set is never changed. Importing this module changes nothing; `prepare()` does.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path

from lsb.isolation import isolate_children

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
    # OpenMP threads that wait sleep. Spinning, the default, makes torch a hundred times slower where processes share
    # cores (a pool of ours, or a neighbour); sleeping costs next to nothing where they do not. Changes no pixel.
    "OMP_WAIT_POLICY": "PASSIVE",
    # No progress bars of other people in the middle of ours.
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}


def prepare(*, verbose: bool = False, environment: MutableMapping[str, str] = os.environ) -> None:
    """Fill in what the user has not set.

    Args:
        verbose: let Prefect's own log lines reach the terminal.
    """
    isolate_children(environment)
    for name, value in DEFAULTS.items():
        environment.setdefault(name, value)
    environment.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "DEBUG" if verbose else "CRITICAL")
    if not home_is_writable(environment):
        state = Path(tempfile.gettempdir()) / f"lsb-{os.getuid()}"
        environment.setdefault("PREFECT_HOME", str(state / "prefect"))
        environment.setdefault("HF_HOME", str(state / "huggingface"))
        environment.setdefault("MPLCONFIGDIR", str(state / "matplotlib"))
    _fix_profiles(environment)
    if home := environment.get("PREFECT_HOME"):
        # Prefect makes the folder but not those above it. One that cannot be made is reported by our server.
        with suppress(OSError):
            Path(home).mkdir(mode=0o700, parents=True, exist_ok=True)


def _fix_profiles(environment: MutableMapping[str, str]) -> None:
    """Name what Prefect would otherwise look for in the working folder, or relative to whatever that is by then."""
    if home := environment.get("PREFECT_HOME"):
        environment["PREFECT_HOME"] = str(Path(home).expanduser().absolute())
    default = Path(environment.get("PREFECT_HOME") or Path(environment.get("HOME", "/"), ".prefect")) / "profiles.toml"
    profiles = Path(environment.get("PREFECT_PROFILES_PATH") or default).expanduser()
    environment["PREFECT_PROFILES_PATH"] = str(profiles.absolute())


def home_is_writable(environment: Mapping[str, str]) -> bool:
    """Whether the user's home directory exists and can be written to."""
    home = environment.get("HOME", "")
    return bool(home) and os.path.isdir(home) and os.access(home, os.W_OK)
