"""What a run is to do, frozen before it starts, and what of it is left to do.

A run is one version of a data set, one transform and one plan. Its id is made of these three, so the same command
finds the same run again and other data or settings make another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypedDict, TypeVar

import pyarrow.compute as pc

from lsb.errors import (
    AlreadyExistsError,
    FrozenSettingsError,
    NotFoundError,
    TamperedError,
    UsageError,
)
from lsb.ledger import layout
from lsb.ledger.carrying import ParentReference, Restriction
from lsb.ledger.dataset import Dataset
from lsb.ledger.log.commit_log import ShardLog
from lsb.ledger.log.seal import read_proved, seal, unseal, well_formed
from lsb.ledger.plan import SAMPLE, PlanReference, PlanSettings, sample_of, shard_sizes, written_plan
from lsb.ledger.schemas import PLAN
from lsb.ledger.transform import ModelIdentity, Transform, transform_id
from lsb.records import Action, Status, digest_of, sha256
from lsb.store.read_ahead import read_ahead
from lsb.store.store import Store, scheme_of

logger = logging.getLogger(__name__)

SCHEMA, SCHEMA_OF_PARTS = "lsb.run/1", "lsb.run/2"  # the second names a plan that is read by parts
RUN_ID_HEX = 12
LOGS = 32  # shards whose logs are read at a time
LOGS_OF_A_FOLDER = 4  # likewise; more threads would only be in one another's way

T = TypeVar("T")


@dataclass(frozen=True)
class RunSpec:
    """What a run is to be. `transform` is what `lsb.ledger.transform.transform_settings` returns."""

    job: str
    dataset: Dataset
    transform: Transform
    model: ModelIdentity
    shard_size: int  # images to translate per shard; copies of one image count once
    prompts: Mapping[str, str]  # "source" and "target" -> key of the stored prompt
    decoding: str  # what decides which pictures can be read: recorded, but not part of the identity
    source: str  # URIs: recorded, but not part of the identity
    truth: str | None = None
    target: str | None = None
    config: Mapping[str, Any] | None = None  # the job's whole configuration, to go on without its file
    fresh: bool = False  # asked for without a parent
    only: Restriction | None = None  # some records of another run
    parent: ParentReference | None = None  # what a new run goes on from; not part of the identity
    sample: int = SAMPLE  # records whose features are kept: frozen with a plan of parts, not part of the identity


class DatasetReference(TypedDict):
    """How `run.json` names the version of the data set."""

    name: str
    version: str
    key: str
    sha256: str
    records: int


class ModelReference(TypedDict):
    """How `run.json` names the model."""

    id: str
    revision: str | None
    digest: str


class FrozenParts(TypedDict):
    """What a run's id is made of, by the names that `check_frozen` gives to settings."""

    job: str
    dataset: dict[str, str]
    transform: Transform
    plan: PlanSettings


@dataclass(frozen=True)
class Run:
    """The content of `run.json`."""

    id: str
    job: str
    dataset: DatasetReference
    transform: Transform
    transform_id: str
    model: ModelReference
    plan: PlanReference
    prompts: dict[str, str]  # "source" and "target" -> key; "negative", where there is one
    files: dict[str, str]  # SHA-256 of the prompts and of how they were learned, by key
    source: str
    truth: str | None
    target: str | None
    created: str
    sha256: str  # of run.json
    config: dict[str, Any] | None = None  # the job's settings when it was planned; paths, never a secret
    parent: ParentReference | None = None
    decoding: str | None = None  # the version of decoding then; None in runs of versions that did not say
    left_out: dict[str, int] | None = None  # entries of the source that were no records, by kind; None if not counted

    def shards(self) -> list[str]:
        """The names of all shards in order."""
        return [shard_name(index) for index in range(self.plan["shards"])]


_METHOD, _BRIDGE = ("transform", "method"), ("transform", "bridge")


def shard_name(index: int) -> str:
    return f"{index:05d}"


def plan_settings(spec: RunSpec) -> PlanSettings:
    """What `spec` asks of the plan."""
    asked: PlanSettings = {"schema": PLAN.name, "shard_size": spec.shard_size}
    if spec.fresh:
        asked["fresh"] = True
    if spec.only is not None:
        asked["only"] = spec.only
    return asked


def run_id_of(job: str, version: str, transform: str, settings: PlanSettings) -> str:
    """Job name and 12 hex of the digest over data-set version, transform id and plan settings."""
    return f"{job}-{digest_of([version, transform, dict(settings)])[:RUN_ID_HEX]}"


