"""The settings that were chosen, written into a job's file."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lsb.bridge.method import Method
from lsb.bridge.methods import name_of
from lsb.bridge.settings import BridgeSettings
from lsb.config.edit import with_settings, without_section
from lsb.config.file import text_of
from lsb.config.job import JobConfig, LsbMethod, job_of, load_config
from lsb.config.reference import in_yaml
from lsb.errors import ConfigError, UsageError
from lsb.records import sha256

WRITTEN = "written.sha256"  # of the file that was written last


def with_method(config: JobConfig, method: Method) -> JobConfig:
    """The job with another method, or other settings of its own.

    Raises:
        ConfigError: something else in the job is not for this method, such as a negative prompt.
    """
    is_lsb = isinstance(method, BridgeSettings)
    changed = config.model_copy(
        update={
            "method": LsbMethod() if is_lsb else method,
            "bridge": method if is_lsb else BridgeSettings(),
        }
    )
    # Of these it matters what was said.
    return job_of(changed.model_dump()).model_copy(update={"geometry": config.geometry, "learning": config.learning})


def refuse_existing(out: Path, folder: Path) -> None:
    """Refuse to write over a file, unless it is to the letter what `write_tuned` has written.

    Raises:
        UsageError: there is one.
    """
    if not os.path.lexists(out):
        return
    written = folder / WRITTEN
    if written.is_file() and out.is_file() and sha256(out.read_bytes()) == written.read_text():
        return
    raise UsageError(f"{out} exists; move it away, give another file with --out, or change the job with --write")


def write_tuned(path: Path, config: JobConfig, method: Method, folder: Path, out: Path | None = None) -> Path:
    """Write a job's file with other settings of its method; all else in it, comments too, stays.

    Args:
        folder: where it is kept what was written, so that the next search may write anew what nobody has changed.
        out: a new file beside the job's; None for the job's own.

    Raises:
        UsageError: there is such a file, or it cannot be written.
        ConfigError: the job is written so that this cannot be done; it says what to write.
    """
    goal = _goal(path, out)
    by_hand = f"{type(method).section}: {in_yaml(method.model_dump(mode='json', exclude_defaults=True))}"
    with _partial(path, config, method, goal, f", or write `{by_hand}` into it yourself") as partial:
        if out is None:
            shutil.copymode(goal, partial)
        else:
            refuse_existing(out, folder)
            (folder / WRITTEN).write_text(sha256(partial.read_bytes()))
        os.replace(partial, goal)
    return path if out is None else out


def refuse_unwritable(path: Path, config: JobConfig, base: Method, out: Path | None = None) -> None:
    """Refuse what `write_tuned` would refuse once settings are found; nothing is left of what is tried to that end.

    Raises:
        UsageError, ConfigError: see there.
    """
    other = base.model_copy(update={base.strength: 0.9 * (getattr(base, base.strength) or 1.0)})
    with _partial(path, config, other, _goal(path, out)):
        pass


def _goal(path: Path, out: Path | None) -> Path:
    return Path(os.path.realpath(path)) if out is None else out


@contextmanager
def _partial(path: Path, config: JobConfig, method: Method, goal: Path, otherwise: str = "") -> Iterator[Path]:
    """A file beside the goal, to be read as the job with this method; gone afterwards unless it has been moved.

    Args:
        otherwise: what may be done instead, where this cannot be written.
    """
    text = _text(text_of(path), config.method_settings, method)
    partial = goal.with_name(f".{goal.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("x", encoding="utf-8", newline="") as file:
            file.write(text)
        _check(partial, path, config, method, goal, otherwise)
        yield partial
    except OSError as error:
        raise UsageError(f"cannot write {goal}: {error.strerror}; give another file with --out") from error
    finally:
        partial.unlink(missing_ok=True)


def _text(text: str, before: Method, method: Method) -> str:
    section = type(method).section
    if type(before) is not type(method):
        text = without_section(without_section(text, "bridge"), "method")
        values = {} if isinstance(method, BridgeSettings) else {"name": name_of(method)}
        return with_settings(text, section, values | _set(method, type(method)()))
    return with_settings(text, section, _set(method, before))


def _set(method: Method, before: Method) -> dict[str, Any]:
    """What is to be said of a method: its dials, and whatever has changed."""
    values, others = method.model_dump(mode="json"), before.model_dump(mode="json")
    return {name: value for name, value in values.items() if name in method.dials or value != others[name]}


def _check(partial: Path, path: Path, config: JobConfig, method: Method, goal: Path, otherwise: str) -> None:
    """What was written must be read as what was meant."""
    try:
        is_right = load_config(partial) == with_method(config, method)
    except ConfigError:
        is_right = False
    if not is_right:
        reason = "is written so that its settings cannot be changed from here; put them on lines of their own"
        if os.path.realpath(goal.parent) != os.path.realpath(path.parent):
            reason = f"says other things from {goal.parent}; give a file beside it"
        raise ConfigError(f"{path} {reason}{otherwise}", field=type(method).section)
