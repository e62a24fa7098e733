"""The `lsb` command. A command parses, builds a configuration, calls, renders; nothing else.

torch and Prefect are imported by the commands that need them, so that `lsb --help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import render
from flows.environment import prepare
from flows.exit_code import exit_code
from lsb.config import JobConfig, load_config
from lsb.errors import UsageError

app = typer.Typer(
    name="lsb",
    help="Translate whole image data sets from one look to another, and prove what happened to every picture.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The job's YAML file.", show_default=False)]
RunUri = Annotated[str, typer.Argument(metavar="RUN", help="<root>/runs/<run>, as `lsb run` prints it.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Prefect's log lines, and tracebacks of errors.")]
Resume = Annotated[str | None, typer.Option(metavar="RUN", help="This run and no other: refuse if settings differ.")]

Records = Annotated[
    list[str], typer.Option(metavar="ID|PATTERN", help="Only this record id, or source keys such as 'cats/*'.")
]
Codes = Annotated[list[str], typer.Option(metavar="CODE", help="Only records with this error code.")]


@app.command()
def run(
    config: ConfigFile,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done; write nothing.")] = False,
    json: Json = False,
    resume: Resume = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Carry nothing from the runs before: translate all.")] = False,
    refit: Annotated[bool, typer.Option("--refit", help="Learn the prompts from today's images.")] = False,
    records_from: Annotated[
        str | None, typer.Option(metavar="RUN", help="Only records of this run, chosen by the options below.")
    ] = None,
    flag: Annotated[list[str], typer.Option(metavar="FLAG", help="Those with this flag, such as flat_output.")] = [],  # noqa: B006
    records: Records = [],  # noqa: B006
    code: Codes = [],  # noqa: B006
    verbose: Verbose = False,
) -> None:
    """Do the whole job: ingest, optimise, plan, translate, evaluate, publish. Goes on where it stopped; after new data
    it carries what is unchanged over from the run before.

    Example: lsb run examples/emoji/job.yaml
    """
    from lsb.lineage import RunOptions
    from lsb.selection import Selection

    job = load_config(config)
    if (flag or records or code) and records_from is None:
        raise UsageError("--flag, --records and --code choose among the records of a run; name it with --records-from")
    chosen = Selection(flags=tuple(flag), records=tuple(records), codes=tuple(code))
    other = _run_of(job, records_from)
    options = RunOptions(fresh=fresh, refit=refit, records_from=other, selection=chosen)
    if dry_run:
        from lsb.dry_run import dry_run as resolve

        render.show(render.dry_run(resolve(job, options)), as_json=json)
        return
    with _prefect(verbose):
        from flows.translate import translate_dataset

        result = translate_dataset(job, _run_of(job, resume), options)
    render.show(render.result(result), as_json=json)


@app.command()
def ingest(config: ConfigFile, json: Json = False, verbose: Verbose = False) -> None:
    """Take the source images into the ledger: decode, hash, quarantine what is unusable.

    Example: lsb ingest examples/emoji/job.yaml
    """
    job = load_config(config)
    with _prefect(verbose):
        from flows.stages import ingest_only

        dataset = ingest_only(job)
    render.show(render.dataset(dataset), as_json=json)


@app.command()
def optimise(config: ConfigFile, json: Json = False, verbose: Verbose = False) -> None:
    """Learn the prompt of each domain, once per recipe of images, model and settings.

    Example: lsb optimise examples/emoji/job.yaml
    """
    job = load_config(config)
    with _prefect(verbose):
        from flows.stages import optimise_only

        prompts = optimise_only(job)
    render.show(render.prompts(prompts), as_json=json)


@app.command()
def plan(config: ConfigFile, json: Json = False, verbose: Verbose = False) -> None:
    """Freeze the run: data set, transform and shards. The prompts must have been learned.

    Example: lsb plan examples/emoji/job.yaml
    """
    job = load_config(config)
    with _prefect(verbose):
        from flows.stages import plan_only

        planned = plan_only(job)
    render.show(render.plan(planned, _uri(job, planned.id)), as_json=json)


@app.command()
def translate(config: ConfigFile, resume: Resume = None, json: Json = False, verbose: Verbose = False) -> None:
    """Translate every pending shard of the planned run.

    Example: lsb translate examples/emoji/job.yaml
    """
    job = load_config(config)
    with _prefect(verbose):
        from flows.stages import translate_only

        done = translate_only(job, _run_of(job, resume))
    render.show({"run": _uri(job, done["run"]), "translated": done["translated"]}, as_json=json)


@app.command()
def evaluate(config: ConfigFile, resume: Resume = None, json: Json = False, verbose: Verbose = False) -> None:
    """Measure what is committed of the planned run, and print it. Publishes nothing.

    Example: lsb evaluate examples/emoji/job.yaml --json
    """
    job = load_config(config)
    with _prefect(verbose):
        from flows.stages import evaluate_only

        metrics = evaluate_only(job, _run_of(job, resume))
    render.show(metrics if json else render.metrics(metrics), as_json=json)


@app.command()
def publish(config: ConfigFile, resume: Resume = None, json: Json = False, verbose: Verbose = False) -> None:
    """Publish a snapshot of the planned run: manifest, metrics, attestation and page.

    Example: lsb publish examples/emoji/job.yaml
    """
    job = load_config(config)
    with _prefect(verbose):
        from flows.stages import publish_only

        result = publish_only(job, _run_of(job, resume))
    render.show(render.result(result), as_json=json)


@app.command()
def status(run: RunUri, json: Json = False) -> None:
    """Shards and records by status, rate, and time left.

    Example: lsb status out/store/runs/emoji-flat-to-3d-0123456789ab
    """
    from lsb.sharding import open_run
    from lsb.status import status as count

    store, run_id = _open(run)
    render.show(render.status(count(store, open_run(store, run_id))), as_json=json)


@app.command()
def rerun(
    run: RunUri,
    failed: Annotated[
        bool, typer.Option("--failed", help="Records without a row and retryable failures: the default.")
    ] = False,
    shards: Annotated[list[str], typer.Option(metavar="SHARD", help="Only of this shard, such as 00003.")] = [],  # noqa: B006
    records: Records = [],  # noqa: B006
    status: Annotated[list[str], typer.Option(metavar="STATUS", help="Only `failed`, or only `pending`.")] = [],  # noqa: B006
    code: Codes = [],  # noqa: B006
    include_terminal: Annotated[
        bool, typer.Option("--include-terminal", help="Failures that are not retryable, too.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print exactly what would run; write nothing.")] = False,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The job's file, where its paths or settings are others now.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Instead of execution.workers.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Instead of execution.batch.")] = None,
    device: Annotated[str | None, typer.Option(help="Instead of execution.device.")] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Try records again that failed or were not done, and publish a new snapshot. Options of one kind add up, others
    narrow the choice; rows that are ok or quarantined are final.

    Example: lsb rerun out/store/runs/emoji-flat-to-3d-0123456789ab --dry-run
    """
    from lsb.job import config_of, executed_with
    from lsb.rerun import choose
    from lsb.selection import Selection
    from lsb.sharding import open_run

    if failed and (shards or records or status or code):
        raise UsageError("--failed is every failure; leave it out to choose by shard, record, status or code")
    store, run_id = _open(run)
    frozen = open_run(store, run_id)
    chosen = Selection(
        shards=tuple(shards),
        records=tuple(records),
        statuses=tuple(status),
        codes=tuple(code),
        include_terminal=include_terminal,
    )
    if dry_run:
        found = choose(store, frozen, chosen)
        figures = render.chosen(found)
        render.show(figures if json else render.counted(figures), as_json=json, lines=render.chosen_lines(found))
        return
    job = load_config(config).model_copy(update={"store": store.uri}) if config else config_of(frozen, store)
    job = executed_with(job, workers=workers, batch=batch, device=device)
    with _prefect(verbose):
        from flows.rerun import rerun_records

        result = rerun_records(job, run_id, chosen)
    render.show(render.result(result), as_json=json)


