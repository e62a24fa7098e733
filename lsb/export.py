"""Copy a run's outputs out of the store, under the names of their sources."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lsb.errors import StoreError, TamperedError, UsageError
from lsb.manifest import Gates, collect
from lsb.records import Status
from lsb.sharding import Run, read_plan
from lsb.storage.commit_log import read_checked
from lsb.storage.layout import SUFFIX_OF_FORMAT
from lsb.storage.store import Store


@dataclass(frozen=True)
class Exported:
    """Counts of one export."""

    written: int
    unchanged: int  # were there already with the same bytes
    without_output: int  # planned records that have no output, or none yet


def export(store: Store, run: Run, destination: Path, *, overwrite: bool = False) -> Exported:
    """Write each output to `destination` under its source's relative name, with the output's suffix.

    Files appear whole or not at all; a second call goes on where the first was cut off.

    Args:
        overwrite: replace files that have other bytes.

    Raises:
        UsageError: such a file is there and `overwrite` is off.
        TamperedError: an output is missing or differs from what its row names.
        StoreError: the destination cannot be written.
    """
    suffix = SUFFIX_OF_FORMAT[run.transform["encoder"]]
    keys = read_plan(store, run)["key"].to_pylist()
    names = target_names(keys, suffix)
    columns = ["source_key", "status", "output_key", "output_sha256"]
    written = unchanged = 0
    rows = collect(store, run, gates=Gates()).rows.select(columns).to_pylist()
    for row in rows:
        if row["status"] != Status.OK:
            continue
        path = _inside(destination, names[row["source_key"]])
        data = read_checked(store, row["output_key"], row["output_sha256"])
        try:
            if path.exists():
                if path.read_bytes() == data:
                    unchanged += 1
                    continue
                if not overwrite:
                    raise UsageError(f"{path} exists with other bytes; export elsewhere or allow overwriting")
            _write(path, data)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise StoreError(f"cannot write {path}: {reason}; check path, permissions and space") from error
        written += 1
    return Exported(written, unchanged, len(keys) - written - unchanged)


def target_names(keys: Iterable[str], suffix: str) -> dict[str, str]:
    """Where each source's output goes: its own name with the suffix replaced, or appended where two would meet.

    Names that differ only in case count as meeting, since some file systems cannot hold both.
    """
    names = {key: str(PurePosixPath(key).with_suffix(suffix)) for key in keys}
    while True:
        uses = Counter(name.casefold() for name in names.values())
        meeting = [key for key, name in names.items() if uses[name.casefold()] > 1 and name != key + suffix]
        if not meeting:
            return names
        names |= {key: key + suffix for key in meeting}


def _inside(destination: Path, name: str) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise TamperedError(f"source name {name!r} leads out of the destination", key=name)
    return destination / path


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
