"""The pictures that perfect translations would be, found by their sources' names."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import PurePosixPath

from PIL import Image

from lsb.decoder import shared_decoder
from lsb.errors import DecodingError, ImageError, StoreError
from lsb.storage.store import Store

logger = logging.getLogger(__name__)


class Truths:
    """Truths of a folder laid out like the sources: the same key, or the same key with another suffix."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def key_of(self, source_key: str) -> str | None:
        """Where the truth of a source lies, None if there is none."""
        return self._keys.get(source_key) or self._keys.get(_stem(source_key))

    def find(self, source_key: str) -> Image.Image | None:
        """The truth of a source as an RGB image, None if there is none or it cannot be read."""
        key = self.key_of(source_key)
        if key is None:
            return None
        try:
            return shared_decoder().decode(self._store.read(key))[0]
        except (ImageError, DecodingError, StoreError) as error:
            if error.transient:
                raise
            logger.warning("no truth for %s: %s", source_key, error)
            return None

    @cached_property
    def _keys(self) -> dict[str, str]:
        keys = [entry.key for entry in self._store.list()]
        return {_stem(key): key for key in keys} | {key: key for key in keys}


def _stem(key: str) -> str:
    return str(PurePosixPath(key).with_suffix(""))
