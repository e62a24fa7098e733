"""Delete images because somebody asks for it, and say so in the ledger first.

    reason ─> log of the shard that made the image ─> snapshot logs of all runs that show it ─> files ─> new snapshots

What is deleted: the image, its features, and the pages of all earlier snapshots, which may show it. What stays: its
row, with the source's name and digest, sizes and scores, so that it can still be answered what became of it.
Every step looks at what is there, so that an erasure that was cut off goes on when it is repeated.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from lsb.errors import LsbError, TamperedError, UsageError
from lsb.ledger import layout
from lsb.ledger.attestation import Signer
from lsb.ledger.carrying import read_manifest
from lsb.ledger.gates import Gates
from lsb.ledger.log.commit_log import Condemnation, Erasure, History, ShardLog, read_checked
from lsb.ledger.log.snapshots import SnapshotHistory, SnapshotLog, current_run
from lsb.ledger.manifest import collect
from lsb.ledger.publish import publish
from lsb.ledger.run import Run, open_log, open_named_run, open_run
from lsb.ledger.schemas import FEATURES, write_table
from lsb.ledger.selection import Selection
from lsb.pictures.optional import pictures_to_show
from lsb.records import Status, sha256
from lsb.redaction import visible
from lsb.store.scratch import ScratchStore
from lsb.store.store import Store
from lsb.views.page_contents import page_of

LONGEST_REASON = 200
_COLUMNS = ["record_id", "source_key", "source_sha256", "status", "output_key"]


@dataclass(frozen=True)
class Erased:
    """What an erasure did, or would do in a dry run."""

    records: dict[str, str]  # record id -> source key: whose images are erased now
    without_image: int  # records that were meant, too, but have no image
    files: tuple[str, ...]  # keys that were deleted
    runs: tuple[str, ...]  # runs that show these images: the one that made them, and those that carry them
    other_runs: tuple[str, ...]  # runs with other images of these records or pictures: they are not touched
    erased_before: dict[str, str] = field(default_factory=dict)  # as `records`: whose images were gone already
    snapshots: dict[str, int] = field(default_factory=dict)  # run -> the snapshot published in place of its last
    unread: dict[str, LsbError] = field(default_factory=dict)  # runs that could not be read: they may show the images


def erase(
    store: Store,
    run_id: str,
    selection: Selection,
    reason: str,
    *,
    dry_run: bool = False,
    signer: Signer | None = None,
) -> Erased:
    """Delete the images of some records, for the run that made them and for all that carry them.

    Args:
        selection: names or patterns: whose images.
        reason: one line; it is kept for ever and stands on the page, so it should name nobody.
        signer: signs the new snapshots.

    Raises:
        UsageError: no reason, nobody meant, no such record, or an image that belongs to other records as well.
        TamperedError: a log of the run, or of one that made an image, is not what was written.
    """
    if not reason.strip() or len(reason) > LONGEST_REASON or not reason.isprintable():
        raise UsageError(f"give a reason: one line of at most {LONGEST_REASON} characters, such as 'request 17'")
    run = open_run(store, run_id)
    if dry_run:
        store = ScratchStore(store)
    unread: dict[str, LsbError] = {}
    views = {run_id: _view(store, run)}
    for other in _runs_with_more_than_plans(store) - {run_id}:
        try:
            views[other] = _view(store, open_named_run(store, other))
        except LsbError as error:
            unread[other] = error
    selection = selection.settled(views[run_id], f"record of run {run_id}")
    if not selection.records:
        raise UsageError("say whose images are to be erased, by name (--records) or by pattern (--match)")
    meant = selection.matching(views[run_id])
    images = meant.filter(pc.is_valid(meant["output_key"]))
    outputs = pa.array(images["output_key"].unique(), pa.string())
    showing = {name: rows.filter(pc.is_in(rows["output_key"], outputs)) for name, rows in views.items()}
    _refuse_shared(showing, selection)
    showing = {name: _ever_shown(store, name, rows) for name, rows in showing.items() if rows.num_rows}
    showing = {name: rows for name, rows in showing.items() if rows.num_rows}

    makers: dict[tuple[str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for row in images.to_pylist():
        maker = layout.maker_of(row["output_key"])
        if maker is None:
            raise TamperedError(f"{row['output_key']} is no place for an output", key=row["output_key"])
        makers[maker][row["output_key"]].add(row["record_id"])
    condemnations = [
        condemnation
        for (maker, shard), keys in sorted(makers.items())
        for condemnation in _condemn_images(open_log(store, open_named_run(store, maker), shard), keys, reason)
    ]
    erasures = {name: _erasures_of(condemnations, showing[name]) for name in sorted(showing)}
    histories = {name: _condemn_pages(store, open_run(store, name), erasures[name], reason) for name in erasures}
    gone = set().union(*map(_erased_by, condemnations))
    files = sorted(key for key in gone.union(*(history.erased for history in histories.values())) if store.exists(key))
    for key in files:
        store.delete(key)
    snapshots = {} if dry_run else dict(_publish_again(store, histories, erasures, signer))
    still_there = pc.is_in(images["output_key"], pa.array(files, pa.string()))
    before = pc.and_not(pc.equal(images["status"], Status.ERASED.value), still_there)
    return Erased(
        records=_sources(images.filter(pc.invert(before))),
        erased_before=_sources(images.filter(before)),
        without_image=meant.num_rows - images.num_rows,
        files=tuple(files),
        runs=tuple(sorted(showing)),
        other_runs=tuple(sorted(_with_other_images(views, images, outputs))),
        snapshots=snapshots,
        unread=unread,
    )


def _view(store: Store, run: Run) -> pa.Table:
    return collect(store, run, gates=Gates(), columns=_COLUMNS).rows.select(_COLUMNS)


def _runs_with_more_than_plans(store: Store) -> set[str]:
    """Every run of which there is more than a plan; a plan alone shows nothing, and its run was never made."""
    places = (
        (run_id, layout.place_of(entry.key)) for entry in store.list("runs") if (run_id := layout.run_of(entry.key))
    )
    return {run_id for run_id, place in places if place is None or not place.plan}


def _sources(rows: pa.Table) -> dict[str, str]:
    return dict(zip(rows["record_id"].to_pylist(), rows["source_key"].to_pylist(), strict=True))


def _refuse_shared(showing: Mapping[str, pa.Table], selection: Selection) -> None:
    """One image may belong to several records: all of them must be meant."""
    for run_id, rows in showing.items():
        meant = selection.matching(rows)["record_id"]
        others = rows.filter(pc.invert(pc.is_in(rows["record_id"], meant.combine_chunks())))
        if others.num_rows:
            keys = ", ".join(map(visible, others["source_key"].to_pylist()[:5]))
            raise UsageError(
                f"an image belongs to {others.num_rows} more records of run {run_id} with the same bytes ({keys}); "
                "name these as well, or none"
            )


def _ever_shown(store: Store, run_id: str, rows: pa.Table) -> pa.Table:
    """Those of a run's rows whose images a page of it may show: not the ones that it carries as erased already."""
    parent = open_run(store, run_id).parent
    if parent is None:
        return rows
    carried = read_manifest(store, parent, columns=["output_key", "status"])
    erased = carried.filter(pc.equal(carried["status"], Status.ERASED.value))["output_key"]
    return rows.filter(pc.invert(pc.is_in(rows["output_key"], erased.combine_chunks())))


