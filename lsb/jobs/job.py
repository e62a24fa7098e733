"""From a job's configuration to the run that it stands for."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow.compute as pc
from pydantic import ValidationError

from lsb.config.job import JobConfig
from lsb.errors import (
    ConfigError,
    FrozenSettingsError,
    NotFoundError,
    PromptError,
    TamperedError,
    UnfinishedError,
    UnverifiableError,
    UsageError,
)
from lsb.jobs.lineage import UNSAID, learned_with, negative_of_job, prompts_of_job
from lsb.jobs.measures import still_hold
from lsb.jobs.parents import runs_of_job
from lsb.ledger.attestation import Signer
from lsb.ledger.carrying import Restriction, read_manifest, reference
from lsb.ledger.dataset import Dataset
from lsb.ledger.gates import Gates
from lsb.ledger.layout import run_file
from lsb.ledger.log.snapshots import current_run
from lsb.ledger.manifest import Collected
from lsb.ledger.publish import Snapshot, current_heads, latest_snapshot, publish
from lsb.ledger.run import (
    Run,
    RunSpec,
    frozen_parts,
    open_run,
    plan_settings,
    refuse_differences,
    run_id,
    settings_of,
)
from lsb.ledger.transform import ModelIdentity, Transform, transform_id, transform_settings
from lsb.models.device import usable_device
from lsb.models.prompt import Prompt
from lsb.pictures.geometry import Geometry
from lsb.pictures.images import decoding_version
from lsb.pictures.ingest import ingest
from lsb.pictures.sources import open_sources
from lsb.prompts.finding import StoredPrompt, given_prompt
from lsb.prompts.settings import SIDES, Side
from lsb.records import Status
from lsb.store.overlap import refuse_overlap
from lsb.store.store import Store
from lsb.views.status import counts_by_shard

logger = logging.getLogger(__name__)


def run_spec(
    config: JobConfig,
    dataset: Dataset,
    source: StoredPrompt,
    target: StoredPrompt,
    identity: ModelIdentity,
    *,
    negative: StoredPrompt | None = None,
    fresh: bool = False,
    only: Restriction | None = None,
) -> RunSpec:
    """What is frozen of a job: data set, transform and plan settings. Workers and gates are not."""
    found = {"source": source, "target": target} | ({} if negative is None else {"negative": negative})
    transform = _transform(config, identity, source.id, target.id, None if negative is None else negative.id)
    return RunSpec(
        job=config.name,
        dataset=dataset,
        transform=transform,
        model=identity,
        shard_size=config.execution.shard_size,
        prompts={role: prompt.key for role, prompt in found.items()},
        source=config.source.path,
        truth=config.evaluate.truth,
        target=config.evaluate.target,
        config=config.model_dump(mode="json"),
        fresh=fresh,
        decoding=decoding_version(config.geometry.decoding_rules),
        only=only,
        sample=config.evaluate.sample,
    )


def config_of(run: Run, store: Store) -> JobConfig:
    """The configuration that a run was planned with, for the store that it lies in now.

    Raises:
        UsageError: the run holds none, or one of another version of lsb.
    """
    if run.config is None:
        raise UsageError(f"run {run.id} holds no configuration; give the job's file with --config")
    try:
        return JobConfig.model_validate({"geometry": UNSAID, **run.config, "store": store.uri})
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise UsageError(
            f"run {run.id} was planned by another version of lsb: it does not know {field}; "
            "give the job's file with --config"
        ) from error


def refuse_store_among_pictures(config: JobConfig) -> None:
    """Refuse a store that shares a folder with pictures that the job reads: its outputs would be taken for pictures.

    Raises:
        UsageError: names both places.
    """
    prompts, compared = config.prompts, config.evaluate
    refuse_overlap(
        "store",
        config.store,
        {
            "source.path": config.source.path,
            "prompts.source.images": prompts.source.images,
            "prompts.target.images": prompts.target.images,
            "evaluate.target": compared.target,
            "evaluate.truth": compared.truth,
        },
    )


def executed_with(config: JobConfig, **execution: Any) -> JobConfig:
    """A configuration with other settings of execution; None leaves one as it is."""
    given = {name: value for name, value in execution.items() if value is not None}
    return config.model_copy(update={"execution": config.execution.model_copy(update=given)})


def device_of(config: JobConfig, number: int = 0) -> str:
    """torch's name of the job's device; of several processes, counted from 0, one accelerator each.

    Raises:
        ConfigError: this machine has no such device.
    """
    try:
        return usable_device(config.execution.device, number)
    except UsageError as error:
        raise ConfigError(f"execution.{error}", field="execution.device") from error


def check_device(config: JobConfig) -> None:
    """Refuse a device that is not here; errors as `device_of`. What `auto` comes to is found out when it is used."""
    if config.execution.device != "auto":
        device_of(config)


def as_here(config: JobConfig) -> JobConfig:
    """A job's settings for what is done beside translating: where others translate, their device need not be here."""
    if config.execution.runner == "local":
        return config
    try:
        device_of(config)
    except ConfigError:
        return executed_with(config, device="auto")
    return config


