"""What is being built or tried out: objects in `.tmp`, which a listing shows only to those who ask for them by name."""

from __future__ import annotations

import re
import secrets

TEMPORARY = ".tmp"
_BUILT = re.compile(rf"{re.escape(TEMPORARY)}/([0-9a-f]{{32}}|probe-[0-9a-f]{{16}})")


def probe_file() -> str:
    """A key for trying out a store."""
    return f"{TEMPORARY}/probe-{secrets.token_hex(8)}"


def temporary_name() -> str:
    """A fresh name in `.tmp` for an object that is being built."""
    return secrets.token_hex(16)


def is_temporary(key: str) -> bool:
    """Whether `key` is that of an object which was being built or tried out."""
    return _BUILT.fullmatch(key) is not None