def run_id(spec: RunSpec) -> str:
    """The id of the run that `spec` describes."""
    return run_id_of(spec.job, spec.dataset.version, transform_id(spec.transform), plan_settings(spec))


def create_run(store: Store, spec: RunSpec) -> Run:
    """Freeze the plan, then `run.json`; the existing run if there is one already.

    Raises:
        TamperedError: the data set's records, a prompt or the existing run differ from what was written.
        FrozenSettingsError: cannot happen but by a collision of ids; named fields differ.
    """
    name = run_id(spec)
    if store.exists(layout.run_file(name)):
        return _checked(store, name, spec)
    dataset = spec.dataset
    data, index, plan = written_plan(store, dataset.key, dataset.sha256, plan_settings(spec), spec.parent)
    plan_key = layout.plan_file(name, sha256(data), of_parts=index is not None)
    store.write(plan_key, data)
    document = {
        "schema": SCHEMA if index is None else SCHEMA_OF_PARTS,
        "run": name,
        "job": spec.job,
        "dataset": {
            "name": dataset.name,
            "version": dataset.version,
            "key": dataset.key,
            "sha256": dataset.sha256,
            "records": dataset.records,
        },
        "transform": spec.transform,
        "transform_id": transform_id(spec.transform),
        "model": {"id": spec.model.id, "revision": spec.model.revision, "digest": spec.model.digest},
        "plan": {
            "key": plan_key,
            "sha256": sha256(data),
            "records": plan.num_rows,
            "shards": pc.count_distinct(plan["shard"], mode="only_valid").as_py(),
            "carried": pc.sum(pc.equal(plan["action"], Action.CARRY.value)).as_py() or 0,
            "quarantined": pc.sum(pc.equal(plan["action"], Action.QUARANTINE.value)).as_py() or 0,
            **plan_settings(spec),
            **({} if index is None else {"index": index, "sample": sample_of(plan, spec.sample)}),
        },
        "prompts": dict(spec.prompts),
        "files": dict(_prompt_files(store, spec.prompts.values())),
        "source": spec.source,
        "left_out": dict(dataset.left_out),
        "truth": spec.truth,
        "target": spec.target,
        "parent": None if spec.parent is None else dict(spec.parent),
        "config": None if spec.config is None else dict(spec.config),
        "decoding": spec.decoding,
        "created": datetime.now(UTC).isoformat(timespec="microseconds"),
    }
    try:
        store.create(layout.run_file(name), seal(document))
    except AlreadyExistsError:
        logger.info("run %s was created by somebody else meanwhile", name)
    return _checked(store, name, spec)


def _checked(store: Store, name: str, spec: RunSpec) -> Run:
    """The run that is there, if it is the one that `spec` describes, with its plan."""
    run = open_run(store, name)
    check_frozen(run, spec)
    # Clean-up deletes plans without a run after a day. It may have taken this one for such, and so may have died.
    if not store.exists(run.plan["key"]):
        key, digest, of_parts = run.dataset["key"], run.dataset["sha256"], "index" in run.plan
        plan = written_plan(store, key, digest, settings_of(run.plan), run.parent, of_parts=of_parts)
        if sha256(plan.data) == run.plan["sha256"]:
            store.write(run.plan["key"], plan.data)
    return run


def open_run(store: Store, run_id: str) -> Run:
    """The run with that id.

    Raises:
        UsageError: there is none.
        TamperedError: `run.json` is not what was written, or its id does not follow from it.
    """
    key = layout.run_file(run_id)
    try:
        return read_proved(store, key, lambda data: _proved_run(data, key, run_id))
    except NotFoundError as error:
        raise UsageError(f"no run {run_id} in {store.uri}; `lsb run` prints the id of a run", run=run_id) from error


def open_named_run(store: Store, run_id: str) -> Run:
    """The run with that id, which some document names; TamperedError if it is missing or not what was written."""
    try:
        return open_run(store, run_id)
    except UsageError as error:
        key = layout.run_file(run_id)
        raise TamperedError(f"{key} is missing", key=key) from error


def _proved_run(data: bytes, key: str, run_id: str) -> Run:
    document = unseal(data, key=key, schema=(SCHEMA, SCHEMA_OF_PARTS))
    with well_formed(key):
        identity = transform_id(document["transform"])
        version, settings = document["dataset"]["version"], settings_of(document["plan"])
        if document["run"] != run_id or identity != document["transform_id"]:
            raise TamperedError(f"{key} names another run or transform than its settings give", key=key)
        if run_id_of(document["job"], version, identity, settings) != run_id:
            raise TamperedError(f"{key} holds settings that give another run id", key=key)
        fields = {name: value for name, value in document.items() if name not in ("schema", "run")}
        return Run(id=run_id, sha256=sha256(data), **fields)