def check_same_transform(run: Run, config: JobConfig, identity: ModelIdentity) -> None:
    """Refuse to go on with a run whose images these settings or this model would not make.

    Where folders lie may differ, what the images in them are learned or translated with may not. A geometry that nobody
    has chosen is the run's.

    Raises:
        FrozenSettingsError: `fields` names each setting that differs.
        PromptError: a prompt's file is unusable, and it is not the one that the run was planned with.
    """
    before, config = learned_with(run), as_frozen(config, run)
    source, target = (_prompt_asked_for(run, before, config, side) for side in SIDES)
    negative = Prompt(config.prompts.negative).id if config.prompts.negative else None
    transform = _transform(config, identity, source, target, negative)
    asked: dict[str, object] = {
        "job": config.name,
        "dataset": {"name": config.source.domain},
        "transform": transform,
    }
    frozen = {**frozen_parts(run), "dataset": {"name": run.dataset["name"]}}
    learned = [side for side in SIDES if config.prompt_request(side).wanted.images is not None]
    if before is not None and learned:
        said = config.learning.model_fields_set
        asked |= _learned_by(config, learned, said)
        frozen |= _learned_by(before, learned, said)
    refuse_differences(run, frozen, asked)


def check_resumed(run: Run, config: JobConfig, identity: ModelIdentity) -> None:
    """`check_same_transform`, and that the plan was asked for with these settings; errors likewise."""
    check_same_transform(run, config, identity)
    plan = frozen_parts(run)["plan"]
    refuse_differences(run, {"plan": plan}, {"plan": {**plan, "shard_size": config.execution.shard_size}})


def as_frozen(config: JobConfig, run: Run) -> JobConfig:
    """A job's settings for a run that is frozen: what was a default then may be another one now."""
    return config.with_geometry(Geometry.of_transform(run.transform))


def _transform(
    config: JobConfig, identity: ModelIdentity, source_prompt: str, target_prompt: str, negative_prompt: str | None
) -> Transform:
    return transform_settings(
        identity,
        source_prompt,
        target_prompt,
        config.method_settings,
        config.seed,
        config.execution.dtype,
        config.output.format,
        config.geometry.trace,
        config.output.trace,
        negative_prompt,
    )


def _prompt_asked_for(run: Run, before: JobConfig | None, config: JobConfig, side: Side) -> str:
    """The id of the prompt that a configuration gives; the run's own where prompts are learned, or its file is gone."""
    wanted, frozen = config.prompt_request(side).wanted, str(run.transform["prompts"][side])
    if wanted.images is not None:
        return frozen
    try:
        return given_prompt(wanted).id
    except PromptError:
        if before is None or before.prompt_request(side).wanted != wanted:
            raise
        return frozen


def _learned_by(config: JobConfig, sides: Sequence[Side], said: set[str]) -> dict[str, object]:
    """The settings that prompts are learned with, wherever the images lie; of those of learning, the ones named."""
    prompts = {}
    for side in sides:
        settings = config.prompt_request(side).wanted.model_dump(mode="json")
        prompts[side] = {**settings, "images": settings["images"] is not None}
    return {"prompts": prompts, "learning": config.learning.model_dump(mode="json", include=said)}


def object_uri(store: Store, key: str) -> str:
    """Where an object or a folder of a store lies, for people to open."""
    return f"{store.uri.rstrip('/')}/{key}"


