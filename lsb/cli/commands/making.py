"""Commands that make: a job's file, a run, its stages one by one, records once more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from lsb.cli import options as opt
from lsb.cli import render
from lsb.cli.addresses import names_a_run, open_store_of, run_in, run_uri
from lsb.cli.environment import prepare
from lsb.cli.terminal import tame_logs
from lsb.config.job import JobConfig, load_config
from lsb.errors import UsageError

if TYPE_CHECKING:
    from lsb.store.store import Store


def init(
    source: opt.SourceFolder,
    target: opt.TargetFolder,
    model: opt.Model,
    out: opt.NewFile = Path("job.yaml"),
    store: opt.NewStore = None,
    learn: opt.LearnPrompts = False,
    json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Write a job's file for two folders and a model, with all other settings in it as comments. Prompts are the looks'
    names, by their folders.

    Example: lsb init photos/cats photos/dogs --model models/stable-diffusion
    """
    from lsb.jobs.init import write_job

    job = write_job(out, source, target, model, store, learn=learn)
    after = f"lsb {'tune' if learn else 'listen'} {out}"
    render.show({"job": str(out), "name": job.name, "store": job.store, "next": after}, as_json=json)


def run(
    config: opt.ConfigFile,
    dry_run: opt.Resolve = False,
    json: opt.Json = False,
    resume: opt.Resume = None,
    fresh: opt.Fresh = False,
    refit: opt.Refit = False,
    reread: opt.Reread = False,
    accept_vanished: opt.AcceptVanished = False,
    records_from: opt.RecordsFrom = None,
    flag: opt.Flags = [],  # noqa: B006
    records: opt.Records = [],  # noqa: B006
    match: opt.Match = [],  # noqa: B006
    code: opt.Codes = [],  # noqa: B006
    verbose: opt.Verbose = False,
) -> None:
    """Do the whole job: ingest, optimise, plan, translate, evaluate, publish. Goes on where it stopped; after new data
    it carries what is unchanged over from the run before.

    Example: lsb run examples/emoji/job.yaml
    """
    from lsb.jobs.lineage import RunOptions
    from lsb.ledger.selection import Selection

    job = load_config(config)
    chosen = Selection(flags=tuple(flag), names=tuple(records), match=tuple(match), codes=tuple(code))
    if chosen != Selection() and records_from is None:
        raise UsageError(
            "--flag, --records, --match and --code choose among the records of a run; name it with --records-from"
        )
    other = run_in(job, records_from)
    options = RunOptions(
        fresh=fresh,
        refit=refit,
        reread=reread,
        accept_vanished=accept_vanished,
        records_from=other,
        selection=chosen,
    )
    if dry_run:
        from lsb.jobs.dry_run import dry_run as resolve

        render.show(asdict(resolve(job, options, resume=run_in(job, resume))), as_json=json)
        return
    run_id = run_in(job, resume)
    result = None
    if not _server_is_named(verbose):
        from flows.looking import result_of_nothing

        result = result_of_nothing(job, run_id, options)
    if result is None:
        with _prefect(verbose, "flows.translate"):
            from flows.translate import translate_dataset

            result = translate_dataset(job, run_id, options)
    render.show_result(result, as_json=json)


