"""The `lsb` command. A command parses, builds a configuration, calls, renders; nothing else.

torch and Prefect are imported by the commands that need them, so that `lsb --help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from lsb.cli import options as opt
from lsb.cli import render
from lsb.cli.addresses import open_store_of, run_in, run_uri
from lsb.cli.environment import prepare
from lsb.cli.exit_code import end_with, exit_code
from lsb.cli.terminal import tame_logs, tame_terminal
from lsb.config.job import load_config
from lsb.errors import UsageError

app = typer.Typer(
    name="lsb",
    help="Translate whole image data sets from one look to another, and prove what happened to every picture.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"lsb {version('lsb')}")
        raise typer.Exit


@app.callback()
def lsb(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    pass


@app.command()
def init(
    source: opt.SourceFolder,
    target: opt.TargetFolder,
    model: opt.Model,
    out: opt.NewFile = Path("job.yaml"),
    store: opt.NewStore = None,
    json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Write a job's file for two folders and a model, with all other settings in it as comments.

    Example: lsb init photos/cats photos/dogs --model models/stable-diffusion
    """
    from lsb.jobs.init import write_job

    job = write_job(out, source, target, model, store)
    render.show(
        {"job": str(out), "name": job.name, "store": job.store, "next": f"lsb run {out} --dry-run"}, as_json=json
    )


@app.command()
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

        render.show(render.dry_run(resolve(job, options, resume=run_in(job, resume))), as_json=json)
        return
    with _prefect(verbose):
        from flows.translate import translate_dataset

        result = translate_dataset(job, run_in(job, resume), options)
    render.show(render.result(result), as_json=json)


@app.command()
def ingest(config: opt.ConfigFile, json: opt.Json = False, verbose: opt.Verbose = False) -> None:
    """Take the source images into the ledger: decode, hash, quarantine what is unusable.

    Example: lsb ingest examples/emoji/job.yaml
    """
    job = load_config(config)
    with _prefect(verbose):
        from flows.stages import ingest_only

        dataset = ingest_only(job)
    render.show(render.dataset(dataset), as_json=json)


@app.command()
def optimise(config: opt.ConfigFile, json: opt.Json = False, verbose: opt.Verbose = False) -> None:
    """Learn the prompt of each domain, once per recipe of images, model and settings.

    Example: lsb optimise examples/emoji/job.yaml
    """
    job = load_config(config)
    with _prefect(verbose):
        from flows.stages import optimise_only

        prompts = optimise_only(job)
    render.show(render.prompts(prompts), as_json=json)


@app.command()
def plan(config: opt.ConfigFile, json: opt.Json = False, verbose: opt.Verbose = False) -> None:
    """Freeze the run: data set, transform and shards. The prompts must have been learned.

    Example: lsb plan examples/emoji/job.yaml
    """
    job = load_config(config)
    with _prefect(verbose):
        from flows.stages import plan_only

        planned = plan_only(job)
    render.show(render.plan(planned, run_uri(job, planned.id)), as_json=json)


@app.command()
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
    with _prefect(verbose):
        from flows.stages import translate_only

        done = translate_only(job, run_in(job, resume), accept_vanished)
    render.show({"run": run_uri(job, done["run"]), "translated": done["translated"]}, as_json=json)


@app.command()
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
    with _prefect(verbose):
        from flows.stages import evaluate_only

        metrics = evaluate_only(job, run_in(job, resume))
    render.show(metrics if json else render.metrics(metrics), as_json=json)