@app.command()
def verify(
    run: RunUri,
    sample: Annotated[
        int | None, typer.Option(min=0, help="Check only this many outputs, 0 for none, and all tables.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(metavar="PUBLIC", help="Ed25519 public key (PEM) that must have signed the snapshot.")
    ] = None,
    snapshot: Annotated[
        str | None, typer.Option(metavar="DIGEST", help="Digest that the newest snapshot must have, as printed before.")
    ] = None,
    replay: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Translate N outputs again and compare the pixels.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Where the run's model lies now, for --replay, if it has been moved.")
    ] = None,
    lora: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="LoRA file of the run's model, for --replay; repeatable.")
    ] = None,
    seed: Annotated[str, typer.Option(help="Any text: chooses another sample.")] = "",
    json: Json = False,
) -> None:
    """Check every digest of a run, and with --replay the pixels.

    Exit code: 0 intact, 10 tampered, 13 replay differs, 12 unverifiable, 11 incomplete.

    Example: lsb verify out/store/runs/emoji-flat-to-3d-0123456789ab
    """
    from lsb.audit import anchor_of
    from lsb.audit import verify as audit

    store, run_id = _open(run)
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
    before: Annotated[str, typer.Argument(metavar="A", help="<root>/runs/<run> or <root>/datasets/<name>/<version>.")],
    after: Annotated[str, typer.Argument(metavar="B", help="Another of the same kind.")],
    json: Json = False,
) -> None:
    """Which records were added, vanished or changed between two runs or two versions of a data set.

    Example: lsb diff out/store/runs/emoji-flat-to-3d-0123456789ab out/store/runs/emoji-flat-to-3d-456789abcdef
    """
    from lsb.difference import compare

    found = compare(before, after)
    figures = render.difference(found)
    render.show(figures if json else render.counted(figures), as_json=json, lines=render.difference_lines(found))


