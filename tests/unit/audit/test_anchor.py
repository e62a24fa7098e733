from __future__ import annotations

from pathlib import Path

import pytest

from lsb.audit import Anchor, Verdict, anchor_of, verify
from lsb.errors import UsageError
from lsb.ledger.attestation import open_envelope, read_public_key, read_signer
from lsb.ledger.publish import publish
from lsb.ledger.run import Run
from lsb.store.local import LocalStore
from tests.keys import key_pair
from tests.ledger import make_images, start, translate_all


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def run(store: LocalStore, tmp_path: Path) -> Run:
    """A finished run without a snapshot."""
    made, sources = start(store, make_images(tmp_path / "images", 2))
    translate_all(store, made, sources)
    return made


def kinds(verdict: Verdict) -> list[str]:
    return [finding.kind for finding in verdict.findings]


def test_an_unsigned_snapshot_is_intact_but_unverifiable_with_a_key(
    store: LocalStore, run: Run, tmp_path: Path
) -> None:
    publish(store, run, {}, b"page")
    verdict = verify(store, run.id)
    assert (verdict.exit_code, verdict.assurance) == (0, "integrity only")
    verdict = verify(store, run.id, anchor=anchor_of(key_pair(tmp_path)[1], None))
    assert (verdict.exit_code, kinds(verdict)) == (12, ["unverifiable"])
    assert "not signed" in verdict.findings[0].message


def test_a_signature_is_said_and_checked_with_its_key(store: LocalStore, run: Run, tmp_path: Path) -> None:
    (private, public), (_, other) = key_pair(tmp_path), key_pair(tmp_path, "other")
    publish(store, run, {}, b"page", signer=read_signer(private))
    key = read_public_key(public)
    verdict = verify(store, run.id)
    assert (verdict.exit_code, verdict.assurance) == (0, f"signed with key {key.id}, not checked")
    verdict = verify(store, run.id, anchor=Anchor(key))
    assert (verdict.exit_code, verdict.assurance) == (0, f"signed with key {key.id}")
    verdict = verify(store, run.id, anchor=Anchor(read_public_key(other)))
    assert (verdict.exit_code, verdict.assurance) == (12, "integrity only")
    assert key.id in verdict.findings[0].message


def test_publishing_again_with_a_key_signs_what_was_not_signed_by_it(
    store: LocalStore, run: Run, tmp_path: Path
) -> None:
    publish(store, run, {}, b"page")
    for number, name in enumerate(("first", "second"), start=1):
        private, public = key_pair(tmp_path, name)
        signer = read_signer(private)
        assert publish(store, run, {}, b"page", signer=signer).number == number
        assert publish(store, run, {}, b"page", signer=signer).number == number
        assert verify(store, run.id, anchor=anchor_of(public, None)).exit_code == 0
    assert publish(store, run, {}, b"page").number == 2


def test_a_digest_pins_the_newest_snapshot(store: LocalStore, run: Run) -> None:
    first = publish(store, run, {"kid": 1.0}, b"page")
    assert verify(store, run.id, anchor=Anchor(snapshot=first.sha256)).exit_code == 0
    second = publish(store, run, {"kid": 2.0}, b"page")
    assert verify(store, run.id).snapshot == second.sha256
    assert verify(store, run.id, anchor=Anchor(snapshot=second.sha256)).exit_code == 0
    older = verify(store, run.id, anchor=Anchor(snapshot=first.sha256))
    assert (older.exit_code, kinds(older)) == (10, ["tampered"])
    assert "number 0, not the newest" in older.findings[0].message
    assert verify(store, run.id, anchor=Anchor(snapshot="0" * 64)).exit_code == 10


def test_a_run_without_snapshots_cannot_meet_an_anchor(store: LocalStore, run: Run, tmp_path: Path) -> None:
    assert verify(store, run.id, anchor=Anchor(snapshot="0" * 64)).exit_code == 10
    assert verify(store, run.id, anchor=anchor_of(key_pair(tmp_path)[1], None)).exit_code == 12


def test_a_signature_covers_the_entry_before_its_snapshot(store: LocalStore, run: Run, tmp_path: Path) -> None:
    first = publish(store, run, {"kid": 1.0}, b"page")
    second = publish(store, run, {"kid": 2.0}, b"page", signer=read_signer(key_pair(tmp_path)[0]))
    envelope = open_envelope(store.read(second.attestation_key), second.attestation_key)
    assert first.sha256.encode() in envelope.payload


@pytest.mark.parametrize("digest", ["", "0" * 63, "G" * 64, "A" * 64])
def test_what_is_no_digest_is_a_usage_error(digest: str) -> None:
    with pytest.raises(UsageError, match="64 hex digits"):
        anchor_of(None, digest)
