"""What a store needs now and then, as flows to be scheduled: failures tried again, clean-up, verification.

Each names a store, and a job in it whose newest published run is meant.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from flows.rerun import rerun_records
from flows.retries import Retries, persistently
from flows.translate import JobResult
from flows.watching.artifacts import show_table
from lsb.audit import anchor_of, verify
from lsb.audit.verdict import INCOMPLETE, TAMPERED, UNVERIFIABLE
from lsb.errors import IncompleteError, TamperedError, UnverifiableError, UsageError
from lsb.fields import Absolute, Name
from lsb.jobs import gc
from lsb.jobs.job import config_of, object_uri
from lsb.ledger.layout import run_folder
from lsb.ledger.log.snapshots import current_run
from lsb.ledger.run import open_run
from lsb.ledger.selection import Selection
from lsb.store.store import Store, open_store
from tasks.guarded.flow import observed

Hours = Annotated[float, Field(ge=gc.LEAST_HOURS)]
Images = Annotated[int, Field(ge=0)]
_ERRORS = {TAMPERED: TamperedError, UNVERIFIABLE: UnverifiableError, INCOMPLETE: IncompleteError}
SHOWN = 100  # findings in Prefect's pages


@observed(name="rerun-failures", flow_run_name="rerun-failures-{job}")
def rerun_failures(store: Absolute, job: Name, selection: Selection = Selection(), retries: Retries = 0) -> JobResult:
    """Try failed records of a job's newest published run again, with the settings that it was planned with.

    Args:
        store: the job's store, an absolute path or a URI.
        job: the job's name.
        selection: which records; by default the retryable failures.
        retries: how often all of it is tried again, five minutes later each, where the store or shards failed for now.

    Raises:
        UsageError: the job has no published run.
        LsbError: see `rerun_records`.
    """

    def work() -> JobResult:
        opened = open_store(store)
        run = open_run(opened, _newest(opened, job))
        return rerun_records(config_of(run, opened), run.id, selection)

    return persistently(work, retries)


@observed(name="clean-up", flow_run_name="clean-up")
def clean_up(store: Absolute, older_than: Hours = gc.LEAST_HOURS, dry_run: bool = False) -> dict[str, Any]:
    """Delete what killed workers left behind and nothing names; safe beside whatever else is at work.

    Args:
        store: the root, an absolute path or a URI.
        older_than: hours; what was written since stays.
        dry_run: whether nothing is deleted, but only counted.

    Returns:
        `deleted` by kind, `bytes` of all of it.

    Raises:
        TamperedError, UnverifiableError: a run is damaged and was left alone, everything else is done.
    """
    done = gc.clean_up(open_store(store), older_than=older_than, dry_run=dry_run)
    if done.left_alone:
        show_table("left-alone", [{"run": run, "reason": error.message} for run, error in done.left_alone.items()])
        first = min(done.left_alone.values(), key=lambda error: error.exit_code)
        raise type(first)(f"{len(done.left_alone)} runs are damaged and were left alone: {first.message}")
    return {"deleted": done.counts(), "bytes": done.size, "dry_run": dry_run}


@observed(name="verify-job", flow_run_name="verify-{job}")
def verify_job(
    store: Absolute, job: Name, sample: Images | None = None, key: Path | None = None, snapshot: str | None = None
) -> dict[str, Any]:
    """Recompute every digest of a job's newest published run.

    Args:
        store: the job's store, an absolute path or a URI.
        job: the job's name.
        sample: how many output images are read; all if it is left out.
        key: the file of a public key that must have signed the newest snapshot; on the worker's machine.
        snapshot: the digest that the newest snapshot must have.

    Returns:
        `run`, `snapshot` (its digest, to be kept elsewhere), `assurance` and `checked`.

    Raises:
        UsageError: the job has no published run.
        TamperedError, UnverifiableError, IncompleteError: as `lsb verify` ends with 10, 12, 11.
    """
    opened = open_store(store)
    run = _newest(opened, job)
    verdict = verify(opened, run, sample, anchor_of(key, snapshot))
    if verdict.findings:
        show_table(f"{run}-findings", [asdict(finding) for finding in verdict.findings[:SHOWN]])
        first = next(finding for finding in verdict.findings if finding.kind == verdict.word)
        raise _ERRORS[verdict.word](f"run {run} is {verdict.word}, {len(verdict.findings)} findings: {first.message}")
    return {
        "run": object_uri(opened, run_folder(run)),
        "snapshot": verdict.snapshot,
        "assurance": verdict.assurance,
        "checked": verdict.checked,
    }


def _newest(store: Store, job: str) -> str:
    run = current_run(store, job)
    if run is None:
        raise UsageError(f"job {job} has no published run in {store.uri}; `lsb run` makes one")
    return run
