from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from lsb.errors import TamperedError, UsageError
from lsb.ledger.attestation import (
    attest,
    environment_signer,
    open_envelope,
    pre_authentication_encoding,
    read_public_key,
    read_signer,
)
from lsb.ledger.run import Run
from lsb.store.local import LocalStore
from tests.keys import key_pair
from tests.ledger import make_images, start

DOCUMENT = {
    "folder": 0,
    "files": {"manifest.parquet": "1" * 64, "attestation.json": "2" * 64},
    "heads": {"00000": {"key": "log/00000000.json", "generation": 0, "sha256": "3" * 64}},
    "generation": 0,
    "parent": None,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("run")
    return start(LocalStore(place / "store"), make_images(place / "images", 1))[0]


def test_the_encoding_that_is_signed_is_the_one_of_the_specification() -> None:
    """The example of https://github.com/secure-systems-lab/dsse/blob/v1.0.2/protocol.md."""
    encoded = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_a_signature_holds_for_its_key_and_its_bytes_alone(run: Run, tmp_path: Path) -> None:
    (private, public), (_, other) = key_pair(tmp_path), key_pair(tmp_path, "other")
    envelope = open_envelope(attest(run, DOCUMENT, read_signer(private)), "attestation.json")
    assert read_public_key(public).verifies(envelope)
    assert not read_public_key(other).verifies(envelope)
    assert not read_public_key(public).verifies(replace(envelope, payload=envelope.payload + b" "))
    assert not read_public_key(public).verifies(replace(envelope, payload_type="text/plain"))
    assert envelope.key_id == read_public_key(public).id
    assert json.loads(envelope.payload)["predicate"]["assurance"] == f"signed with key {envelope.key_id}"


def test_without_a_key_it_says_integrity_only(run: Run) -> None:
    envelope = open_envelope(attest(run, DOCUMENT), "attestation.json")
    assert envelope.signatures == ()
    assert json.loads(envelope.payload)["predicate"]["assurance"] == "integrity only"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_keys_and_signatures_are_those_of_openssl(run: Run, tmp_path: Path) -> None:
    private, public = tmp_path / "key.pem", tmp_path / "public.pem"

    def openssl(*arguments: str | Path) -> bytes:
        return subprocess.run(["openssl", *arguments], check=True, capture_output=True).stdout

    openssl("genpkey", "-algorithm", "ed25519", "-out", private)
    openssl("pkey", "-in", private, "-pubout", "-out", public)
    signer = read_signer(private)
    envelope = open_envelope(attest(run, DOCUMENT, signer), "attestation.json")
    assert read_public_key(public).verifies(envelope)
    (tmp_path / "message").write_bytes(pre_authentication_encoding(envelope.payload_type, envelope.payload))
    (tmp_path / "signature").write_bytes(envelope.signatures[0][1])
    check = ["pkeyutl", "-verify", "-pubin", "-rawin", "-inkey", public, "-in", tmp_path / "message"]
    assert b"Success" in openssl(*check, "-sigfile", tmp_path / "signature")
    (tmp_path / "der").write_bytes(openssl("pkey", "-pubin", "-in", public, "-outform", "DER"))
    assert signer.public.id.encode() in openssl("dgst", "-sha256", tmp_path / "der")


def test_a_file_that_cannot_sign_is_refused_with_what_to_do(tmp_path: Path) -> None:
    private, public = key_pair(tmp_path)
    (tmp_path / "garbage.pem").write_bytes(b"\xff\x00 not PEM")
    curve = generate_private_key(SECP256R1())
    (tmp_path / "curve.pem").write_bytes(curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key = load_pem_private_key(private.read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (tmp_path / "locked.pem").write_bytes(locked)
    for name, reason in {
        "missing.pem": "No such file",
        "garbage.pem": "no Ed25519 private key",
        "curve.pem": "no Ed25519 private key",
        "locked.pem": "passphrase",
        public.name: "no Ed25519 private key",
        ".": "directory",
    }.items():
        with pytest.raises(UsageError, match=reason) as caught:
            environment_signer({"LSB_SIGNING_KEY": str(tmp_path / name)})
        assert "LSB_SIGNING_KEY" in str(caught.value)
    for name in ("missing.pem", "garbage.pem", private.name):
        with pytest.raises(UsageError, match="openssl pkey"):
            read_public_key(tmp_path / name)


def test_no_variable_or_an_empty_one_means_no_signature(tmp_path: Path) -> None:
    assert environment_signer({}) is None
    assert environment_signer({"LSB_SIGNING_KEY": ""}) is None


def test_a_signer_does_not_show_its_secret(tmp_path: Path) -> None:
    signer = read_signer(key_pair(tmp_path)[0])
    secret = signer.key.private_bytes_raw()
    assert secret.hex() not in repr(signer)
    assert repr(secret) not in repr(signer)


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"[]", b"{}", b'{"payload": "!", "payloadType": "", "signatures": []}', b'{"signatures": 1}']
)
def test_what_is_no_envelope_is_tampered(data: bytes) -> None:
    with pytest.raises(TamperedError, match="DSSE envelope"):
        open_envelope(data, "attestation.json")