@app.command()
def publish(
    config: opt.ConfigFile,
    resume: opt.Resume = None,
    json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Publish a snapshot of the planned run: manifest, metrics, attestation and page.

    Example: lsb publish examples/emoji/job.yaml
    """
    job = load_config(config)
    with _prefect(verbose):
        from flows.stages import publish_only

        result = publish_only(job, run_in(job, resume))
    render.show(render.result(result), as_json=json)


@app.command()
def status(
    run: opt.RunUri,
    json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Shards and records by status, rate, and time left.

    Example: lsb status out/store/runs/emoji-flat-to-3d-0123456789ab
    """
    from lsb.ledger.run import open_run
    from lsb.views.status import status as count

    store, run_id = open_store_of(run)
    render.show(render.status(count(store, open_run(store, run_id))), as_json=json)


@app.command()
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
    from lsb.jobs.job import config_of, device_of, executed_with
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
    job = load_config(config).model_copy(update={"store": store.uri}) if config else config_of(frozen, store)
    job = executed_with(job, workers=workers, batch=batch, device=device)
    if dry_run:
        device_of(job)
        found = choose(store, frozen, chosen)
        figures = render.chosen(found)
        render.show(figures if json else render.counted(figures), as_json=json, lines=render.chosen_lines(found))
        return
    with _prefect(verbose):
        from flows.rerun import rerun_records

        result = rerun_records(job, run_id, chosen)
    render.show(render.result(result), as_json=json)


@app.command()
def verify(
    run: opt.RunUri,
    sample: opt.Sample = None,
    key: opt.PublicKey = None,
    snapshot: opt.SnapshotDigest = None,
    replay: opt.Replay = None,
    model: opt.MovedModel = None,
    lora: opt.MovedLoras = None,
    seed: opt.SampleSeed = "",
    json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Check every digest of a run, and with --replay the pixels.

    Exit code: 0 intact, 10 tampered, 13 replay differs, 12 unverifiable, 11 incomplete.

    Example: lsb verify out/store/runs/emoji-flat-to-3d-0123456789ab
    """
    from lsb.audit import anchor_of
    from lsb.audit import verify as audit

    store, run_id = open_store_of(run)
    verdict = audit(store, run_id, sample, anchor_of(key, snapshot), seed)
    if replay is not None:
        from lsb.audit.bench import add_replay

        verdict = add_replay(verdict, store, replay, seed, model=model, loras=lora or ())
    render.show(render.verdict(verdict, as_json=json), as_json=json)
    for finding in verdict.findings:
        named = finding.message if finding.key in finding.message else f"{finding.key}: {finding.message}"
        render.complain(f"{finding.kind}: {named}")
    raise typer.Exit(verdict.exit_code)


@app.command()
def diff(
    before: opt.Before,
    after: opt.After,
    json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Which records were added, vanished or changed between two runs or two versions of a data set.

    Example: lsb diff out/store/runs/emoji-flat-to-3d-0123456789ab out/store/runs/emoji-flat-to-3d-456789abcdef
    """
    from lsb.views.diff import compare

    found = compare(before, after)
    figures = render.difference(found)
    render.show(figures if json else render.counted(figures), as_json=json, lines=render.difference_lines(found))


@app.command()
def trace(
    output: opt.Image,
    run: opt.RunToLookIn = None,
    json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """How one image came about: source, model, prompts, settings, attempt, commit, and whether it is intact.

    Example: lsb trace picture.png --run out/store/runs/emoji-flat-to-3d-0123456789ab
    """
    from lsb.views.trace import run_of_output
    from lsb.views.trace import trace as find

    store, run_id = open_store_of(run or run_of_output(output))
    render.show_all([render.trace(found) for found in find(store, run_id, output)], as_json=json)


@app.command()
def export(
    run: opt.RunUri,
    destination: opt.Destination,
    overwrite: opt.Overwrite = False,
    json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Write the translations under the sources' own relative names. Names that would meet where letter case does not
    count, or are too long, are changed and listed. What cannot be written is named, the rest is written.

    Example: lsb export out/store/runs/emoji-flat-to-3d-0123456789ab translated
    """
    from lsb.ledger.run import open_run
    from lsb.views.export import export as write

    store, run_id = open_store_of(run)
    done = write(store, open_run(store, run_id), destination, overwrite=overwrite)
    render.show(render.export(done, destination, as_json=json), as_json=json)
    for key, error in done.not_written.items():
        render.complain(f"{key} was not written: {error}")
    raise typer.Exit(done.exit_code)


@app.command()
def report(
    run: opt.RunUri,
    out: opt.Copy = None,
    json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Say where the published page is, or write a copy of it.

    Example: lsb report out/store/runs/emoji-flat-to-3d-0123456789ab --out report.html
    """
    from lsb.jobs.job import object_uri
    from lsb.ledger.publish import latest_snapshot
    from lsb.ledger.run import open_run

    store, run_id = open_store_of(run)
    snapshot = latest_snapshot(store, open_run(store, run_id))
    if snapshot is None:
        raise UsageError(f"{run} has published nothing yet; finish it with `lsb run`")
    if out is not None:
        _write(out, store.read(snapshot.report_key))
    where = str(out) if out else object_uri(store, snapshot.report_key)
    render.show({"snapshot": snapshot.number, "report": where}, as_json=json)


@app.command()
def gc(
    root: opt.Root,
    dry_run: opt.Delete = False,
    older_than: opt.OlderThan = 24.0,
    json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Delete what killed workers left behind and nothing names. Safe while others work.

    Example: lsb gc out/store --dry-run
    """
    from lsb.jobs.gc import clean_up
    from lsb.store.store import open_store

    done = clean_up(open_store(root), older_than=older_than, dry_run=dry_run)
    render.show(render.clean_up(done, dry_run=dry_run, as_json=json), as_json=json)
    for run_id, error in done.left_alone.items():
        render.complain(f"{run_id} was left alone: {error}")
    raise typer.Exit(done.exit_code)


@app.command()
def erase(
    run: opt.RunUri,
    reason: opt.Reason,
    records: opt.ErasedRecords = [],  # noqa: B006
    match: opt.ErasedMatch = [],  # noqa: B006
    dry_run: opt.Delete = False,
    json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Delete images for good because somebody asks for it: those named by --records and --match. What became of them
    stays on record.

    Example: lsb erase out/store/runs/emoji-flat-to-3d-0123456789ab --records cats/17.png --reason request-17 --dry-run
    """
    from lsb.jobs.erase import erase as delete
    from lsb.ledger.attestation import environment_signer
    from lsb.ledger.selection import Selection

    store, run_id = open_store_of(run)
    chosen = Selection(names=tuple(records), match=tuple(match))
    done = delete(store, run_id, chosen, reason, dry_run=dry_run, signer=environment_signer())
    render.show(render.erased(done, dry_run=dry_run, as_json=json), as_json=json)
    for name, error in done.unread.items():
        render.complain(f"run {name} cannot be read and may show the images, too: {error}")
    raise typer.Exit(min((error.exit_code for error in done.unread.values()), default=0))


def main() -> None:
    """Entry point: an error becomes its exit code and one line."""
    tame_terminal()
    end_with(lambda: run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run `lsb` with arguments; the exit code."""
    verbose = "--verbose" in arguments or "-v" in arguments
    return exit_code(lambda: _call(arguments), verbose=verbose)


def _call(arguments: list[str]) -> Any:
    try:
        return app(args=arguments, prog_name="lsb", standalone_mode=False)
    except TyperException as error:
        if not arguments:  # it carries the help
            raise
        message = error.format_message().rstrip(".")
        context = getattr(error, "ctx", None)
        shown = f"{context.command_path if context else 'lsb'} --help"
        raise UsageError(f"{message[:1].lower()}{message[1:]}; `{shown}` says what there is") from error


@contextmanager
def _prefect(verbose: bool) -> Iterator[None]:
    """Prefect ready to run flows in this process, with our progress in the terminal."""
    prepare(verbose=verbose)
    from lsb.cli.working_folder import ignore_working_folder

    ignore_working_folder()
    from flows.watching.display import terminal_progress
    from lsb.cli.local_server import prefect_server
    from lsb.observation import Observer, observed_by

    tame_logs()
    display = terminal_progress()
    with prefect_server(), observed_by(Observer(display)):
        try:
            yield
        finally:
            display.close()


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; give another file") from error


if __name__ == "__main__":
    main()
