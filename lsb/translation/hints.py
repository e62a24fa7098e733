"""Which records attempts at a shard are working on, and which records they may have died of.

Before each batch an attempt writes down its records. It is a hint and never a result: readers do not look at it, no
log names it, and a wrong or missing one costs time but no correctness. Whoever begins an attempt finds there

    suspects   records without a row that were in the last batch of another attempt. Whether that one is dead or still
               at work cannot be seen, and need not be: they run one by one, each in the process with the model
    deaths     how often a record ended a process that had nothing else to do. An attempt counts those that it sees.
               One that ended together with its process cannot: its last hint, if it names one record and is older
               than a try may take, counts as one
"""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NotRequired, TypedDict

from lsb.errors import StoreError
from lsb.ledger import layout
from lsb.records import canonical_json
from lsb.redaction import redact, visible
from lsb.store.store import Entry, Store

logger = logging.getLogger(__name__)

SCHEMA = "lsb.hint/1"


class Hint(TypedDict):
    """What an attempt says of its work."""

    schema: NotRequired[str]
    records: list[str]  # what it works on
    deaths: dict[str, int]  # by record: processes that it has ended, alone
    tries: dict[str, int]  # by record, where there were any before


@dataclass
class Hints:
    """The hints of one shard, as one attempt at it reads and writes them."""

    store: Store
    run_id: str
    shard: str
    attempt: str
    seen: Counter[str] = field(default_factory=Counter)  # deaths that this attempt saw
    _tries: Mapping[str, int] = field(default_factory=dict)  # as of the last batch
    _last: Hint | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, records: Iterable[str], tries: Mapping[str, int] | None = None) -> None:
        """Say that the attempt works on `records` from now on.

        Args:
            tries: of records that failed before, by default those given last. What is written of a record ends with
                its row: it does not count for a later try of it.
        """
        tries = self._tries = self._tries if tries is None else tries
        names = sorted(records)
        document: Hint = {
            "schema": SCHEMA,
            "records": names,
            "deaths": dict(self.seen),
            "tries": {name: tries[name] for name in sorted({*names, *self.seen}) if tries.get(name)},
        }
        with self._lock:
            if document != self._last:
                self._put(document)
                self._last = document

    def renew(self) -> None:
        """Make it as young as it would be if what it names had only been begun. In any thread."""
        with self._lock:
            if self._last is not None:
                self._put(self._last)

    def _put(self, document: Hint) -> None:
        self.store.write(layout.hint_file(self.run_id, self.shard, self.attempt), canonical_json(document))

    @property
    def named(self) -> frozenset[str]:
        """The records that the attempt's hint names now."""
        return frozenset(self._last["records"] if self._last else ())

    def died(self, records: Sequence[str]) -> None:
        """Say that the image of `records` has ended the model's process, alone. It is counted for the first of them."""
        self.seen[records[0]] += 1
        self.write(records)

    def suspects(self, pending: Iterable[str], tries: Mapping[str, int], try_seconds: float) -> Counter[str]:
        """Deaths by record, 0 for one that is merely suspected; records that no hint names are absent.

        Args:
            pending: the records that are left to do.
            try_seconds: how long a try of one record may take; an older hint is that of a dead attempt.
        """
        own = layout.hint_file(self.run_id, self.shard, self.attempt)
        folder = layout.hints_folder(self.run_id, self.shard)
        if all(entry.key == own for entry in self.store.list(folder)):
            return Counter()
        self.write((), tries)  # an object of our own tells what time it is on the store's clock
        hints = self.store.list(folder)
        now = max((entry.modified for entry in hints), default=0.0)  # clean-up may have taken all of them meanwhile
        wanted = set(pending)
        found: Counter[str] = Counter()
        for entry in (entry for entry in hints if entry.key != own):
            hint = self._read(entry)
            alone = len(hint["records"]) == 1 and now - entry.modified > try_seconds
            for record in {*hint["records"], *hint["deaths"]} & wanted:
                if hint["tries"].get(record, 0) == tries.get(record, 0):
                    found[record] += hint["deaths"].get(record, 0) + (alone and record in hint["records"])
        return found

    def _read(self, entry: Entry) -> Hint:
        try:
            hint = json.loads(self.store.read(entry.key))
            return {"records": list(hint["records"]), "deaths": dict(hint["deaths"]), "tries": dict(hint["tries"])}
        except StoreError as error:
            if error.transient:
                raise
            reason: Exception = error
        except (ValueError, KeyError, TypeError) as error:
            reason = error
        logger.warning("hint %s is passed over: %s", visible(entry.key), redact(str(reason)))
        return {"records": [], "deaths": {}, "tries": {}}
