"""Pictures without an output, put together by what mends them."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from lsb.records import Status

COLUMNS = ("source_key", "status", "retryable", "error_code", "error_detail")
NEW_RUN = "lsb run JOB.yaml"
_KIND = ["status", "error_code", "retryable"]
_Kind = tuple[str, str, bool]
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

    def line(self, named: int = 3) -> str:
        """All of it in one line, the first `named` pictures by name."""
        names = [problem.key for problem in self.pictures[:named]]
        more = self.count - len(names)
        listed = ", ".join([*names, *([f"{more} more"] if more else [])])
        return f"{self.count} {self.status} ({self.code}): {listed}. {self.remedy} {self.command}".rstrip()


@dataclass
class Problems:
    """Every row that is not `ok`, in groups, as pieces of a manifest are added."""

    limit: int  # how many pictures of a group are named
    _counts: Counter[_Kind] = field(default_factory=Counter)
    _first: dict[_Kind, pa.Table] = field(default_factory=dict)  # by source key

    def add(self, rows: pa.Table) -> None:
        """`rows`: of the manifest; `COLUMNS` will do."""
        rows = rows.select(COLUMNS).filter(pc.not_equal(rows["status"], Status.OK.value))
        for found in rows.group_by(_KIND).aggregate([([], "count_all")]).to_pylist():
            of_kind = pc.scalar(True)
            for name in _KIND:
                is_it = pc.is_null(pc.field(name)) if found[name] is None else pc.field(name) == found[name]
                of_kind = of_kind & is_it
            kind = (found["status"], found["error_code"] or "", found["retryable"])
            self._counts[kind] += found["count_all"]
            before = [self._first[kind]] if kind in self._first else []
            first = pa.concat_tables([*before, rows.filter(of_kind)]).sort_by("source_key").slice(0, self.limit)
            self._first[kind] = first.combine_chunks()

    def groups(self, run_uri: str) -> tuple[ProblemGroup, ...]:
        """Failures first, the largest group of a status first.

        Args:
            run_uri: of the run, for the commands.
        """
        found = []
        for (status, code, retryable), rows in self._first.items():
            remedy, command = _remedy(status, code, retryable, run_uri)
            keys, details = rows["source_key"].to_pylist(), rows["error_detail"].to_pylist()
            named = tuple(Problem(key, detail_alone(code, text)) for key, text in zip(keys, details, strict=True))
            found.append(ProblemGroup(status, code, self._counts[status, code, retryable], remedy, command, named))
        return tuple(sorted(found, key=_rank))


def problem_groups(rows: pa.Table, run_uri: str, limit: int) -> tuple[ProblemGroup, ...]:
    """Those of one table."""
    problems = Problems(limit)
    problems.add(rows)
    return problems.groups(run_uri)


def _rank(group: ProblemGroup) -> tuple[int, int, str, str]:
    return _ORDER.index(Status(group.status)), -group.count, group.code, group.pictures[0].key


def detail_alone(code: str, detail: str | None) -> str:
    """A row's detail to be shown beside its code, with which the details of unusable pictures begin as well."""
    return (detail or "").removeprefix(f"{code}: ")


def _remedy(status: str, code: str, retryable: bool, run_uri: str) -> tuple[str, str]:
    """What to do, and the command."""
    if status == Status.ERASED:
        return "Erased because somebody asked for it; they stay erased.", ""
    if status == Status.QUARANTINED:
        return "These files are no usable pictures. Replace them or take them away, then:", NEW_RUN
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
