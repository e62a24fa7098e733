"""Which of a job's runs a new one goes on from, whether they were finished or cut off.

What is committed is carried through snapshots only. So a run that was cut off is published first, as far as it came:
without measures, without pictures on its page, and without the job's name.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from lsb.errors import LsbError, TamperedError, UnverifiableError, UsageError
from lsb.ledger import layout
from lsb.ledger.attestation import Signer
from lsb.ledger.carrying import (
    COMPARED,
    FINAL,
    ParentReference,
    compared,
    listed_pieces,
    manifest_pieces,
    parent_reference,
    reference,
)
from lsb.ledger.gates import Gates
from lsb.ledger.log.commit_log import checked_data
from lsb.ledger.log.seal import well_formed
from lsb.ledger.log.snapshots import Snapshot, current_run
from lsb.ledger.manifest import collect
from lsb.ledger.publish import current_heads, latest_snapshot, publish
from lsb.ledger.run import Run, RunSpec, open_named_run, open_run
from lsb.ledger.schemas import RECORDS, tables_of
from lsb.ledger.transform import transform_id
from lsb.pictures.geometry import Geometry
from lsb.pictures.images import decoding_version
from lsb.records import Status
from lsb.store.scratch import ScratchStore
from lsb.store.store import Data, Store
from lsb.views.page_contents import page_of

logger = logging.getLogger(__name__)

CUT_OFF = "The run was cut off; what it had committed by then is published for the run after it to go on from"
_COLUMNS = ["record_id", "status", "source_sha256", "carried_from"]
Damaged = Callable[[str, LsbError], None]


def runs_of_job(store: Store, job: str, damaged: Damaged = lambda run_id, error: None) -> list[Run]:
    """A job's runs over whole data sets, published or only planned, the newest first.

    Takes one listing of the folders and one request for each run of the job.

    Args:
        damaged: told of each run that cannot be read; it is left out.
    """
    found: list[tuple[float, str, Run]] = []
    for folder in store.folders(layout.runs_of_job(job)):
        run_id = folder.rpartition("/")[2]
        if layout.job_of(run_id) != job:
            continue
        try:
            run = open_run(store, run_id)
            with well_formed(layout.run_file(run_id)):
                found.append((datetime.fromisoformat(run.created).timestamp(), run_id, run))
        except UsageError:  # a plan of which no run was made
            continue
        except (TamperedError, UnverifiableError) as error:
            damaged(run_id, error)
    return [run for *_, run in sorted(found, key=lambda item: item[:2], reverse=True) if "only" not in run.plan]


def find_parent(store: Store, spec: RunSpec, signer: Signer | None = None) -> ParentReference | None:
    """What a new run goes on from: of the job's runs over the same data set's name with the same transform the one that
    carries most, then the newest; None without one.

    What of it is committed and in no snapshot yet is published first. A run that cannot be read is left out with a
    warning, unless the job's name stands for it.

    Args:
        signer: signs the snapshot of a run that was cut off.

    Raises:
        TamperedError, UnverifiableError: the run that the job's name stands for is missing, or not what was written.
    """
    current = current_run(store, spec.job)

    def leave_out(run_id: str, error: LsbError) -> None:
        if run_id == current:  # others rely on it, and should know
            raise type(error)(
                f"{error.message}; job {spec.job} stands for run {run_id}, from which nothing can be carried: see "
                "`lsb verify` of it, and start anew with --fresh",
                **error.details,
            ) from error
        logger.warning("nothing is carried from run %s, which is damaged: %s", run_id, error)

    wanted = (transform_id(spec.transform), spec.dataset.name)
    runs = runs_of_job(store, spec.job, leave_out)
    if current is not None and current not in {run.id for run in runs}:
        try:
            open_named_run(store, current)
        except (TamperedError, UnverifiableError) as error:
            leave_out(current, error)
    runs = [run for run in runs if (run.transform_id, run.dataset["name"]) == wanted]
    if not runs:
        return None
    with checked_data(store, spec.dataset.key, spec.dataset.sha256) as records:
        search = _Search(store, records, {run.id: run for run in runs})
        for run in runs:
            try:
                search.look_at(run)
            except (TamperedError, UnverifiableError) as error:
                leave_out(run.id, error)
    best = search.best
    if best is None:
        return None
    snapshot = best.snapshot or _publish_what_is_committed(store, best.run, signer)
    return parent_reference(snapshot, best.run.plan, same_decoding=_decoded_as_now(best.run))


@dataclass(frozen=True)
class _Candidate:
    """A run and what can be carried from it; `snapshot` is None if more is committed than its last one says."""

    run: Run
    snapshot: Snapshot | None
    carries: int


@dataclass
class _Search:
    """Looks at runs from the newest to the oldest, and reads the rows of those alone that may carry more than the best
    so far."""

    store: Store
    records: Data  # the data set's table of them
    runs: dict[str, Run]
    best: _Candidate | None = None
    superseded: set[str] = field(default_factory=set)  # runs that another one has gone on from
    bounds: dict[str, int] = field(default_factory=dict)  # run -> the most that it may carry

    def look_at(self, run: Run) -> None:
        """Make `run` the best one if it carries more than those before it."""
        if not self._may_be_best(run, min(_usable(run), self._usable_records)):
            return
        snapshot = latest_snapshot(self.store, run)
        if snapshot is not None and self._says_all(run, snapshot):
            self._supersede_parent_of(run)
            unusable = run.plan["records"] - _usable(run)
            if not self._may_be_best(run, sum(snapshot.counts.get(status, 0) for status in FINAL) - unusable):
                return
            rows: Iterable[pa.Table] = manifest_pieces(self.store, reference(snapshot), columns=_COLUMNS)
        else:
            collected = collect(self.store, run, gates=Gates(), columns=_COLUMNS)
            if snapshot is None and not collected.heads:
                return  # it has nothing of its own: its parent has as much
            self._supersede_parent_of(run)
            snapshot, rows = None, collected.pieces
        made: Counter[str] = Counter()  # of the rows that it carries, by the run that made them
        listed = listed_pieces(self.store, run.plan["key"], run.plan["sha256"])
        for records, found, same in compared(self._usable(), rows, listed, _decoded_as_now(run)):
            carried = found.filter(pc.is_in(found["record_id"], records["record_id"].combine_chunks().filter(same)))
            made.update(pc.fill_null(carried["carried_from"], run.id).to_pylist())
        if (snapshot or made.total()) and self._may_be_best(run, made.total()):
            self.best = _Candidate(run, snapshot, made.total())
        self._bound_ancestors(run, made)

    def _usable(self) -> Iterator[pa.Table]:
        """The records that can be carried."""
        for records in tables_of(self.records, RECORDS, columns=["record_id", "status", *COMPARED]):
            yield records.filter(pc.equal(records["status"], Status.OK.value))

    @cached_property
    def _usable_records(self) -> int:
        return sum(records.num_rows for records in self._usable())

    def _may_be_best(self, run: Run, most: int) -> bool:
        most = self.bounds[run.id] = min(most, self.bounds.get(run.id, most))
        return self.best is None or most > self.best.carries

    def _says_all(self, run: Run, snapshot: Snapshot) -> bool:
        """Whether nothing was committed since; of a run that another has gone on from, what was is made again."""
        final = sum(snapshot.counts.get(status, 0) for status in FINAL) == snapshot.planned
        return final or run.id in self.superseded or current_heads(self.store, run) == snapshot.heads

    def _supersede_parent_of(self, run: Run) -> None:
        if run.parent is not None:
            self.superseded.add(run.parent["run"])

    def _bound_ancestors(self, run: Run, made: Counter[str]) -> None:
        """What the runs before `run` may carry, given the runs that made the rows that it carries.

        An ancestor has of these only those that were there before, and beside them at most what was not carried on.
        """
        most = made.total()
        while run.parent is not None and (before := self.runs.get(run.parent["run"])) is not None:
            most += _usable(before) - run.plan.get("carried", 0) - made[run.id]
            self.bounds[before.id] = min(most, self.bounds.get(before.id, most))
            run = before


def _usable(run: Run) -> int:
    """Records that a run has or may have a row of for others to carry: all but those that its ingest set aside."""
    return int(run.plan["records"]) - int(run.plan.get("quarantined", 0))


def _decoded_as_now(run: Run) -> bool:
    return run.decoding == decoding_version(Geometry.of_transform(run.transform).decoding_rules)


def _publish_what_is_committed(store: Store, run: Run, signer: Signer | None) -> Snapshot:
    # A page without pictures: whoever plans shows none, needs no sources, and gets in the way of no erasure.
    page = page_of(store, run, None, ScratchStore(None), stopped=CUT_OFF)
    return publish(store, run, {}, page, partial=True, named=False, signer=signer)
