"""Which records of a run a re-run tries again, and which of those are still to be tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from lsb.errors import UsageError
from lsb.ledger.plan import read_plan
from lsb.ledger.run import Run, is_due, pending, read_logs
from lsb.ledger.schemas import MANIFEST, places
from lsb.ledger.selection import Selection
from lsb.records import Action, Status
from lsb.store.store import Store

PENDING = "pending"


@dataclass(frozen=True)
class Share:
    """What of a shard is to be done: how many records, and which; see `lsb.translation.shard.run_shard`."""

    records: int
    chosen: Mapping[str, int] | None = None  # each with the number of tries it has had; None: all without a row


Todo = Mapping[str, Share]  # by shard


def records_of(todo: Todo) -> int:
    """How many records there are in all of it."""
    return sum(share.records for share in todo.values())


@dataclass(frozen=True)
class Chosen:
    """What a re-run is to do: of each shard the records, each with the number of tries it had when it was chosen."""

    run: str
    shards: dict[str, dict[str, int]]
    sources: dict[str, str]  # record id -> source key
    why: dict[str, str]  # record id -> `pending` or the code of its failure
    terminal: int  # failures that match, are not retryable and were not asked for
    final: int  # records that match and are `ok` or `quarantined`: nothing replaces those

    @property
    def records(self) -> int:
        return sum(map(len, self.shards.values()))


def choose(store: Store, run: Run, selection: Selection) -> Chosen:
    """The records that a re-run with this selection tries, by what is committed now.

    Records without a row count as `pending`. Of the failed ones only the retryable are taken, unless the selection
    includes the terminal ones.

    Raises:
        UsageError: a shard, status, code or record that the run does not have or a re-run cannot replace.
    """
    _refuse_what_cannot_be(run, selection)
    plan = _planned(store, run)
    selection = selection.settled(plan, f"record that run {run.id} translates")
    state = selection.matching(_state(store, run, plan, selection))
    final = pc.is_in(state["status"], pa.array([Status.OK.value, Status.QUARANTINED.value]))
    gone = pc.and_not(pc.equal(state["status"], Status.FAILED.value), state["retryable"])
    gone = pc.and_(gone, not selection.include_terminal)
    shards: dict[str, dict[str, int]] = {}
    sources, why = {}, {}
    for row in state.filter(pc.invert(pc.or_(final, gone))).to_pylist():
        shards.setdefault(row["shard"], {})[row["record_id"]] = row["tries"]
        sources[row["record_id"]] = row["source_key"]
        why[row["record_id"]] = row["error_code"] or PENDING
    return Chosen(run=run.id, shards=shards, sources=sources, why=why, terminal=_count(gone), final=_count(final))


def what_is_left(store: Store, run: Run, chosen: Chosen | None = None) -> Todo:
    """By shard the records still to be tried; shards without any are absent.

    Args:
        chosen: what of this choice has not been tried since; None stands for every record without a row.
    """
    if chosen is None:
        return {shard: Share(records) for shard, records in pending(store, run).items()}
    return still_left(store, run, {shard: Share(len(records), records) for shard, records in chosen.shards.items()})


def still_left(store: Store, run: Run, todo: Todo, planned: Mapping[str, int] | None = None) -> dict[str, Share]:
    """Of records that were to be tried, those that nobody has tried since; shards without any are absent.

    Args:
        planned: what `lsb.ledger.plan.shard_sizes` gives, if it is known.
    """
    chosen = {shard: share.chosen for shard, share in todo.items() if share.chosen is not None}
    left: dict[str, Share] = {}
    columns = ["record_id", "status", "tries"]
    for shard, rows in read_logs(store, run, lambda log: log.rows(log.entries(), columns=columns), chosen):
        known = {row["record_id"]: row for row in rows.to_pylist()}
        due = {record: tries for record, tries in chosen[shard].items() if is_due(known.get(record), tries)}
        if due:
            left[shard] = Share(len(due), due)
    if others := [shard for shard in todo if shard not in chosen]:
        left |= {shard: Share(records) for shard, records in pending(store, run, others, planned).items()}
    return left


def _refuse_what_cannot_be(run: Run, selection: Selection) -> None:
    if unknown := set(selection.shards) - set(run.shards()):
        raise UsageError(f"run {run.id} has no shard {min(unknown)}; it has {run.plan['shards']}, from 00000")
    allowed = (Status.FAILED.value, PENDING)
    if others := set(selection.statuses) - set(allowed):
        raise UsageError(
            f"records with status {min(others)} cannot be run again; allowed are {' and '.join(allowed)}: "
            "rows that are ok or quarantined are final"
        )


def _planned(store: Store, run: Run) -> pa.Table:
    """The planned records that a shard is to deal with, with the manifest's names of the columns."""
    plan = read_plan(store, run, columns=["record_id", "key", "shard", "action"])
    plan = plan.filter(pc.equal(plan["action"], Action.TRANSLATE.value))
    return plan.select(["record_id", "key", "shard"]).rename_columns(["record_id", "source_key", "shard"])


def _state(store: Store, run: Run, plan: pa.Table, selection: Selection) -> pa.Table:
    """One row per planned record of the shards that are meant, committed or not."""
    if selection.shards:
        plan = plan.filter(pc.is_in(plan["shard"], pa.array(selection.shards)))
    columns = ["record_id", "status", "tries", "retryable", "error_code"]
    shards = pc.unique(plan["shard"]).to_pylist()
    found = read_logs(store, run, lambda log: log.rows(log.entries(), columns=columns), shards)
    rows = pa.concat_tables([MANIFEST.empty().select(columns), *(table.select(columns) for _, table in found)])
    place = places(plan["record_id"], rows["record_id"])
    for name, blank in (("status", PENDING), ("tries", 0), ("retryable", True), ("error_code", None)):
        column = rows[name].take(place)
        plan = plan.append_column(name, column if blank is None else pc.fill_null(column, blank))
    return plan


def _count(mask: pa.ChunkedArray) -> int:
    return pc.sum(mask).as_py() or 0
