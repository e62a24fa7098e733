"""What a snapshot states about its files, and who signed it.

An in-toto Statement v1 (https://in-toto.io/Statement/v1) in a DSSE envelope
(https://github.com/secure-systems-lab/dsse/blob/v1.0.2/protocol.md). With a key the envelope carries one Ed25519
signature over its pre-authentication encoding; without, none: then the statement ties the files together and says
nothing about who made them.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from lsb.errors import TamperedError, UsageError
from lsb.ledger import layout
from lsb.ledger.log.snapshots import ATTESTATION_NAME
from lsb.ledger.run import Run
from lsb.records import canonical_json, sha256

SIGNING_KEY = "LSB_SIGNING_KEY"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
PREDICATE_TYPE = "urn:lsb:snapshot-attestation:v1"
INTEGRITY_ONLY = "integrity only"
_MAKE_PRIVATE = "make one with `openssl genpkey -algorithm ed25519 -out KEY.pem`"
_MAKE_PUBLIC = "make it with `openssl pkey -in KEY.pem -pubout -out PUBLIC.pem`"


@dataclass(frozen=True)
class PublicKey:
    """An Ed25519 key that signatures are checked against."""

    key: Ed25519PublicKey

    @property
    def id(self) -> str:
        """SHA-256 of the key as DER SubjectPublicKeyInfo, 64 hex digits."""
        return sha256(self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))

    def verifies(self, envelope: Envelope) -> bool:
        """Whether one of the envelope's signatures is this key's, over exactly these bytes."""
        message = pre_authentication_encoding(envelope.payload_type, envelope.payload)
        return any(self._verifies(signature, message) for _, signature in envelope.signatures)

    def _verifies(self, signature: bytes, message: bytes) -> bool:
        try:
            self.key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class Signer:
    """An Ed25519 key that signs. Its representation holds no secret."""

    key: Ed25519PrivateKey

    @property
    def public(self) -> PublicKey:
        return PublicKey(self.key.public_key())


@dataclass(frozen=True)
class Envelope:
    """A DSSE envelope: what is signed, and signatures with the ids of their keys."""

    payload_type: str
    payload: bytes
    signatures: tuple[tuple[str, bytes], ...]

    @property
    def key_id(self) -> str | None:
        """The key that the first signature claims to be by; None if there is no signature."""
        return self.signatures[0][0] if self.signatures else None


def environment_signer(environment: Mapping[str, str] = os.environ) -> Signer | None:
    """The key in the PEM file that LSB_SIGNING_KEY names, None if it names none. The only place that reads it.

    Raises:
        UsageError: the file cannot be read or holds no unencrypted Ed25519 private key.
    """
    path = environment.get(SIGNING_KEY)
    if path and not os.path.lexists(path):  # it may be the key itself, and is not repeated
        raise UsageError(f"{SIGNING_KEY} is no path: No such file; it names a key in PEM, {_MAKE_PRIVATE}")
    return read_signer(Path(path)) if path else None


def read_signer(path: Path) -> Signer:
    """The private key in a PEM file (PKCS#8); UsageError if it holds none that can sign."""
    data = _read(path, f"signing key {path} ({SIGNING_KEY})", _MAKE_PRIVATE)
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError:
        raise UsageError(f"signing key {path} ({SIGNING_KEY}) is encrypted; give one without a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"signing key {path} ({SIGNING_KEY}) is no Ed25519 private key in PEM; {_MAKE_PRIVATE}")
    return Signer(key)


def read_public_key(path: Path) -> PublicKey:
    """The public key in a PEM file; UsageError if it holds none."""
    data = _read(path, f"public key {path}", _MAKE_PUBLIC)
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"public key {path} is no Ed25519 public key in PEM; {_MAKE_PUBLIC}")
    return PublicKey(key)


def attest(run: Run, document: Mapping[str, Any], signer: Signer | None = None) -> bytes:
    """The attestation file of a snapshot.

    Args:
        document: the entry of the snapshot's log; see `statement`.
        signer: None makes an envelope without signature.
    """
    payload = statement(run, document, signer.public.id if signer else None)
    signatures = []
    if signer is not None:
        signature = signer.key.sign(pre_authentication_encoding(PAYLOAD_TYPE, payload))
        signatures.append({"keyid": signer.public.id, "sig": base64.b64encode(signature).decode()})
    return canonical_json(
        {"payload": base64.b64encode(payload).decode(), "payloadType": PAYLOAD_TYPE, "signatures": signatures}
    )


def statement(run: Run, document: Mapping[str, Any], key_id: str | None) -> bytes:
    """What an attestation says, as canonical JSON.

    Its subjects are every other file of the snapshot, run.json, plan and shard heads; its predicate repeats what else
    the snapshot's entry says, the digest of the entry before it included, so that a signature covers the history.

    Args:
        document: `folder`, `files`, `heads`, `generation`, `parent` and whatever else the entry holds, apart from
            what every log entry holds. The attestation's own digest is left out.
        key_id: of the key that signs this.
    """
    folder = layout.snapshot_folder(run.id, document["folder"])
    covered = {f"{folder}/{name}": digest for name, digest in document["files"].items() if name != ATTESTATION_NAME}
    covered |= {layout.run_file(run.id): run.sha256, run.plan["key"]: run.plan["sha256"]}
    covered |= {head["key"]: head["sha256"] for head in document["heads"].values()}
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(covered.items())],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "assurance": f"signed with key {key_id}" if key_id else INTEGRITY_ONLY,
                "run": run.id,
                "job": run.job,
                "dataset": {"name": run.dataset["name"], "version": run.dataset["version"]},
                "transform": run.transform_id,
                "snapshot": {name: value for name, value in document.items() if name not in ("files", "heads")},
            },
        }
    )


def open_envelope(data: bytes, key: str) -> Envelope:
    """The envelope in an attestation file; TamperedError, blaming `key`, if it is none."""
    try:
        raw = json.loads(data)
        signatures = [(str(item["keyid"]), base64.b64decode(item["sig"], validate=True)) for item in raw["signatures"]]
        return Envelope(str(raw["payloadType"]), base64.b64decode(raw["payload"], validate=True), tuple(signatures))
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
        raise TamperedError(f"{key} is not the DSSE envelope that was written", key=key) from error


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """PAE of DSSE v1: `DSSEv1`, type and payload, each with its length in bytes, joined by single spaces."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _read(path: Path, what: str, advice: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {what}: {error.strerror}; {advice}") from error
