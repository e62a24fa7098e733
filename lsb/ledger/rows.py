"""The manifest's rows: what is said of one record, whatever became of it."""

from __future__ import annotations

import math

import pyarrow as pa

from lsb.ledger.run import Run
from lsb.ledger.schemas import MANIFEST, ManifestRow, PlanRow
from lsb.ledger.transform import method_settings
from lsb.records import Status


def ok_row(run: Run, planned: PlanRow, evidence: ManifestRow, result: ManifestRow) -> ManifestRow:
    """The row of a translated record.

    Args:
        planned: the record's row of the plan.
        evidence: shard, attempt, tries and the execution's columns.
        result: columns of source as read, output, scores and times.
    """
    row: ManifestRow = {**_base(run, planned), **evidence, **result, "status": Status.OK.value, "retryable": False}
    # A score that is no number says nothing, and would make equal tables differ.
    row["scores"] = [(name, value) for name, value in row.get("scores") or () if math.isfinite(value)]
    return row


def failed_row(
    run: Run,
    planned: PlanRow,
    evidence: ManifestRow,
    code: str,
    detail: str,
    read: ManifestRow,
    retryable: bool = True,
) -> ManifestRow:
    """The row of a record that failed though its image is usable; `retryable`: another try makes sense."""
    problem: ManifestRow = {
        "status": Status.FAILED.value,
        "retryable": retryable,
        "error_code": code,
        "error_detail": detail,
    }
    return {**_base(run, planned), **evidence, **read, **problem}


def quarantined_row(
    run: Run,
    planned: PlanRow,
    evidence: ManifestRow,
    code: str,
    detail: str,
    read: ManifestRow,
) -> ManifestRow:
    """The row of a record whose image cannot be used, now or later."""
    problem: ManifestRow = {
        "status": Status.QUARANTINED.value,
        "retryable": False,
        "error_code": code,
        "error_detail": detail,
    }
    return {**_base(run, planned), **evidence, **read, **problem}


def unusable_rows(run: Run, planned: pa.Table) -> pa.Table:
    """Rows of the records that ingest set aside: no shard ever sees them."""
    rows = [
        quarantined_row(run, row, {"tries": 0}, row["error_code"], row["error_detail"], {})
        for row in planned.to_pylist()
    ]
    return MANIFEST.table(rows)


def _base(run: Run, planned: PlanRow) -> ManifestRow:
    transform = run.transform
    prompts, (method, settings) = transform["prompts"], method_settings(transform)
    return {
        "record_id": planned["record_id"],
        "source_key": planned["key"],
        "source_sha256": planned["sha256"],
        "source_bytes": planned["bytes"],
        "source_format": planned["format"],
        "source_mode": planned["mode"],
        "source_width": planned["width"],
        "source_height": planned["height"],
        "source_orientation": planned["orientation"],
        "transform_id": run.transform_id,
        "model_id": run.model["id"],
        "model_revision": run.model["revision"],
        "model_digest": run.model["digest"],
        "source_prompt": prompts["source"],
        "target_prompt": prompts["target"],
        "seed": transform["seed"],
        "method": method,
        "nfe": settings["nfe"],
        "tau": settings.get("tau"),
        "t0": settings.get("t0"),
        "guidance": settings.get("guidance"),
    }
