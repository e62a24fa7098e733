"""Commands that look at what a store holds, and change nothing in it."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import typer

from lsb.cli import options as opt
from lsb.cli import render
from lsb.cli.addresses import open_store_of
from lsb.cli.environment import prepare
from lsb.cli.working_folder import ignore_working_folder
from lsb.config.job import load_config
from lsb.errors import UsageError

WATCHED_SECONDS = 2.0


def ls(
    root: opt.Root,
    json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Every run of a store: how far it is, how old and how large, and which one a job's name stands for.

    Example: lsb ls out/store
    """
    from lsb.store.store import open_store
    from lsb.views.listing import list_runs

    found = list_runs(open_store(root))
    if found or json:
        render.show_runs(found, as_json=json)
    else:
        render.complain(f"no runs in {root}")
    errors = {run.run: run.error for run in found if run.error}
    for run_id, error in errors.items():
        render.complain(f"{run_id} cannot be read: {error}")
    raise typer.Exit(min((error.exit_code for error in errors.values()), default=0))


def status(
    run: opt.RunUri,
    watch: opt.Watch = False,
    json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Shards and records by status, rate, time left, and who is at work on which shard.

    Example: lsb status out/store/runs/emoji-flat-to-3d-0123456789ab --watch
    """
    from lsb.ledger.run import open_run
    from lsb.views.holders import holders
    from lsb.views.status import status as count

    store, run_id = open_store_of(run)
    frozen = open_run(store, run_id)
    said = ""
    while True:
        began = time.monotonic()
        counted, at_work = count(store, frozen), holders(store, frozen)
        figures = render.status(counted, at_work)
        if not watch:
            render.show(
                figures if json else {**figures, "at_work": len(at_work)},
                as_json=json,
                lines=render.status_lines(at_work),
            )
            return
        line = render.status_line(counted, at_work)
        if line != said:
            render.show_line(line, figures, as_json=json)
        if counted.finished or counted.stopped:
            return
        said = line
        # Of a large run it reads much.
        time.sleep(max(WATCHED_SECONDS, 4 * (time.monotonic() - began)))


def listen(config: opt.ConfigFile, json: opt.Json = False, verbose: opt.Verbose = False) -> None:
    """Whether the model listens to the job's words: how much worse it denoises pictures of either look under the words
    for the other one. Writes nothing.

    Example: lsb listen examples/emoji/job.yaml
    """
    prepare(verbose=verbose)
    ignore_working_folder()
    from flows.watching.display import terminal_progress
    from lsb.jobs.hearing import heard_of_job

    display = terminal_progress()
    try:
        heard = heard_of_job(load_config(config), display)
    finally:
        display.close()
    is_heard = all(look.clear for look in heard)
    after = f"lsb tune {config}" if is_heard else f"lsb listen {config}, with other words in it"
    figures = {"looks": [asdict(look) for look in heard], "next": after} if json else render.heard(heard)
    render.show(figures, as_json=json, lines=[f"next: {after}"])


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
    render.show_all([asdict(found) for found in find(store, run_id, output)], as_json=json)


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


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; give another file") from error
