"""Models on object storage: copied to this machine once, then loaded from the copy like any other.

    HF_HOME/lsb/<digest>/<name>                 a diffusers folder
    HF_HOME/lsb/<digest>/<name>.safetensors     a single file, and its configuration in <name>/

The digest is over names, sizes and etags of what is copied, so that a changed model gets another copy.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from lsb.errors import ModelError, StoreBusyError, StoreError, UnsafeWeightsError
from lsb.isolation import private_folder
from lsb.models.files import PICKLES
from lsb.records import digest_of
from lsb.store.answers import is_md5
from lsb.store.store import Entry, open_s3

if TYPE_CHECKING:
    from lsb.store.s3 import S3Store

logger = logging.getLogger(__name__)


def download(uri: str, parts: Sequence[str] = ()) -> Path:
    """A local copy of the diffusers folder or `.safetensors` file at an `s3://` URI. Copies nothing but safe files.

    Args:
        parts: patterns of what is copied of a folder, by names below it.

    Raises:
        UnsafeWeightsError: pickled weights only.
        ModelError: nothing there, or it cannot be read or kept.
    """
    parent, _, name = uri.rstrip("/").rpartition("/")
    if not parent.removeprefix("s3:").strip("/"):
        raise ModelError(f"model {uri} is a whole bucket; put the model into a folder of it: s3://bucket/folder")
    try:
        store = open_s3(parent)
        return _copy(store, _found(store, name, uri, parts)) / name
    except StoreError as error:
        if error.transient:
            raise
        raise ModelError(f"cannot read model {uri}: {error}") from error
    except OSError as error:
        raise ModelError(f"cannot keep a copy of {uri}: {error.strerror}; check HF_HOME and its space") from error


def _found(store: S3Store, name: str, uri: str, parts: Sequence[str]) -> list[Entry]:
    """What is to be copied, by its key below the model's parent."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in PICKLES:
        raise UnsafeWeightsError(f"{uri} is a pickle, which can run code; give a .safetensors file")
    if suffix == ".safetensors":
        folder = name.removesuffix(suffix)
        return [store.entry(name), *(entry for entry in store.list(folder) if _is_one(_below(folder, entry), parts))]
    found = {_below(name, entry): entry for entry in store.list(name)}
    if not found:
        raise ModelError(f"no model at {uri}: there is nothing below it")
    chosen = {key: entry for key, entry in found.items() if _is_one(key, parts)}
    for folder in sorted({pattern.rpartition("/")[0] for pattern in parts if pattern.endswith(".safetensors")}):
        pickles = [path.name for key in found if (path := _within(folder, key)) and path.suffix.lower() in PICKLES]
        if pickles and not any((path := _within(folder, key)) and path.suffix == ".safetensors" for key in chosen):
            place = f"{uri}/{folder}".rstrip("/")
            raise UnsafeWeightsError(
                f"{place} has only pickled weights ({pickles[0]}), which can run code; convert them to safetensors"
            )
    return list(chosen.values())


def _is_one(key: str, parts: Sequence[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in parts)


def _within(folder: str, key: str) -> PurePosixPath | None:
    path = PurePosixPath(key)
    return path if path.parent == PurePosixPath(folder) else None


def _below(folder: str, entry: Entry) -> str:
    return entry.key.removeprefix(f"{folder}/")


def _copy(store: S3Store, parts: list[Entry]) -> Path:
    """The folder of a complete copy; two processes at it at once make two, one of which stays."""
    from huggingface_hub.constants import HF_HOME

    folder = private_folder(Path(HF_HOME, "lsb"), "set HF_HOME to a folder of yours")
    kept = folder / digest_of([[store.uri, entry.key, entry.size, entry.etag] for entry in sorted(parts)])
    if all((path := kept / entry.key).is_file() and path.stat().st_size == entry.size for entry in parts):
        return kept
    shutil.rmtree(kept, ignore_errors=True)  # what a full disk or a power cut has left of a copy
    logger.info("copying %d files from %s to %s", len(parts), store.uri, kept)
    partial = kept.with_name(f"{kept.name}.{secrets.token_hex(4)}.partial")
    try:
        for entry in parts:
            path = partial / entry.key
            path.parent.mkdir(parents=True, exist_ok=True)
            digest = _fetch(store, entry, path)
            # With some kinds of encryption an ETag of this form is no MD5: then the same bytes come twice.
            if is_md5(entry.etag) and digest != entry.etag and _fetch(store, entry, path) not in (entry.etag, digest):
                raise StoreBusyError(f"{entry.key} in {store.uri} comes with other bytes each time; try later")
        try:
            os.rename(partial, kept)
        except OSError:
            if not kept.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return kept


def _fetch(store: S3Store, entry: Entry, path: Path) -> str:
    """Copy one object to a file; the MD5 of its bytes."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("wb") as file:
        for piece in store.pieces(entry):
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()
