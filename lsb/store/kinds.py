"""Every kind of store by the scheme of its URI; a path has none."""

from __future__ import annotations

from typing import Protocol

from lsb.store.local import open_folder
from lsb.store.store import Store, open_s3


class Opener(Protocol):
    """Arguments and errors as for `lsb.store.store.open_store`."""

    def __call__(self, uri: str, /, *, create: bool, largest: int | None) -> Store: ...


STORES: dict[str, Opener] = {
    "": open_folder,
    "file": open_folder,
    "s3": open_s3,
}