def _erased_by(entry: Condemnation) -> set[str]:
    return {f"{entry.folder}/{name}" for name in entry.erasure.erased} if entry.erasure else set()


def _erasures_of(condemnations: Iterable[Condemnation], rows: pa.Table) -> dict[str, str]:
    """The entries that erase the images of some rows, with their digests."""
    images = set(rows["output_key"].to_pylist())
    return {entry.link.key: entry.link.sha256 for entry in condemnations if images & _erased_by(entry)}


def _with_other_images(views: Mapping[str, pa.Table], images: pa.Table, outputs: pa.Array) -> Iterable[str]:
    for run_id, rows in views.items():
        same = pc.or_(
            *(
                pc.is_in(rows[name], images[name].drop_null().combine_chunks())
                for name in ("record_id", "source_sha256")
            )
        )
        made = rows.filter(pc.and_(same, pc.equal(rows["status"], Status.OK.value)))
        if pc.any(pc.invert(pc.is_in(made["output_key"], outputs))).as_py():
            yield run_id


def _condemn_images(log: ShardLog, images: Mapping[str, set[str]], reason: str) -> list[Condemnation]:
    """Write into the log of the shard that made them which images are erased; the entries that say so."""
    while True:
        history = log.history()
        named = {key for commit in history.commits for key in commit.digests()}
        if strangers := images.keys() - named:
            raise TamperedError(f"{min(strangers)} is named by no entry of its shard's log", key=min(strangers))
        fresh = images.keys() - history.erased.keys()
        if not fresh:
            return list({entry.link.key: entry for key in images if (entry := history.erased[key])}.values())
        erasure = _erasure(log, history, {key: images[key] for key in fresh})
        log.condemn(history.head, attempts=(), reason=reason, erasure=erasure)


