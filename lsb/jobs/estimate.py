"""How long a run may take, by those of its job before it."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from lsb.errors import TamperedError, UnverifiableError
from lsb.jobs.parents import runs_of_job
from lsb.ledger.run import Run
from lsb.store.store import Store
from lsb.views.status import status

LOOKED_AT = 3  # runs whose logs are read for a rate


class Rate(NamedTuple):
    """Records a second, of all that were at work on a run together."""

    run: str
    records_per_second: float


def last_rate(store: Store, run: Run) -> Rate | None:
    """The rate of the newest run of the same job and transform that has made something; None if there is none.

    It is a rate of the machines that made it, and of as many workers as there were.
    """
    same = [one for one in runs_of_job(store, run.job) if one.transform_id == run.transform_id]
    for one in same[:LOOKED_AT]:
        with suppress(TamperedError, UnverifiableError):
            if rate := status(store, one).rate:
                return Rate(one.id, rate)
    return None
