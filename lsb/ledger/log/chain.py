"""A log of numbered documents, each naming the digest of the one before.

An entry comes into being by one conditional create of the next number, so of many writers exactly one appends it.
Shards, snapshots and jobs keep such logs.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from lsb.errors import AlreadyExistsError, LsbError, NotFoundError, StoreBusyError, TamperedError
from lsb.ledger import layout
from lsb.ledger.log.seal import read_proved, seal, unseal
from lsb.records import sha256
from lsb.store.store import Store

PATIENCE = 8  # times a request without an answer is repeated
MOST_GAPS = 100  # that are named: a file with a forged number may seem to leave millions


@dataclass(frozen=True)
class Link:
    """One entry of a log as it lies on the store."""

    key: str
    number: int
    sha256: str
    document: dict[str, Any]

    @property
    def time(self) -> datetime:
        return datetime.fromisoformat(self.document["time"])


@dataclass(frozen=True)
class Chain:
    """The log under `log`. Every entry carries `identity`; one that carries another does not belong here."""

    store: Store
    log: str
    schema: str
    identity: Mapping[str, Any]

    def links(self) -> list[Link]:
        """All entries in order.

        Raises:
            TamperedError: a gap, a wrong parent, or an entry that is not what was written.
            UnverifiableError: an entry of an unknown schema.
        """
        links, problems = self.scan()
        if problems:
            raise problems[0]
        return links

    def scan(self) -> tuple[list[Link], list[LsbError]]:
        """The entries that can be read, and everything that is wrong with the log."""
        numbers = {number for entry in self.store.list(self.log) if (number := layout.number_of(entry.key)) is not None}
        # Those that the listing lacks are asked for as well, before anybody calls them missing.
        gaps = islice((number for number in range(max(numbers, default=0)) if number not in numbers), MOST_GAPS)
        links: list[Link] = []
        problems: list[LsbError] = []
        for number in sorted(numbers.union(gaps)):
            try:
                link = self._read(number, listed=number in numbers)
            except LsbError as error:
                problems.append(error)
                continue
            links.append(link)
            before = links[-2] if len(links) > 1 else None
            if before is not None and before.number == number - 1 and link.document["parent"] != before.sha256:
                text = f"{link.key} names another entry before it than {before.key}"
                problems.append(TamperedError(text, key=link.key))
        return links, problems

    def append(self, after: Link | None, document: Mapping[str, Any]) -> Link | None:
        """Add `document` behind `after`, the last entry; None if another writer was first.

        Raises:
            StoreBusyError: no answer after several repetitions; the entry may exist.
        """
        number = after.number + 1 if after else 0
        key = layout.numbered(self.log, number)
        whole = {
            **document,
            **self.identity,
            "schema": self.schema,
            "generation": number,
            "parent": after.sha256 if after else None,
            "nonce": secrets.token_hex(16),
            "time": datetime.now(UTC).isoformat(timespec="microseconds"),
        }
        data = seal(whole)
        for attempt in range(PATIENCE):
            try:
                self.store.create(key, data)
                break
            except AlreadyExistsError:
                # A repeated request may find its own first one: the nonce, part of the bytes, tells.
                if read_proved(self.store, key, lambda found: self._sealed(found, key)) == data:
                    break
                return None
            except StoreBusyError:
                if attempt == PATIENCE - 1:
                    raise
                time.sleep(min(0.05 * 2**attempt, 2.0))
        return Link(key, number, sha256(data), whole)

    def _read(self, number: int, *, listed: bool) -> Link:
        key = layout.numbered(self.log, number)
        try:
            return read_proved(self.store, key, lambda data: self._proved(data, key, number))
        except NotFoundError as error:
            reason = " though the log lists it" if listed else ": the log goes on after it"
            raise TamperedError(f"{key} is missing{reason}", key=key) from error

    def _sealed(self, data: bytes, key: str) -> bytes:
        unseal(data, key=key, schema=self.schema)
        return data

    def _proved(self, data: bytes, key: str, number: int) -> Link:
        document = unseal(data, key=key, schema=self.schema)
        wrong = [name for name, value in self.identity.items() if document.get(name) != value]
        if document.get("generation") != number or (number == 0) != (document.get("parent") is None):
            wrong.append("generation")
        if wrong:
            raise TamperedError(f"{key} does not belong here: its {', '.join(wrong)} differ", key=key)
        return Link(key, number, sha256(data), document)