@app.command()
def trace(
    output: Annotated[
        str,
        typer.Argument(help="URI, path or key of an output; or a record id, a source's key or any image file."),
    ],
    run: Annotated[
        str | None, typer.Option(metavar="RUN", help="The run to look in; not needed for an output's path in a store.")
    ] = None,
    json: Json = False,
) -> None:
    """How one image came about: source, model, prompts, settings, attempt, commit, and whether it is intact.

    Example: lsb trace picture.png --run out/store/runs/emoji-flat-to-3d-0123456789ab
    """
    from lsb.trace import run_of_output
    from lsb.trace import trace as find

    store, run_id = _open(run or run_of_output(output))
    render.show_all([render.trace(found) for found in find(store, run_id, output)], as_json=json)


@app.command()
def export(
    run: RunUri,
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="A folder; made if missing.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that differ.")] = False,
    json: Json = False,
) -> None:
    """Write the translations under the sources' own relative names.

    Example: lsb export out/store/runs/emoji-flat-to-3d-0123456789ab translated
    """
    from lsb.export import export as write
    from lsb.sharding import open_run

    store, run_id = _open(run)
    render.show(
        render.export(write(store, open_run(store, run_id), destination, overwrite=overwrite), destination),
        as_json=json,
    )


@app.command()
def report(
    run: RunUri,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to write a copy of the page.")] = None,
    json: Json = False,
) -> None:
    """Say where the published page is, or write a copy of it.

    Example: lsb report out/store/runs/emoji-flat-to-3d-0123456789ab --out report.html
    """
    from lsb.job import object_uri
    from lsb.publish import latest_snapshot
    from lsb.sharding import open_run

    store, run_id = _open(run)
    snapshot = latest_snapshot(store, open_run(store, run_id))
    if snapshot is None:
        raise UsageError(f"{run} has published nothing yet; finish it with `lsb run`")
    if out is not None:
        _write(out, store.read(snapshot.report_key))
    where = str(out) if out else object_uri(store, snapshot.report_key)
    render.show({"snapshot": snapshot.number, "report": where}, as_json=json)


