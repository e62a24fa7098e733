"""The pictures that perfect translations would be, found by their sources' names."""

from __future__ import annotations

import logging
import posixpath
import threading
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property

from PIL import Image

from lsb.errors import SourceError, StoreError
from lsb.pictures.images import RULES
from lsb.pictures.optional import find_picture, listed_pictures, listing_digest
from lsb.pictures.sources import Source
from lsb.store.store import Entry

logger = logging.getLogger(__name__)


class Truths:
    """Truths of a folder laid out like the sources: the same key, or the same key with another picture's suffix."""

    def __init__(self, folder: Source, rules: int = RULES) -> None:
        """`rules`: of decoding, see `lsb.pictures.images.decode`."""
        self.folder = folder
        self._rules = rules

    def key_of(self, source_key: str) -> str | None:
        """Where the truth of a source lies, None if there is none. Of several suffixes the last one is taken."""
        if source_key in self._keys:
            return source_key
        candidates = self._by_stem.get(_stem(source_key))
        return candidates[-1] if candidates else None

    def ambiguous(self, source_keys: Iterable[str]) -> list[str]:
        """Those sources that have no truth of their very name and several of other suffixes."""
        return [key for key in source_keys if key not in self._keys and len(self._by_stem.get(_stem(key), ())) > 1]

    def find(self, source_key: str) -> Image.Image | None:
        """The truth of a source as an RGB image, None if there is none or it cannot be read.

        Raises:
            StoreError: the folder as a whole cannot be used, now.
        """
        key = self.key_of(source_key)
        return None if key is None else find_picture(self.folder, key, rules=self._rules)

    @property
    def digest(self) -> str:
        """What `listing_digest` says of the folder."""
        return listing_digest(self._pictures)

    @cached_property
    def _pictures(self) -> list[Entry]:
        return listed_pictures(self.folder)

    @cached_property
    def _keys(self) -> frozenset[str]:
        return frozenset(entry.key for entry in self._pictures)

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        found = defaultdict(list)
        for entry in self._pictures:
            found[_stem(entry.key)].append(entry.key)
        return dict(found)


class OptionalTruths:
    """Truths for those who can do without, such as all workers of a run: none, and one warning, where the folder cannot
    be listed."""

    def __init__(self, folder: Source | None = None, rules: int = RULES) -> None:
        self._truths = Truths(folder, rules) if folder is not None else None
        self._looked = False
        self._lock = threading.Lock()

    def find(self, source_key: str) -> Image.Image | None:
        """As `Truths.find`.

        Raises:
            StoreBusyError: the folder cannot be used, now.
        """
        with self._lock:
            if self._truths is not None and not self._looked:
                self._look(self._truths)
            truths = self._truths
        return None if truths is None else truths.find(source_key)

    def _look(self, truths: Truths) -> None:
        try:
            truths.key_of("")
        except (SourceError, StoreError) as error:
            if error.transient:
                raise
            logger.warning("nothing is compared with a truth: %s", error.message)
            self._truths = None
        self._looked = True


def _stem(key: str) -> str:
    return posixpath.splitext(key)[0]
