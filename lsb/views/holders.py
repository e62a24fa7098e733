"""Who is at work on a run, by its leases."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from lsb.ledger import layout
from lsb.ledger.leases import GONE_SECONDS, newest, read_lease
from lsb.ledger.run import Run
from lsb.store.read_ahead import read_ahead
from lsb.store.store import Store


@dataclass(frozen=True)
class Holder:
    """A worker and the shards that it holds."""

    worker: str
    shards: tuple[str, ...]
    seen: datetime  # its last sign of life, by the store's clock
    silent: bool  # much longer ago than another's


def holders(store: Store, run: Run) -> list[Holder]:
    """Who holds what, by name. One that nobody has outlived looks as if it were still there: look again a minute later.

    A lease that cannot be read is left out.
    """
    entries = store.list(layout.leases_folder(run.id))
    latest = max((entry.modified for entry in entries), default=0.0)
    held = [lease for lease in newest(entries).values() if not lease.given_back]
    shards: dict[str, list[str]] = {}
    seen: dict[str, float] = {}
    with read_ahead(held, lambda lease: read_lease(store, lease.key)) as contents:
        for lease, content in contents:
            found = content()
            if found is None or found.worker.has_ended():
                continue
            name = found.worker.name
            shards.setdefault(name, []).append(lease.shard)
            seen[name] = max(lease.renewed, seen.get(name, 0.0))
    return [
        Holder(
            name,
            tuple(sorted(shards[name])),
            datetime.fromtimestamp(seen[name], UTC),
            latest - seen[name] > GONE_SECONDS,
        )
        for name in sorted(shards)
    ]
