"""What was erased on request: named in a log with its reason, and gone. That is no damage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lsb.audit.verdict import INCOMPLETE, TAMPERED, Inspection
from lsb.ledger.log.commit_log import Condemnation


def inspect_erased(seen: Inspection, keys: Iterable[str]) -> None:
    """Note files that were erased, here or in the run that made them; one that is still there awaits its end."""
    for key in sorted(keys):
        seen.name([key])
        seen.erased.append(key)
        if key in seen.present or key in seen.present_elsewhere:
            seen.find(INCOMPLETE, key, f"{key} is erased but still there; repeat `lsb erase` to finish")


def known_erasures(
    seen: Inspection, named: Mapping[str, str], erased: Mapping[str, Condemnation], where: str
) -> dict[str, Condemnation]:
    """Of `erased`, by file, what the log entries in `named` erased; one that is not among them is found.

    Args:
        named: key to digest of log entries, as a snapshot's entry names them.
        where: that entry.
    """
    digests = {entry.link.key: entry.link.sha256 for entry in erased.values()}
    for key, digest in named.items():
        if digests.get(key) != digest:
            seen.find(TAMPERED, key, f"{key} is not the erasure that {where} names")
    return {file: entry for file, entry in erased.items() if entry.link.key in named}