@app.command()
def gc(
    root: Annotated[str, typer.Argument(metavar="ROOT", help="A job's `store`: where `runs` and `datasets` lie.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be deleted; delete nothing.")] = False,
    older_than: Annotated[float, typer.Option(metavar="HOURS", help="Spare what is younger; at least 24.")] = 24.0,
    json: Json = False,
) -> None:
    """Delete what killed workers left behind and nothing names. Safe while others work.

    Example: lsb gc out/store --dry-run
    """
    from lsb.cleanup import clean_up
    from lsb.storage.store import open_store

    done = clean_up(open_store(root), older_than=older_than, dry_run=dry_run)
    render.show(render.clean_up(done, dry_run=dry_run, as_json=json), as_json=json)
    for run_id, error in done.left_alone.items():
        render.complain(f"{run_id} was left alone: {error}")
    raise typer.Exit(done.exit_code)


@app.command()
def erase(
    run: RunUri,
    records: Annotated[
        list[str],
        typer.Option(metavar="ID|PATTERN", help="Record id, or source keys such as 'cats/*'. Repeatable."),
    ],
    reason: Annotated[str, typer.Option(help="One line; kept for ever, so it should name nobody.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be deleted; delete nothing.")] = False,
    json: Json = False,
) -> None:
    """Delete images for good because somebody asks for it. What became of them stays on record.

    Example: lsb erase out/store/runs/emoji-flat-to-3d-0123456789ab --records cats/17.png --reason request-17 --dry-run
    """
    from lsb.attestation import environment_signer
    from lsb.erasure import erase as delete

    store, run_id = _open(run)
    done = delete(store, run_id, records, reason, dry_run=dry_run, signer=environment_signer())
    render.show(render.erased(done, dry_run=dry_run, as_json=json), as_json=json)
    for name, error in done.unread.items():
        render.complain(f"run {name} cannot be read and may show the images, too: {error}")
    raise typer.Exit(min((error.exit_code for error in done.unread.values()), default=0))


def main() -> None:
    """Entry point: an error becomes its exit code and one line."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run `lsb` with arguments; the exit code."""
    verbose = "--verbose" in arguments or "-v" in arguments
    return exit_code(lambda: app(args=arguments, prog_name="lsb", standalone_mode=True), verbose=verbose)


@contextmanager
def _prefect(verbose: bool) -> Iterator[None]:
    """Prefect ready to run flows in this process, with our progress in the terminal."""
    prepare(verbose=verbose)
    from flows.display import terminal_progress
    from flows.local_server import prefect_server
    from tasks.observation import Observer, observed_by

    display = terminal_progress()
    with prefect_server(), observed_by(Observer(display)):
        try:
            yield
        finally:
            display.close()


def _open(run: str) -> tuple[Any, str]:
    from lsb.storage.layout import parse_run_uri
    from lsb.storage.store import open_store

    root, run_id = parse_run_uri(run)
    return open_store(root), run_id


def _run_of(job: JobConfig, resume: str | None) -> str | None:
    """The run id in `resume`, which may be a URI under the job's store or the id alone."""
    if resume is None:
        return None
    if "/" not in resume:
        return resume
    from lsb.storage.store import open_store

    store, run_id = _open(resume)
    if store.uri != open_store(job.store).uri:
        raise UsageError(f"run {resume} is not in this job's store {job.store}; give one that is")
    return run_id


def _uri(job: JobConfig, run_id: str) -> str:
    from lsb.job import object_uri
    from lsb.storage.layout import run_folder
    from lsb.storage.store import open_store

    return object_uri(open_store(job.store), run_folder(run_id))


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; give another file") from error


if __name__ == "__main__":
    main()
