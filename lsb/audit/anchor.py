"""What the asker knows from elsewhere: a public key, or the digest of the newest snapshot.

Whoever can write to the store can make everything in it anew, digests and seals included. Only something kept
elsewhere tells that from the original.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lsb.audit.snapshots import Snapshots
from lsb.audit.verdict import TAMPERED, UNVERIFIABLE, Inspection
from lsb.errors import UsageError
from lsb.ledger import layout
from lsb.ledger.attestation import INTEGRITY_ONLY, PublicKey, read_public_key

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Anchor:
    """`key` must have signed the newest snapshot, `snapshot` must be the digest of its entry; None asks nothing."""

    key: PublicKey | None = None
    snapshot: str | None = None


def anchor_of(key: Path | None, snapshot: str | None) -> Anchor:
    """The anchor that a public key's file and a digest make; UsageError if one of them is none."""
    if snapshot is not None and not _DIGEST.fullmatch(snapshot):
        raise UsageError(f"{snapshot!r} is no snapshot's digest; give the 64 hex digits that `lsb verify` printed")
    return Anchor(read_public_key(key) if key else None, snapshot)


def inspect_anchor(seen: Inspection, anchor: Anchor, snapshots: Snapshots) -> str:
    """Check the newest snapshot against what is known from elsewhere; what stands behind it, in words."""
    newest, envelope = snapshots.newest, snapshots.envelope
    log = layout.snapshot_log(seen.run_id)
    # What kept the log from being read is a finding already.
    if anchor.snapshot is not None and snapshots.whole and (newest is None or newest.sha256 != anchor.snapshot):
        older = [snapshot.number for snapshot in snapshots.views if snapshot.sha256 == anchor.snapshot]
        what = f"number {older[0]}, not the newest" if older else "none of this run"
        is_newest = f"the newest is {newest.sha256}" if newest else "there is none"
        key = layout.numbered(log, newest.number) if newest else log
        seen.find(TAMPERED, key, f"snapshot {anchor.snapshot} is {what}; {is_newest}")
    signer = envelope.key_id if envelope else None
    if anchor.key is None:
        return f"signed with key {signer}, not checked" if signer else INTEGRITY_ONLY
    if envelope is not None and anchor.key.verifies(envelope):
        return f"signed with key {anchor.key.id}"
    if newest is None:
        reason = "no snapshot can be read"
    elif signer is None:
        reason = "the newest snapshot is not signed"
    elif signer == anchor.key.id:
        reason = "the newest snapshot names it, but the signature is not by it"
    else:
        reason = f"the newest snapshot is signed with key {signer}"
    key = newest.attestation_key if newest else log
    seen.find(UNVERIFIABLE, key, f"no signature with key {anchor.key.id}: {reason}")
    return INTEGRITY_ONLY
