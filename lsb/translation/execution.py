"""Under which conditions an image was made: what its pixels depend on beyond the transform."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from lsb.ledger.schemas import ManifestRow
from lsb.records import digest_of

PROCESSORS = Path("/proc/cpuinfo")
NUMBERS = ("cpu family", "model", "CPU implementer", "CPU part")  # that tell processors apart


@dataclass(frozen=True)
class Shortcuts:
    """Faster ways to the same pictures, but for their last bits; by the names of their columns."""

    joint: bool = False
    channels_last: bool = False

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Shortcuts:
        """Those by which a row's image was made; rows of versions before say nothing of them."""
        return cls(**{field.name: bool(row.get(field.name)) for field in fields(cls)})


def threads_each(processes: int) -> int:
    """The processor's threads for each of several processes with a model: together those that torch would use here."""
    return max(1, torch.get_num_threads() // processes)


def describe(device: str, dtype: str, batch: int, threads: int, shortcuts: Shortcuts = Shortcuts()) -> ManifestRow:
    """The execution columns of the manifest, for a process's whole life.

    Args:
        device: torch's name, such as `cpu` or `cuda:0`.
        dtype: the network's, such as `float32`.
        batch: images per forward.
        threads: of the processor, for one operation: sums in another order differ in their last bits. Not recorded
            where an accelerator adds.
    """
    return {
        "device": f"{torch.device(device).type}: {_device_model(device)}",
        "dtype": dtype,
        "batch": batch,
        "joint": shortcuts.joint or None,
        "channels_last": shortcuts.channels_last or None,
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "threads": threads if torch.device(device).type == "cpu" else None,
        "code_version": _version(),
        "code_commit": checkout_commit(Path(__file__).resolve().parents[2]),
        "packages_sha256": packages_digest(),
    }


@cache
def packages_digest() -> str:
    """SHA-256 of the sorted names and versions of all installed packages."""
    every = (dist.metadata for dist in metadata.distributions())  # read once: `name` and `version` each read it anew
    found = {f"{about['Name'].lower()}=={about['Version']}" for about in every if about["Name"]}
    return digest_of(sorted(found))


def _device_model(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(torch.device(device))
    try:
        first, *_ = PROCESSORS.read_text().split("\n\n")
    except OSError:
        first = ""
    said = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}
    # In a virtual machine many have one name, and on ARM there is none.
    numbers = ", ".join(f"{name} {said[name]}" for name in NUMBERS if name in said)
    return said.get("model name", "unknown model") + (f" ({numbers})" if numbers else "")


def _version() -> str:
    try:
        return metadata.version("lsb")
    except metadata.PackageNotFoundError:
        return "unknown"


@cache
def checkout_commit(root: Path) -> str | None:
    """Commit of the checkout at `root`, followed by `-dirty` if files differ from it; None if it is no checkout."""
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    command = [git, "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
