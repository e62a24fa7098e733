"""Small JSON documents of the ledger: canonical bytes with a seal, so that one changed byte is noticed.

The seal is the SHA-256 of the document without it. It finds accidents and careless edits by itself; against a
forger only the chain of digests and a known head help.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from lsb.errors import NotFoundError, TamperedError, UnverifiableError
from lsb.records import canonical_json, digest_of, sha256
from lsb.store.store import Store

logger = logging.getLogger(__name__)

SEAL = "seal"
Proved = TypeVar("Proved")


def read_proved(store: Store, key: str, prove: Callable[[bytes], Proved]) -> Proved:
    """What `prove` makes of the object's bytes; see `proved`."""
    return proved(lambda: prove(store.read(key)))


def proved(read: Callable[[], Proved]) -> Proved:
    """What `read` makes of an object, and accuses nobody for one bad answer of the store.

    What is missing, or refused, is read once more.

    Raises:
        NotFoundError: missing both times.
        TamperedError: refused both times.
    """
    try:
        return read()
    except (NotFoundError, TamperedError) as error:
        logger.info("%s; reading it once more", error)
        return read()


@contextmanager
def well_formed(key: str) -> Iterator[None]:
    """Read a document's fields; one that is missing or of another kind makes a TamperedError about `key`.

    Only a forged document gets here: what was written by us has all its fields, and its seal says so.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise TamperedError(f"{key} does not hold what its schema demands ({reason})", key=key) from error


def seal(document: Mapping[str, object]) -> bytes:
    """RFC 8785 bytes of `document` with its seal."""
    return canonical_json({**document, SEAL: digest_of(document)})


def _is_sealed(data: bytes, document: Mapping[str, Any]) -> bool:
    """Whether the seal in a document's canonical bytes is that of the bytes without it."""
    name = canonical_json({SEAL: document.get(SEAL)})[1:-1]
    before, _, after = data.partition(name)
    if name in after:  # it says the same of something else, too
        return seal({name: value for name, value in document.items() if name != SEAL}) == data
    bare = before[:-1] + after if after == b"}" and before != b"{" else before + after.removeprefix(b",")
    return sha256(bare) == document.get(SEAL)


def unseal(data: bytes, *, key: str, schema: str | Sequence[str]) -> dict[str, Any]:
    """The document in `data`, without the seal.

    Raises:
        TamperedError: not the bytes that `seal` wrote; `key` names the object.
        UnverifiableError: intact, but of a schema that this version does not know.
    """
    try:
        document = json.loads(data)
        broken = canonical_json(document) != data or not _is_sealed(data, document)
    except (ValueError, AttributeError, RecursionError) as error:
        raise TamperedError(f"{key} is not the document that was written: not readable", key=key) from error
    if broken:
        raise TamperedError(f"{key} is not the document that was written: its seal does not match", key=key)
    del document[SEAL]
    known = (schema,) if isinstance(schema, str) else schema
    if document.get("schema") not in known:
        reads = " and ".join(map(repr, known))
        raise UnverifiableError(f"{key} has schema {document.get('schema')!r}, this version reads {reads}", key=key)
    return document
