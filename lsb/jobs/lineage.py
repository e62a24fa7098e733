"""How a run relates to those before it: which one it goes on from, whose prompts it uses, whose records it redoes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pydantic import Field, ValidationError

from lsb.config.job import JobConfig
from lsb.errors import UsageError
from lsb.fields import Frozen
from lsb.jobs.parents import find_parent, runs_of_job
from lsb.ledger.attestation import Signer
from lsb.ledger.carrying import Restriction, read_manifest, reference
from lsb.ledger.layout import run_file
from lsb.ledger.publish import latest_snapshot
from lsb.ledger.run import Run, RunSpec, create_run, open_run, run_id
from lsb.ledger.selection import Selection
from lsb.ledger.transform import ModelIdentity
from lsb.progress import NoProgress, Progress
from lsb.prompts.finding import StoredPrompt, UnlearnedPrompt, find_prompt, keep_negative, learned_by
from lsb.prompts.settings import SIDES, LearningConfig, Side
from lsb.store.store import Store

UNSAID = {"fit": "letterbox"}  # the geometry of runs that were planned before there was a choice


class RunOptions(Frozen):
    """What a command asks of a run beyond the job's configuration."""

    fresh: bool = Field(default=False, description="Carry nothing from the runs before: translate every record.")
    refit: bool = Field(
        default=False, description="Learn prompts from today's images instead of using those of the runs before."
    )
    reread: bool = Field(default=False, description="Read every file, whatever is known of it from listings before.")
    accept_vanished: bool = Field(default=False, description="Go on however many records the source has lost.")
    records_from: str | None = Field(default=None, description="Only records of this run, chosen by `selection`.")
    selection: Selection = Selection()


def prompt_of_job(
    store: Store,
    config: JobConfig,
    side: Side,
    identity: ModelIdentity,
    *,
    refit: bool = False,
    reread: bool = False,
    progress: Progress = NoProgress(),
) -> StoredPrompt | UnlearnedPrompt:
    """The prompt that a run of this job uses on one side, or what is to be learned for it. Errors as `find_prompt`.

    Args:
        refit: learn from today's images instead of using what the runs before learned.
        reread: read every picture to learn from, whatever is known of it.
    """
    request = config.prompt_request(side)
    earlier = () if refit else _earlier_prompts(store, config, side, identity)
    return find_prompt(store, request, identity, earlier, refit=refit, reread=reread, progress=progress)


def prompts_of_job(
    store: Store, config: JobConfig, identity: ModelIdentity, progress: Progress = NoProgress()
) -> tuple[StoredPrompt, StoredPrompt]:
    """Source's and target's.

    Raises:
        UsageError: one has yet to be learned.
    """
    source = prompt_of_job(store, config, "source", identity, progress=progress)
    target = prompt_of_job(store, config, "target", identity, progress=progress)
    if isinstance(source, StoredPrompt) and isinstance(target, StoredPrompt):
        return source, target
    raise UsageError("the prompts of this job have not been learned yet; run `lsb optimise` on it first")


def negative_of_job(store: Store, config: JobConfig) -> StoredPrompt | None:
    """The negative prompt of a job that says one; PromptError if its text will not do."""
    return keep_negative(store, config.prompts.negative) if config.prompts.negative else None


def _earlier_prompts(store: Store, config: JobConfig, side: Side, identity: ModelIdentity) -> Iterator[StoredPrompt]:
    """What the job's runs with the same model and settings of learning learned, whatever their images; newest first.

    New images alone must not give a new prompt: it would be another transform, and nothing could be carried. A run that
    was only planned counts, too: what it has committed is to be carried.
    """
    request = config.prompt_request(side)
    for run in runs_of_job(store, config.name):
        before = learned_with(run)
        if before is None or run.model["digest"] != identity.digest:
            continue
        found = StoredPrompt(request.domain, run.transform["prompts"][side], run.prompts[side])
        if request.is_that_of(before.prompt_request(side)):
            learned = learned_by(store, found)
            if not learned or request.learning.allows(learned):
                yield found


def planned_as(store: Store, spec: RunSpec, signer: Signer | None = None) -> Run:
    """The run of `spec`, made if it does not exist; a new one goes on from the run of the job that carries most.

    That choice is not part of the run's id: the same command leads to the same run before and after it is finished,
    whatever else the job's name stood for meanwhile. What was chosen first is frozen in `run.json`.

    Args:
        signer: signs what is published of a run that was cut off.
    """
    if not store.exists(run_file(run_id(spec))) and not spec.fresh and spec.only is None:
        spec = replace(spec, parent=find_parent(store, spec, signer))
    return create_run(store, spec)


def restriction(store: Store, options: RunOptions) -> Restriction | None:
    """What `run.json` says of a run over some records of another one; None if nothing restricts it.

    Raises:
        UsageError: that run has no snapshot, none judged by a flag of the selection, or no record of its name or
            pattern.
    """
    if options.records_from is None:
        return None
    other = open_run(store, options.records_from)
    snapshot = latest_snapshot(store, other)
    if snapshot is None:
        raise UsageError(f"run {other.id} has published nothing to choose records from; finish it first")
    if strangers := sorted(set(options.selection.flags) - snapshot.gates.keys()):
        raise UsageError(
            f"the newest snapshot of run {other.id} was not judged by the flag {strangers[0]!r}; "
            f"its flags are {', '.join(sorted(snapshot.gates))}"
        )
    named = reference(snapshot)
    chosen = options.selection.settled(read_manifest(store, named), f"record of run {other.id}")
    return {**named, "selection": chosen.model_dump(mode="json", exclude_defaults=True)}


def learned_with(run: Run) -> JobConfig | None:
    """Of the configuration that a run was planned with what prompts depend on, the rest at its defaults; None without.

    Settings that came later have their defaults, and those that this version does not know are of no concern here.
    """
    frozen = run.config or {}
    parts: dict[str, Any] = {name: frozen.get(name) for name in ("name", "store", "model", "learning", "seed")}
    parts["learning"] = LearningConfig.of_trace(parts["learning"] or {})
    parts["prompts"] = {side: (frozen.get("prompts") or {}).get(side) for side in SIDES}
    seen = frozen.get("geometry", UNSAID)
    parts["geometry"] = {field: seen[field] for field in ("fit", "area") if field in seen}
    for name, fields in (("source", ("domain", "path")), ("execution", ("dtype",))):
        parts[name] = {field: frozen.get(name, {}).get(field) for field in fields}
    try:
        return JobConfig.model_validate(parts)
    except ValidationError:
        return None