def current_snapshot(
    store: Store,
    run: Run,
    config: JobConfig,
    *,
    partial: bool = False,
    named: bool = True,
    signer: Signer | None = None,
) -> Snapshot | None:
    """The latest snapshot, if nothing has changed since: neither what is committed nor how it is measured.

    Args:
        partial: take one, too, in which planned records lack rows.
        named: let the job's name stand for this run.
        signer: signs what is not signed by it.
    """
    snapshot = latest_snapshot(store, run)
    if snapshot is None or current_heads(store, run) != snapshot.heads:
        return None
    metrics = json.loads(store.read(snapshot.metrics_key))
    if snapshot.missing and not (partial or snapshot.stopped):
        return None

    def made() -> list[str]:
        rows = read_manifest(store, reference(snapshot), columns=["source_key", "status"])
        keys: list[str] = rows.filter(pc.equal(rows["status"], Status.OK.value))["source_key"].to_pylist()
        return keys

    def page(collected: Collected) -> bytes:
        if collected.erasures.keys() - snapshot.erasures.keys():
            raise UnfinishedError(f"an image of run {run.id} was erased meanwhile, which its page may show")
        return store.read(snapshot.report_key)

    if not still_hold(metrics, config, made):
        return None
    try:
        # Writes nothing but the job's entry, should the process have died between the two; or signs what is not signed.
        return publish(
            store,
            run,
            metrics,
            page,
            partial=partial,
            stopped=snapshot.stopped,
            gates=Gates.of(metrics, snapshot.gates),
            named=named and not snapshot.missing,
            signer=signer,
        )
    except (NotFoundError, UnfinishedError):  # an erasure took the page, or is about to
        return None


def may_take_the_name(store: Store, run: Run) -> bool:
    """Whether the job's name may go to a run that somebody finished by itself: never back from a newer one.

    It may from a run that this one goes on from, directly or through others that were cut off.
    """
    current = current_run(store, run.job)
    while current not in (None, run.id):
        if run.parent is None:
            return False
        try:
            run = open_run(store, run.parent["run"])
        except (TamperedError, UnverifiableError, UsageError):
            return False
    return True


def changed_default(store: Store, config: JobConfig, identity: Callable[[], ModelIdentity]) -> Run | None:
    """The job's newest run, if nothing but a default that is another one now makes another transform of it.

    Args:
        identity: of the model; called only if the default is another one.
    """
    newest = None if config.says_geometry else next(iter(runs_of_job(store, config.name)), None)
    if newest is None or Geometry.of_transform(newest.transform) == config.geometry:
        return None
    try:
        check_same_transform(newest, config, identity())
    except (FrozenSettingsError, PromptError):
        return None
    return newest


def refuse_changed_default(store: Store, config: JobConfig, identity: Callable[[], ModelIdentity]) -> None:
    """Stop before a job's pictures are all made again for no other reason than a newer version of lsb; arguments as for
    `changed_default`.

    Raises:
        ConfigError: says how many they are, and which line keeps what there is and which takes the new.
    """
    run = changed_default(store, config, identity)
    if run is None:
        return
    made = sum(counts.get(Status.OK.value, 0) for counts in counts_by_shard(store, run).values())
    before, now = Geometry.of_transform(run.transform).fit, config.geometry.fit
    raise ConfigError(
        f"geometry.fit is {now} where nothing is said, and the job's newest run, {run.id}, was made with {before}: "
        f"its {made} pictures would be made again; add `geometry: {{fit: {before}}}` to the job to keep them, or "
        f"`geometry: {{fit: {now}}}` to have all made anew",
        field="geometry.fit",
    )


def planned_run(store: Store, config: JobConfig, identity: ModelIdentity) -> Run:
    """The run that these settings stand for: that of the data as they are now or, if these have changed since, the one
    that was planned last.

    Raises:
        UsageError: none has been planned.
    """
    refuse_store_among_pictures(config)
    if (newest := changed_default(store, config, lambda: identity)) is not None:
        config = as_frozen(config, newest)
    sources = open_sources(config.source.path)
    dataset = ingest(
        sources,
        config.source.domain,
        store,
        read=config.source.read,
        choice=config.source.choice,
        rules=config.geometry.decoding_rules,
    )
    negative = negative_of_job(store, config)
    spec = run_spec(config, dataset, *prompts_of_job(store, config, identity), identity, negative=negative)
    if store.exists(run_file(run_id(spec))):
        return open_run(store, run_id(spec))
    asked = (dataset.name, transform_id(spec.transform), plan_settings(spec))
    for run in runs_of_job(store, config.name):
        if (run.dataset["name"], run.transform_id, settings_of(run.plan)) == asked:
            logger.warning(
                "%s has changed since run %s was planned, which goes on as it is", config.source.path, run.id
            )
            return run
    raise UsageError(f"run {run_id(spec)} has not been planned yet; run `lsb plan` on this job first")
