"""What a run is to do with each record, frozen: made, written, and read whole or a shard's part alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, NotRequired, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lsb.errors import ConfigError, TamperedError, UsageError
from lsb.ledger import layout
from lsb.ledger.carrying import COMPARED, ParentReference, Restriction, carried_by, read_manifest
from lsb.ledger.log.commit_log import checked_data
from lsb.ledger.parts import IndexReference, index_of, is_of_parts, join, parts_of, read_part, rows_by_name
from lsb.ledger.pieces import Boxes
from lsb.ledger.schemas import PLAN, RECORDS, read_table, tables_of, write_table
from lsb.ledger.selection import SELECTING, Selection
from lsb.records import Action, Status
from lsb.store.store import Data, Store

if TYPE_CHECKING:
    import numpy.typing as npt

    from lsb.ledger.run import Run

MAX_SHARDS = 100_000
PART_ROWS = 20_000  # a plan of no more rows is a single table
BOX_ROWS = 100_000  # about, of a plan of parts, that are put in order at a time
SAMPLE = 10_000
DECIDING = ["record_id", "status", "duplicate_of"]  # on what becomes of a record, without a parent


class PlanSettings(TypedDict):
    """What is asked of the plan, apart from the records; what is not asked for is absent. Part of the run's id."""

    schema: str
    shard_size: int
    fresh: NotRequired[bool]
    only: NotRequired[Restriction]


class SampleReference(TypedDict):
    """How `run.json` names the sample of records whose features are kept, so that a shard need not read the plan."""

    records: int
    limit: str | None  # the largest record id in it


class PlanReference(PlanSettings):
    """How `run.json` names the plan, and what was asked of it."""

    key: str
    sha256: str
    records: int
    shards: int
    carried: NotRequired[int]
    quarantined: NotRequired[int]
    index: NotRequired[IndexReference]  # of a plan of parts
    sample: NotRequired[SampleReference]  # likewise


class WrittenPlan(NamedTuple):
    """A plan as it is written, and what `decide` gave of its records."""

    data: bytes
    parts: IndexReference | None  # how the index of a plan of parts is named
    decisions: pa.Table


def planned(
    store: Store, records: Data, settings: PlanSettings, parent: ParentReference | None
) -> tuple[pa.Table, Iterator[pa.Table]]:
    """The plan that follows from a data set's records, the plan's settings and the parent's snapshot.

    What decides is held for all records, the rest a piece at a time.

    Args:
        records: their table.

    Returns:
        what `decide` gives of those that are planned, and the plan's rows, in record-id order.

    Raises:
        TamperedError: a snapshot that settings or parent name is not what was written.
        UsageError: the settings restrict the plan to records of which there is none.
        ConfigError: more than 100,000 shards.
    """
    decisions = _decided(store, records, settings, parent)
    left = decisions.filter(pc.is_valid(decisions["action"])) if decisions["action"].null_count else decisions
    return left, _pieces(records, decisions)


def written_plan(
    store: Store,
    key: str,
    digest: str,
    settings: PlanSettings,
    parent: ParentReference | None,
    *,
    of_parts: bool | None = None,
) -> WrittenPlan:
    """The bytes of that plan: a single table, or a part for each shard and others for what is in none. Errors as above.

    Args:
        key: of the data set's records.
        digest: of these.
        of_parts: which of the two; by default parts if there are more than PART_ROWS rows.
    """
    with checked_data(store, key, digest) as records:
        decisions, pieces = planned(store, records, settings, parent)
        if not (decisions.num_rows > PART_ROWS if of_parts is None else of_parts):
            table = pa.concat_tables([PLAN.empty(), *pieces]).combine_chunks()
            return WrittenPlan(write_table(table, PLAN), None, decisions)
        boxes, start = _boxes_of(decisions["shard"]), 0
        boxed = Boxes(int(boxes.max(initial=0)) + 1, PLAN.empty())
        for piece in pieces:
            boxed.put(piece, boxes[start : start + piece.num_rows])
            start += piece.num_rows
    written, index = join((part for table in boxed for part in _parts_in(table.combine_chunks())), PLAN)
    return WrittenPlan(written, index, decisions)


def _decided(store: Store, data: Data, settings: PlanSettings, parent: ParentReference | None) -> pa.Table:
    chosen = carried = None
    if parent is not None:
        carried = carried_by(store, parent, tables_of(data, RECORDS, columns=["record_id", *COMPARED]))
    records = read_table(data, RECORDS, columns=DECIDING)
    if only := settings.get("only"):
        rows = read_manifest(store, only, columns=SELECTING)
        wanted = Selection(**only["selection"]).matching(rows)["record_id"].combine_chunks()
        chosen = pc.is_in(records["record_id"], wanted)
        if not pc.any(chosen).as_py():
            lists = {name: values for name, values in only["selection"].items() if isinstance(values, list)}
            asked = "; ".join(f"{name} {', '.join(values)}" for name, values in lists.items())
            raise UsageError(f"no record of run {only['run']} that is in this data set has {asked}")
    return decide(records, settings["shard_size"], carried, chosen)


