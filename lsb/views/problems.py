"""Pictures without an output, put together by what mends them."""

from __future__ import annotations

import shlex
from collections import defaultdict
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from lsb.records import Status

COLUMNS = ("source_key", "status", "retryable", "error_code", "error_detail")
NEW_RUN = "lsb run JOB.yaml"
_ORDER = (Status.FAILED, Status.QUARANTINED, Status.ERASED)
_BEFORE_A_RERUN = {
    "source_missing": "Put the files back where they were, then:",
    "source_unreadable": "See that the files can be read, then:",
    "out_of_memory": "Try them one at a time, or with more memory:",
    "timed_out": "On a machine with less to do, or with a larger execution.hang_seconds in the job's file:",
}


@dataclass(frozen=True)
class Problem:
    """One picture without an output. Nothing in it is trusted."""

    key: str
    detail: str


@dataclass(frozen=True)
class ProblemGroup:
    """Pictures of one status and code, the first of them by name, and what to do about all."""

    status: str
    code: str
    count: int
    remedy: str
    command: str  # empty where there is nothing to do
    pictures: tuple[Problem, ...]


def problem_groups(rows: pa.Table, run_uri: str, limit: int) -> tuple[ProblemGroup, ...]:
    """Every row that is not `ok`, in groups: failures first, the largest group of a status first.

    Args:
        rows: of the manifest; `COLUMNS` will do.
        run_uri: of the run, for the commands.
        limit: how many pictures of a group are named.
    """
    rows = rows.select(COLUMNS).filter(pc.not_equal(rows["status"], Status.OK.value)).sort_by("source_key")
    groups = defaultdict(list)
    for row in rows.to_pylist():
        groups[(row["status"], row["error_code"] or "", row["retryable"])].append(row)
    found = []
    for (status, code, retryable), members in groups.items():
        remedy, command = _remedy(status, code, retryable, run_uri)
        named = tuple(Problem(row["source_key"], detail_alone(code, row["error_detail"])) for row in members[:limit])
        found.append(ProblemGroup(status, code, len(members), remedy, command, named))
    return tuple(sorted(found, key=lambda group: (_ORDER.index(Status(group.status)), -group.count, group.code)))


def detail_alone(code: str, detail: str | None) -> str:
    """A row's detail to be shown beside its code, with which the details of unusable pictures begin as well."""
    return (detail or "").removeprefix(f"{code}: ")


def _remedy(status: str, code: str, retryable: bool, run_uri: str) -> tuple[str, str]:
    """What to do, and the command."""
    if status == Status.ERASED:
        return "Erased because somebody asked for it; they stay erased.", ""
    if status == Status.QUARANTINED:
        return "No usable pictures. Replace the files or take them away, then:", NEW_RUN
    if code == "source_changed":
        return "The files are no longer those that were planned. A new run takes them as they are:", NEW_RUN
    command = f"lsb rerun {shlex.quote(run_uri)} --code {shlex.quote(code)}"
    if code == "output_too_large":
        return (
            "Longer than the format of the outputs allows. Set output.format to png or a geometry.max_scale:",
            NEW_RUN,
        )
    if not retryable:
        return "They would fail again as they are. Once the cause is mended:", f"{command} --include-terminal"
    if code == "out_of_memory":
        command += " --batch 1"
    return _BEFORE_A_RERUN.get(code, "Another try may succeed:"), command
