"""The two commands that delete from a store."""

from __future__ import annotations

import typer

from lsb.cli import options as opt
from lsb.cli import render
from lsb.cli.addresses import open_store_of


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
    render.show(render.clean_up(done, older_than=older_than, dry_run=dry_run, as_json=json), as_json=json)
    for run_id, error in done.left_alone.items():
        render.complain(f"{run_id} was left alone: {error}")
    raise typer.Exit(done.exit_code)


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
