"""Pictures of a folder that nobody promised to keep: one that cannot be used is left out, whoever asks for it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable

from PIL import Image

from lsb.errors import DecodingError, ImageError, SourceError, StoreBusyError, StoreError, UsageError
from lsb.pictures.decoder import shared_decoder
from lsb.pictures.images import RULES
from lsb.pictures.sources import MAX_BYTES, Source, list_sources, open_sources
from lsb.records import sha256
from lsb.redaction import redact, visible
from lsb.store.scratch import ScratchStore
from lsb.store.store import Entry

logger = logging.getLogger(__name__)


def pictures_to_show(uri: str) -> Source:
    """The pictures at `uri` for a page, which does without them: none if they are not there, or of an unknown kind."""
    try:
        return open_sources(uri)
    except (SourceError, UsageError):
        return ScratchStore(None)


def listed_pictures(folder: Source) -> list[Entry]:
    """The files that by name and size may be pictures, in key order; captions, hidden files and the like are none."""
    return [file for file in list_sources(folder).files if file.size <= MAX_BYTES]


def listing_digest(pictures: Iterable[Entry]) -> str:
    """SHA-256 of what a listing says of these files: another one if a file was added, removed or written anew."""
    return sha256(json.dumps(sorted((entry.key, entry.size, entry.etag) for entry in pictures)).encode())


def find_picture(folder: Source, key: str, digest: str | None = None, rules: int = RULES) -> Image.Image | None:
    """The picture as 8-bit sRGB; None if it is missing or cannot be read or decoded, in time.

    Args:
        digest: SHA-256 that the file's bytes must have; with others it is another picture, and None.
        rules: of decoding, see `lsb.pictures.images.decode`.

    Raises:
        StoreError: the folder as a whole cannot be used, now.
    """
    return picture_of(folder, key, lambda: folder.read(key), digest, rules)


def picture_of(
    folder: Source, key: str, read: Callable[[], bytes], digest: str | None = None, rules: int = RULES
) -> Image.Image | None:
    """As `find_picture`, of the bytes that `read` gives or raises the folder's error for."""
    try:
        data = read()
        if digest is not None and sha256(data) != digest:
            raise ImageError(f"its bytes are not those with SHA-256 {digest}", code="corrupt")
        return shared_decoder().decode(data, rules)[0]
    except (ImageError, DecodingError, StoreError) as error:
        if isinstance(error, StoreError) and not error.of_object:
            raise
        logger.info("%s of %s is left out: %s", visible(key), folder.uri, redact(str(error)))
        return None


def refuse_absence(folder: Source) -> None:
    """Tell a folder in which some pictures are missing from one that is away, such as a disk that is not mounted.

    Raises:
        StoreBusyError: nothing is there, or it cannot be listed at all; what may not be entered is there.
    """
    try:
        found = list_sources(folder)
        if found.files or found.left_out:
            return
        reason = "it is empty"
    except (SourceError, StoreError) as error:
        reason = str(error)
    raise StoreBusyError(
        f"the pictures at {folder.uri} seem to be away ({reason}); run again when they are back, "
        "or set evaluate.measure to false to publish without measures"
    )
