"""What a run is to do with each record, frozen: made, written, and read whole or a shard's part alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, NotRequired, TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from lsb.errors import ConfigError, TamperedError, UsageError
from lsb.ledger import layout
from lsb.ledger.carrying import ParentReference, Restriction, carried_by, read_manifest
from lsb.ledger.log.commit_log import read_checked
from lsb.ledger.parts import IndexReference, index_of, is_of_parts, join, parts_of, read_part, rows_by_name
from lsb.ledger.schemas import PLAN, read_table, tables_of, write_table
from lsb.ledger.selection import Selection
from lsb.records import Action, Status
from lsb.store.store import Store

if TYPE_CHECKING:
    from lsb.ledger.run import Run

MAX_SHARDS = 100_000
PART_ROWS = 20_000  # a plan of no more rows is a single table
SAMPLE = 10_000


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


def plan_of(store: Store, records: pa.Table, settings: PlanSettings, parent: ParentReference | None) -> pa.Table:
    """The plan that follows from a data set's records, the plan's settings and the parent's snapshot.

    Raises:
        TamperedError: a snapshot that settings or parent name is not what was written.
        UsageError: the settings restrict the plan to records of which there is none.
    """
    if only := settings.get("only"):
        chosen = Selection(**only["selection"]).matching(read_manifest(store, only))["record_id"]
        records = records.filter(pc.is_in(records["record_id"], chosen.combine_chunks()))
        if not records.num_rows:
            lists = {name: values for name, values in only["selection"].items() if isinstance(values, list)}
            wanted = "; ".join(f"{name} {', '.join(values)}" for name, values in lists.items())
            raise UsageError(f"no record of run {only['run']} that is in this data set has {wanted}")
    carried = None if parent is None else carried_by(store, parent, records)
    return make_plan(records, settings["shard_size"], carried)


def make_plan(records: pa.Table, shard_size: int, carried: pa.Array | None = None) -> pa.Table:
    """One row per record in record-id order; those to translate have a shard, copies that of the first of them.

    Args:
        records: of schema RECORDS, in record-id order.
        shard_size: images to translate per shard.
        carried: for each record whether a usable one is taken over from the parent.

    Raises:
        ConfigError: more than 100,000 shards.
    """
    usable = pc.equal(records["status"], Status.OK.value)
    carry = pc.and_(usable, False if carried is None else carried)
    translate = pc.and_not(usable, carry)
    image = pc.coalesce(records["duplicate_of"], records["record_id"])
    images = pc.unique(image.filter(translate))
    shards = -(-len(images) // shard_size)
    if shards > MAX_SHARDS:
        least = -(-len(images) // MAX_SHARDS)
        raise ConfigError(
            f"execution.shard_size {shard_size} makes {shards} shards, at most {MAX_SHARDS} are allowed; "
            f"give {least} or more",
            field="execution.shard_size",
        )
    numbers = pc.cast(pc.divide(pc.index_in(image, images), shard_size), pa.string())
    shard = pc.if_else(translate, pc.utf8_lpad(numbers, 5, "0"), pa.scalar(None, pa.string()))
    action = pc.if_else(translate, Action.TRANSLATE.value, Action.QUARANTINE.value)
    action = pc.if_else(carry, Action.CARRY.value, action)
    columns = {name: records[name] for name in records.column_names} | {"shard": shard, "action": action}
    return pa.table([columns[name] for name in PLAN.arrow.names], schema=PLAN.arrow)


def read_plan(store: Store, run: Run, *, columns: list[str] | None = None) -> pa.Table:
    """The run's plan, or only its `columns`, in record-id order; TamperedError if the file is missing or differs."""
    key = run.plan["key"]
    data = read_checked(store, key, run.plan["sha256"])
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


def read_apart(store: Store, run: Run) -> pa.Table:
    """What of the plan no shard has: what is carried and what ingest set aside, in record-id order; errors as above."""
    key, digest = run.plan["key"], run.plan["sha256"]
    if "index" in run.plan:
        return _of_shard(read_part(store, key, digest, run.plan["index"], None, PLAN), None, key)
    tables = [table.filter(pc.is_null(table["shard"])) for table in tables_of(read_checked(store, key, digest), PLAN)]
    return pa.concat_tables([PLAN.empty(), *tables])


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
    part = read_part(store, key, digest, run.plan["index"], shard, PLAN)
    return _of_shard(part, shard, key), frozen["limit"] or ""


def sample_of(plan: pa.Table, count: int) -> SampleReference:
    """The sample of the `count` smallest record ids that may have an output."""
    usable = plan["record_id"].filter(pc.not_equal(plan["action"], Action.QUARANTINE.value))
    limit = usable[min(count, len(usable)) - 1].as_py() if len(usable) else None
    return {"records": count, "limit": limit}


def _of_shard(part: pa.Table, shard: str | None, key: str) -> pa.Table:
    strangers = pc.is_valid(part["shard"]) if shard is None else pc.not_equal(part["shard"], shard)
    if pc.any(pc.fill_null(strangers, True)).as_py():
        raise TamperedError(f"{key} holds rows of another shard in the part of {shard}", key=key)
    return part


def written_plan(plan: pa.Table, *, of_parts: bool | None = None) -> tuple[bytes, IndexReference | None]:
    """The plan's bytes: a single table, or a part for each shard and others for what is in none.

    Args:
        of_parts: which of the two; by default parts if there are more than PART_ROWS rows.
    """
    if not (plan.num_rows > PART_ROWS if of_parts is None else of_parts):
        return write_table(plan, PLAN), None
    order = pc.sort_indices(plan, sort_keys=[("shard", "ascending"), ("record_id", "ascending")])
    runs = pc.run_end_encode(plan["shard"].combine_chunks().take(order))
    ends, names = runs.run_ends.to_pylist(), runs.values.to_pylist()
    spans = []
    for name, first, end in zip(names, [0, *ends[:-1]], ends, strict=True):
        step = PART_ROWS if name is None else end - first
        spans += [(name, start, min(start + step, end)) for start in range(first, end, step)]
    return join(((name, plan.take(order[start:end])) for name, start, end in spans), PLAN)