def decide(
    records: pa.Table, shard_size: int, carried: pa.Array | None = None, chosen: pa.ChunkedArray | None = None
) -> pa.Table:
    """What becomes of each record: its `record_id`, `action`, and the number of its `shard`.

    Those to translate have a shard, copies that of the first of them.

    Args:
        records: of schema RECORDS, in record-id order; the columns DECIDING are enough.
        shard_size: images to translate per shard.
        carried: for each record whether a usable one is taken over from the parent.
        chosen: for each record whether it is planned at all; if not, its action is null.

    Raises:
        ConfigError: more than 100,000 shards.
    """
    usable = pc.equal(records["status"], Status.OK.value)
    carry = pc.and_(usable, False if carried is None else carried)
    translate = pc.and_not(usable, carry)
    action = pc.if_else(translate, Action.TRANSLATE.value, Action.QUARANTINE.value)
    action = pc.if_else(carry, Action.CARRY.value, action)
    if chosen is not None:
        translate = pc.and_(translate, chosen)
        action = pc.if_else(chosen, action, pa.scalar(None, pa.string()))
    shard = _shards(records, translate, shard_size)
    return pa.table({"record_id": records["record_id"], "action": action, "shard": shard})


def _shards(records: pa.Table, translate: pa.ChunkedArray, shard_size: int) -> pa.Array:
    """The number of each record's shard, null for those not to translate."""
    ids, copy_of = records["record_id"], records["duplicate_of"]
    chosen = translate.to_numpy()
    # Images are numbered as they come, and copies belong to the first of them that is translated. Only of images of
    # which there are copies it must be found which those are.
    copied = pc.unique(copy_of.filter(pc.and_(translate, pc.is_valid(copy_of))))
    image = pc.coalesce(pc.index_in(copy_of, copied), pc.index_in(ids, copied))
    several = np.flatnonzero(chosen & pc.is_valid(image).to_numpy())
    image = image.take(pa.array(several)).to_numpy()
    _, first = np.unique(image, return_index=True)
    new = chosen.copy()
    new[several] = False
    new[several[first]] = True
    number = np.cumsum(new, dtype=np.int32) - np.int32(1)
    number[several] = number[several[first]][image]
    shards = -(-int(np.count_nonzero(new)) // shard_size)
    if shards > MAX_SHARDS:
        least = -(-int(np.count_nonzero(new)) // MAX_SHARDS)
        raise ConfigError(
            f"execution.shard_size {shard_size} makes {shards} shards, at most {MAX_SHARDS} are allowed; "
            f"give {least} or more",
            field="execution.shard_size",
        )
    return pa.array(number // np.int32(shard_size), mask=~chosen)


def _with_decisions(records: pa.Table, decisions: pa.Table) -> pa.Table:
    """The plan of records, given what was decided on each."""
    shard = pc.utf8_lpad(pc.cast(decisions["shard"], pa.string()), 5, "0")
    columns = {name: records[name] for name in records.column_names} | {"shard": shard, "action": decisions["action"]}
    plan = pa.table([columns[name] for name in PLAN.arrow.names], schema=PLAN.arrow)
    return plan.filter(pc.is_valid(plan["action"])) if plan["action"].null_count else plan


def _pieces(records: Data, decisions: pa.Table) -> Iterator[pa.Table]:
    """The same a piece at a time, given the records' table."""
    start = 0
    for piece in tables_of(records, RECORDS):
        yield _with_decisions(piece, decisions.slice(start, piece.num_rows))
        start += piece.num_rows


def _boxes_of(shard: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """A box for each planned record, so that parts are whole in one and come in their order."""
    part = pc.fill_null(shard, -1).to_numpy().astype(np.int64)
    apart = part < 0
    part[apart] = part.max(initial=-1) + 1 + np.arange(np.count_nonzero(apart)) // PART_ROWS
    return (np.cumsum(np.bincount(part)) // BOX_ROWS)[part]


def _parts_in(plan: pa.Table) -> Iterator[tuple[str | None, pa.Table]]:
    """The parts of some shards, and of what is in none, in their order."""
    order = pc.sort_indices(plan, sort_keys=[("shard", "ascending"), ("record_id", "ascending")])
    runs = pc.run_end_encode(plan["shard"].combine_chunks().take(order))
    ends, names = runs.run_ends.to_pylist(), runs.values.to_pylist()
    for name, first, end in zip(names, [0, *ends[:-1]], ends, strict=True):
        step = PART_ROWS if name is None else end - first
        for start in range(first, end, step):
            yield name, plan.take(order[start : min(start + step, end)])


def read_plan(store: Store, run: Run, *, columns: list[str] | None = None) -> pa.Table:
    """The run's plan, or only its `columns`, in record-id order; TamperedError if the file is missing or differs."""
    key = run.plan["key"]
    with checked_data(store, key, run.plan["sha256"]) as data:
        if "index" not in run.plan:
            return read_table(data, PLAN, columns=columns)
        if not is_of_parts(data) or index_of(data) != run.plan["index"]:
            raise TamperedError(f"{layout.run_file(run.id)} names another index of {key} than it has", key=key)
        needed = None if columns is None else [*dict.fromkeys([*columns, "record_id", "shard"])]
        tables = [_of_shard(table, name, key) for name, table in parts_of(data, key, PLAN, columns=needed)]
    table = pa.concat_tables(tables).sort_by("record_id")
    return table if columns is None else table.select(columns)


def shard_sizes(store: Store, run: Run) -> dict[str, int]:
    """How many records each shard has; of a plan of parts no more is read than its index. Errors as above."""
    if "index" in run.plan:
        sizes = rows_by_name(store, run.plan["key"], run.plan["sha256"], run.plan["index"], PLAN)
    else:
        counted = read_plan(store, run, columns=["shard"])["shard"].value_counts()
        sizes = {count["values"]: count["counts"] for count in counted.to_pylist()}
    return {shard: sizes[shard] for shard in sorted(name for name in sizes if name is not None)}


class Apart(NamedTuple):
    """What of a plan no shard has, in record-id order."""

    carried: pa.Table  # the ids of what is carried
    unusable: pa.Table  # what ingest set aside


def read_apart(store: Store, run: Run) -> Apart:
    """What of the run's plan no shard has; errors as above."""
    carried, unusable = [PLAN.empty().select(["record_id"])], [PLAN.empty()]
    for table in _apart(store, run):
        carried.append(table.select(["record_id"]).filter(pc.equal(table["action"], Action.CARRY.value)))
        unusable.append(table.filter(pc.equal(table["action"], Action.QUARANTINE.value)))
    return Apart(pa.concat_tables(carried), pa.concat_tables(unusable))


def _apart(store: Store, run: Run) -> Iterator[pa.Table]:
    key, digest = run.plan["key"], run.plan["sha256"]
    if "index" in run.plan:
        for part in read_part(store, key, digest, run.plan["index"], None, PLAN):
            yield _of_shard(part, None, key)
        return
    with checked_data(store, key, digest) as data:
        for table in tables_of(data, PLAN):
            yield table.filter(pc.is_null(table["shard"]))


def read_shard_plan(store: Store, run: Run, shard: str, sample: int) -> tuple[pa.Table, str]:
    """What of the plan is in one shard, in record-id order, and the largest record id whose features are kept.

    Of a plan of parts no more is read than this, unless `sample` is not what was frozen with it.

    Raises:
        TamperedError: what is read is missing or differs.
    """
    if "index" not in run.plan:
        plan = read_plan(store, run)
        return plan.filter(pc.equal(plan["shard"], shard)), sample_of(plan, sample)["limit"] or ""
    frozen = run.plan["sample"]
    if frozen["records"] != sample:
        frozen = sample_of(read_plan(store, run, columns=["record_id", "action"]), sample)
    key, digest = run.plan["key"], run.plan["sha256"]
    part = pa.concat_tables([PLAN.empty(), *read_part(store, key, digest, run.plan["index"], shard, PLAN)])
    return _of_shard(part, shard, key), frozen["limit"] or ""


def sample_of(plan: pa.Table, count: int) -> SampleReference:
    """The sample of the `count` smallest record ids that may have an output."""
    usable = pc.indices_nonzero(pc.not_equal(plan["action"], Action.QUARANTINE.value))
    limit = plan["record_id"][usable[min(count, len(usable)) - 1].as_py()].as_py() if len(usable) else None
    return {"records": count, "limit": limit}


def _of_shard(part: pa.Table, shard: str | None, key: str) -> pa.Table:
    strangers = pc.is_valid(part["shard"]) if shard is None else pc.not_equal(part["shard"], shard)
    if pc.any(pc.fill_null(strangers, True)).as_py():
        raise TamperedError(f"{key} holds rows of another shard in the part of {shard}", key=key)
    return part