def tune(
    config: opt.ConfigFile,
    method: opt.TunedMethod = None,
    seconds: opt.TuningSeconds = None,
    tries: opt.Tries = None,
    settings: opt.TriedSettings = [],  # noqa: B006
    write: opt.WriteJob = False,
    out: opt.TunedFile = None,
    json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Try a method's settings on a few dozen of the job's pictures: a sheet of them side by side, one recommended, and
    a job's file with it. Goes on where it stopped; makes no run.

    Example: lsb tune examples/emoji/job.yaml --settings tau=0.05,0.1 --settings guidance=5,7
    """
    _prepare(verbose)
    from flows.watching.display import terminal_progress
    from lsb.tuning.tune import Asked
    from lsb.tuning.tune import tune as search

    asked = Asked(method, seconds, tries, _values(settings), write, out)
    display = terminal_progress()
    try:
        found = search(config, asked, display)
    finally:
        display.close()
    render.show(render.tuned(found, as_json=json), as_json=json)


def ingest(config: opt.ConfigFile, json: opt.Json = False, verbose: opt.Verbose = False) -> None:
    """Take the source images into the ledger: decode, hash, quarantine what is unusable.

    Example: lsb ingest examples/emoji/job.yaml
    """
    job = load_config(config)
    with _prefect(verbose, "flows.stages"):
        from flows.stages import ingest_only

        dataset = ingest_only(job)
    render.show(render.dataset(dataset), as_json=json)


def optimise(config: opt.ConfigFile, json: opt.Json = False, verbose: opt.Verbose = False) -> None:
    """Learn the prompt of each domain, once per recipe of images, model and settings.

    Example: lsb optimise examples/emoji/job.yaml
    """
    job = load_config(config)
    with _prefect(verbose, "flows.stages"):
        from flows.stages import optimise_only

        prompts = optimise_only(job)
    render.show(render.prompts(prompts), as_json=json)


def plan(config: opt.ConfigFile, json: opt.Json = False, verbose: opt.Verbose = False) -> None:
    """Freeze the run: data set, transform and shards. The prompts must have been learned.

    Example: lsb plan examples/emoji/job.yaml
    """
    job = load_config(config)
    with _prefect(verbose, "flows.stages"):
        from flows.stages import plan_only

        planned = plan_only(job)
    render.show(render.plan(planned, run_uri(job, planned.id)), as_json=json)


def translate(
    config: opt.ConfigFile,
    resume: opt.Resume = None,
    accept_vanished: opt.AcceptVanished = False,
    json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Translate every pending shard of the planned run.

    Example: lsb translate examples/emoji/job.yaml
    """
    job = load_config(config)
    with _prefect(verbose, "flows.stages"):
        from flows.stages import translate_only

        done = translate_only(job, run_in(job, resume), accept_vanished)
    render.show({"run": run_uri(job, done.run), "translated": done.translated}, as_json=json)


def evaluate(
    config: opt.ConfigFile,
    resume: opt.Resume = None,
    json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Measure what is committed of the planned run, and print it. Publishes nothing.

    Example: lsb evaluate examples/emoji/job.yaml --json
    """
    job = load_config(config)
    with _prefect(verbose, "flows.stages"):
        from flows.stages import evaluate_only

        metrics = evaluate_only(job, run_in(job, resume))
    render.show(metrics if json else render.metrics(metrics), as_json=json)


def publish(
    job: opt.RunOrConfig,
    resume: opt.Resume = None,
    json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Publish a snapshot of a run: manifest, metrics, attestation and page. It is the planned run of a job's file, or
    the one of a URI, from any machine that sees what the run was made from.

    Example: lsb publish out/store/runs/emoji-flat-to-3d-0123456789ab
    """
    config, run_id = _named(job, resume)
    with _prefect(verbose, "flows.stages"):
        from flows.stages import publish_only

        result = publish_only(config, run_id)
    render.show_result(result, as_json=json)


def _named(job: str, resume: str | None) -> tuple[JobConfig, str | None]:
    """A job, and which run of it is meant, by a job's file or a run's URI; UsageError if it is neither."""
    from lsb.jobs.job import config_of
    from lsb.ledger.run import open_run

    if Path(job).is_file():
        config = load_config(job)
        return config, run_in(config, resume)
    if not names_a_run(job):
        raise UsageError(
            f"{job!r} is no file and no run; give a job's file, or <root>/runs/<run> as `lsb run` prints it"
        )
    if resume is not None:
        raise UsageError("--resume says which run of a job's file is meant; a run's URI says so by itself")
    store, run_id = open_store_of(job)
    return config_of(open_run(store, run_id), store), run_id


def work(
    run: opt.RunUri,
    config: opt.OtherConfig = None,
    workers: opt.Workers = None,
    batch: opt.Batch = None,
    device: opt.Device = None,
    json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Take part in translating a run that is planned, until nothing of it is left. Any number of these share a run, on
    any machines that see its store, its model and its pictures; `lsb publish` comes after the last.

    Example: lsb work out/store/runs/emoji-flat-to-3d-0123456789ab
    """
    _prepare(verbose)
    from flows.watching.display import terminal_progress
    from flows.watching.interruption import interruptible
    from flows.watching.metrics import serve_as_asked
    from lsb.jobs.job import config_of, executed_with
    from lsb.jobs.work.loop import work_on
    from lsb.ledger.run import open_run
    from lsb.observation import Observer, observed_by

    tame_logs()
    serve_as_asked()
    store, run_id = open_store_of(run)
    job = _moved(config, store) if config else config_of(open_run(store, run_id), store)
    job = executed_with(job, workers=workers, batch=batch, device=device)
    display = terminal_progress()
    try:
        with observed_by(Observer(display)), interruptible() as interruption, interruption.patience():
            done = work_on(job, run_id, lambda: interruption.signal)
    finally:
        display.close()
    render.show(asdict(done), as_json=json)


def _moved(config: Path, store: Store) -> JobConfig:
    """A job's file, for the store that a run lies in."""
    return load_config(config).model_copy(update={"store": store.uri})


def rerun(
    run: opt.RunUri,
    failed: opt.Failed = False,
    shards: opt.Shards = [],  # noqa: B006
    records: opt.Records = [],  # noqa: B006
    match: opt.Match = [],  # noqa: B006
    status: opt.Statuses = [],  # noqa: B006
    code: opt.Codes = [],  # noqa: B006
    include_terminal: opt.IncludeTerminal = False,
    dry_run: opt.Choose = False,
    config: opt.OtherConfig = None,
    workers: opt.Workers = None,
    batch: opt.Batch = None,
    device: opt.Device = None,
    json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Try records again that failed or were not done, and publish a new snapshot. Options of one kind add up, others
    narrow the choice; rows that are ok or quarantined are final.

    Example: lsb rerun out/store/runs/emoji-flat-to-3d-0123456789ab --dry-run
    """
    from lsb.jobs.job import check_device, config_of, executed_with
    from lsb.jobs.rerun import choose
    from lsb.ledger.run import open_run
    from lsb.ledger.selection import Selection

    if failed and (shards or records or match or status or code):
        raise UsageError("--failed is every failure; leave it out to choose by shard, record, status or code")
    store, run_id = open_store_of(run)
    frozen = open_run(store, run_id)
    chosen = Selection(
        shards=tuple(shards),
        names=tuple(records),
        match=tuple(match),
        statuses=tuple(status),
        codes=tuple(code),
        include_terminal=include_terminal,
    )
    job = _moved(config, store) if config else config_of(frozen, store)
    job = executed_with(job, workers=workers, batch=batch, device=device)
    if dry_run:
        check_device(job)
        found = choose(store, frozen, chosen)
        figures = render.chosen(found)
        render.show(figures if json else render.counted(figures), as_json=json, lines=render.chosen_lines(found))
        return
    with _prefect(verbose, "flows.rerun"):
        from flows.rerun import rerun_records

        result = rerun_records(job, run_id, chosen)
    render.show_result(result, as_json=json)


def _values(given: list[str]) -> dict[str, tuple[str, ...]]:
    """`tau=0.1,0.3` as the values of a name."""
    found: dict[str, tuple[str, ...]] = {}
    for one in given:
        name, _, values = one.partition("=")
        if not values or name in found:
            reason = "is given twice" if name in found else "has no values"
            raise UsageError(f"--settings {one}: {name} {reason}; write name=value,value once for each name")
        found[name] = tuple(values.split(","))
    return found


def _server_is_named(verbose: bool) -> bool:
    """Whether there is a server of Prefect's that is to see what is done, be it nothing."""
    _prepare(verbose)
    from prefect.settings import PREFECT_API_URL

    return bool(PREFECT_API_URL.value())


def _prepare(verbose: bool) -> None:
    prepare(verbose=verbose)
    from lsb.cli.working_folder import ignore_working_folder

    ignore_working_folder()


@contextmanager
def _prefect(verbose: bool, flows: str) -> Iterator[None]:
    """Prefect ready to run flows in this process, with our progress in the terminal.

    Args:
        flows: the module that has them, imported while a server starts.
    """
    _prepare(verbose)
    from flows.watching.display import terminal_progress
    from flows.watching.metrics import serve_as_asked
    from lsb.cli.local_server import prefect_server
    from lsb.observation import Observer, observed_by

    tame_logs()
    serve_as_asked()
    display = terminal_progress()
    with prefect_server(meanwhile=partial(import_module, flows)), observed_by(Observer(display)):
        try:
            yield
        finally:
            display.close()