def check_frozen(run: Run, spec: RunSpec) -> None:
    """Refuse to go on with a run that was frozen with other settings.

    Raises:
        FrozenSettingsError: `fields` names each setting that differs, such as `transform.bridge.tau`.
    """
    wanted: FrozenParts = {
        "job": spec.job,
        "dataset": {"version": spec.dataset.version},
        "transform": spec.transform,
        "plan": plan_settings(spec),
    }
    refuse_differences(run, frozen_parts(run), wanted)


def frozen_parts(run: Run) -> FrozenParts:
    """Those of a run."""
    return {
        "job": run.job,
        "dataset": {"version": run.dataset["version"]},
        "transform": run.transform,
        "plan": settings_of(run.plan),
    }


def refuse_differences(run: Run, frozen: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with a run if some part of `wanted` is another one in `frozen`; error as of `check_frozen`."""
    places = sorted(_differences({name: frozen[name] for name in wanted}, dict(wanted)))
    if _METHOD in places:  # the settings of either method say nothing to somebody who has changed it
        places = [place for place in places if place != _BRIDGE]
    if places:
        fields = [".".join(place) for place in places]
        before, asked = _at(frozen, places[0]), _at(wanted, places[0])
        raise FrozenSettingsError(
            f"run {run.id} is frozen with other settings: {', '.join(fields)} "
            f"({fields[0]} is {before!r}, asked for {asked!r}); "
            "put them back, or start a new run with `lsb run` and without --resume",
            fields=fields,
            run=run.id,
        )


def open_log(store: Store, run: Run, shard: str) -> ShardLog:
    """The log of one of the run's shards."""
    return ShardLog(store, run.id, run.sha256, run.plan["sha256"], shard)


def read_logs(
    store: Store, run: Run, read: Callable[[ShardLog], T], shards: Iterable[str] | None = None
) -> Iterator[tuple[str, T]]:
    """What `read` gives of the log of each of the run's shards, or of `shards`, in order; several are read at once."""
    named = run.shards() if shards is None else shards
    requests = LOGS if scheme_of(store.uri) else LOGS_OF_A_FOLDER
    with read_ahead(named, lambda shard: read(open_log(store, run, shard)), requests=requests) as logs:
        for shard, answer in logs:
            yield shard, answer()


def pending(
    store: Store, run: Run, shards: Iterable[str] | None = None, planned: Mapping[str, int] | None = None
) -> dict[str, int]:
    """How many records have no row, by shard; shards that are done are absent.

    Args:
        shards: which are looked at; all by default.
        planned: what `shard_sizes` gives, if it is known.
    """
    planned = shard_sizes(store, run) if planned is None else planned
    rows = read_logs(
        store, run, lambda log: sum(log.counts(log.entries()).values()), planned if shards is None else shards
    )
    return {shard: planned[shard] - count for shard, count in rows if count < planned[shard]}


def is_due(row: Mapping[str, Any] | None, tries: int) -> bool:
    """Whether a record that was chosen when it had `tries` tries is still to be tried, given its committed row."""
    return row is None or (row["status"] == Status.FAILED and row["tries"] <= tries)


def settings_of(plan: PlanReference) -> PlanSettings:
    """The settings among what `run.json` says of a plan."""
    settings: PlanSettings = {"schema": plan["schema"], "shard_size": plan["shard_size"]}
    if "fresh" in plan:
        settings["fresh"] = plan["fresh"]
    if "only" in plan:
        settings["only"] = plan["only"]
    return settings


def _prompt_files(store: Store, prompts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each prompt's file, and beside it how it was learned, with their digests."""
    for key in prompts:
        yield key, sha256(store.read(key))
        folder, _, name = key.rpartition("/")
        provenance = f"{folder}/{name.split('.', 1)[0]}.json"
        if provenance != key and store.exists(provenance):
            yield provenance, sha256(store.read(provenance))


def _differences(frozen: Any, wanted: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(frozen, dict) and isinstance(wanted, dict):
        for name in frozen.keys() | wanted.keys():
            yield from _differences(frozen.get(name), wanted.get(name), (*place, name))
    elif frozen != wanted:
        yield place


def _at(settings: Any, place: tuple[str, ...]) -> Any:
    for name in place:
        settings = settings.get(name) if isinstance(settings, dict) else None
    return settings