def _erasure(log: ShardLog, history: History, images: Mapping[str, set[str]]) -> Erasure:
    """What is to be erased, after the features of all other records have been copied."""
    records = sorted(set().union(*images.values()))
    folder = layout.shard_folder(log.run_id, log.shard) + "/"
    attempt = layout.new_attempt()
    erased = [key.removeprefix(folder) for key in images]
    files: dict[str, str] = {}
    replaced: dict[str, str] = {}
    for commit in history.commits:
        features = log.features(commit)
        kept = features.filter(pc.invert(pc.is_in(features["record_id"], pa.array(records))))
        if commit.features is None or kept.num_rows == features.num_rows:
            continue
        erased.append(commit.features)
        if kept.num_rows:
            key = layout.features_file(log.run_id, log.shard, attempt, len(files))
            data = write_table(kept, FEATURES)
            log.store.write(key, data)
            name = key.removeprefix(folder)
            files[name], replaced[commit.features] = sha256(data), name
    return Erasure(tuple(records), tuple(sorted(erased)), attempt, files, replaced)


def _condemn_pages(store: Store, run: Run, erasures: Mapping[str, str], reason: str) -> SnapshotHistory:
    """Write into a run's snapshot log that its pages are erased. Who is publishing loses its number and looks again."""
    log = SnapshotLog(store, run.id, run.sha256)
    while True:
        history = log.history()
        if erasures.items() <= history.erasures.items():
            return history
        top = layout.snapshots_folder(run.id) + "/"
        pages = {snapshot.report_key for snapshot in history.snapshots} - history.erased
        log.condemn(history.head, reason=reason, erased=[page.removeprefix(top) for page in pages], erasures=erasures)


def _publish_again(
    store: Store,
    histories: Mapping[str, SnapshotHistory],
    erasures: Mapping[str, Mapping[str, str]],
    signer: Signer | None,
) -> Iterable[tuple[str, int]]:
    for run_id, history in histories.items():
        last = history.snapshots[-1] if history.snapshots else None
        if last is None or erasures[run_id].items() <= last.erasures.items():
            continue
        run = open_run(store, run_id)
        metrics = json.loads(read_checked(store, last.metrics_key, last.digests()[last.metrics_key]))
        truth = pictures_to_show(run.truth) if run.truth else None
        page = page_of(store, run, metrics, pictures_to_show(run.source), truth)
        snapshot = publish(
            store,
            run,
            metrics,
            page,
            partial=True,
            gates=Gates.of(metrics, last.gates),
            signer=signer,
            named=current_run(store, run.job) == run_id,
        )
        yield run_id, snapshot.number
