"""How one image came about: from its file, its key, its record or its source back to everything that made it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from lsb.errors import DecodingError, ImageError, NotFoundError, TamperedError, UsageError
from lsb.ledger.carrying import manifest_pieces, reference
from lsb.ledger.gates import Gates
from lsb.ledger.log.commit_log import LogEntry, read_checked
from lsb.ledger.log.snapshots import SnapshotLog
from lsb.ledger.manifest import collect
from lsb.ledger.pieces import Pieces
from lsb.ledger.run import ModelReference, Run, open_log, open_named_run, open_run
from lsb.ledger.schemas import MANIFEST, ManifestRow
from lsb.pictures.decoder import shared_decoder
from lsb.pictures.images import pixels_sha256
from lsb.records import key_of, sha256
from lsb.store.store import Store
from lsb.views.problems import detail_alone

_OUTPUT = re.compile(r"(?P<root>.*/)?(?P<key>runs/(?P<run>[^/]+)/shards/[^/]+/[^/]+/[^/]+)")


class SourceFile(TypedDict):
    """The file that was translated, as it was read."""

    key: str
    sha256: str | None
    bytes: int | None
    format: str | None
    mode: str | None
    width: int | None
    height: int | None
    orientation: int | None
    frames: int | None
    transparent: bool | None
    metadata: list[str] | None
    place: str  # the source that it lay in


class UsedPrompt(TypedDict):
    """A prompt. `text` is None where the document beside it is gone."""

    key: str
    id: str
    text: str | None


class Making(TypedDict):
    """Who made it, and when; by a carried row the run that did."""

    shard: str | None
    attempt: str | None
    tries: int
    working_width: int | None  # of what the network was given
    working_height: int | None
    tiles: int | None  # in which it was translated; None if as a whole
    started: datetime | None
    finished: datetime | None
    carried_from: str | None


class Execution(TypedDict):
    """The conditions that it was made under, see `lsb.translation.execution`."""

    device: str | None
    dtype: str | None
    batch: int | None
    batch_padding: int | None
    instruction_set: str | None
    threads: int | None
    code_version: str | None
    code_commit: str | None
    packages_sha256: str | None


class Output(TypedDict):
    """What came of it. `file` says whether it is still there: `intact`, `differs` or `missing`."""

    key: str
    sha256: str
    bytes: int | None
    format: str | None
    width: int | None
    height: int | None
    scale: float | None
    limited: bool | None
    metadata: list[str] | None
    pixels_sha256: str | None
    file: str


class NamedEntry(TypedDict):
    """The entry of a shard's log that made the row visible."""

    key: str
    sha256: str
    time: str


class NamedSnapshot(TypedDict):
    """A snapshot by its number and the digest of its entry."""

    number: int
    sha256: str
    time: str


@dataclass(frozen=True)
class Trace:
    """Everything that is known of one record. `found_by` says what of it the question named."""

    found_by: str
    run: str
    record_id: str
    status: str
    error: str | None
    source: SourceFile
    model: ModelReference
    prompts: dict[str, UsedPrompt]  # of "source" and "target", and "negative" where there is one
    settings: dict[str, object]  # transform id, method, preprocessing, encoder, seed
    made: Making
    execution: Execution
    output: Output | None
    committed_by: NamedEntry | None  # None for what ingest set aside
    snapshots: list[NamedSnapshot]  # that hold this row


def run_of_output(place: str) -> str:
    """The URI of the run whose output lies at a URI or path; UsageError if it does not look like an output."""
    match = _OUTPUT.fullmatch(place)
    if match is None:
        raise UsageError(f"{place} does not say which run it is of; give the run with --run")
    return f"{match['root'] or ''}runs/{match['run']}"


def trace(store: Store, run_id: str, what: str) -> list[Trace]:
    """Every record of a run that `what` names: more than one where sources with equal bytes share an output.

    Args:
        what: a URI, path or key of an output, a record id, the key of a source, or a file on this machine: an image
            that the run made, or a source that it read.

    Raises:
        UsageError: the run has no such output, record or source.
        TamperedError: a log or a row file on the way is not what was written.
    """
    run = open_run(store, run_id)
    found_by, found = _find(collect(store, run, gates=Gates()).pieces, what)
    snapshots = list(_snapshots(store, run, found["record_id"]))
    return [_trace(store, run, row, found_by, snapshots) for row in found.to_pylist()]


def _find(pieces: Pieces, what: str) -> tuple[str, pa.Table]:
    output = _OUTPUT.fullmatch(what)
    names = {"output_key": output["key"] if output else what, "record_id": what, "source_key": what}
    if found := _first(pieces, {column: key_of(value) for column, value in names.items()}):
        return found
    path = Path(what)
    if not path.is_file():
        raise UsageError(f"{what} is no output, record id or source key of this run, and no file; check it and --run")
    data = path.read_bytes()
    if found := _first(pieces, dict.fromkeys(("output_sha256", "source_sha256"), sha256(data))):
        return found
    try:
        pixels = pixels_sha256(shared_decoder().decode(data)[0])
    except (ImageError, DecodingError) as error:
        raise UsageError(f"{what} is no image that can be read ({error.code}) and nothing of this run") from error
    if found := _first(pieces, {"pixels_sha256": pixels}):
        return found
    raise UsageError(f"{what} is not of this run: no output has its bytes or its pixels, no source its bytes")


def _first(pieces: Pieces, values: Mapping[str, str]) -> tuple[str, pa.Table] | None:
    """The first column in which some rows have the value that is looked for, and these rows."""
    found: dict[str, list[pa.Table]] = {column: [] for column in values}
    for rows in pieces:
        for column, value in values.items():
            found[column].append(rows.filter(pc.equal(rows[column], value)))
    tables = ((column, pa.concat_tables([MANIFEST.empty(), *parts])) for column, parts in found.items())
    return next(((column, table) for column, table in tables if table.num_rows), None)


def _snapshots(store: Store, run: Run, records: pa.ChunkedArray) -> Iterator[tuple[NamedSnapshot, pa.Table]]:
    """Each snapshot with the rows that it has of `records`."""
    history = SnapshotLog(store, run.id, run.sha256).history()
    times = {link.number: link.document["time"] for link in history.links}
    for snapshot in history.snapshots:
        wanted, columns = records.combine_chunks(), ["record_id", "attempt", "tries", "status"]
        pieces = manifest_pieces(store, reference(snapshot), columns=columns)
        none = MANIFEST.empty().select(columns)
        held = pa.concat_tables([none, *(rows.filter(pc.is_in(rows["record_id"], wanted)) for rows in pieces)])
        yield {"number": snapshot.number, "sha256": snapshot.sha256, "time": times[snapshot.number]}, held


def _trace(
    store: Store,
    run: Run,
    row: ManifestRow,
    found_by: str,
    snapshots: Sequence[tuple[NamedSnapshot, pa.Table]],
) -> Trace:
    maker = open_named_run(store, row["carried_from"]) if row["carried_from"] else run
    same = {"record_id": row["record_id"], "attempt": row["attempt"], "tries": row["tries"], "status": row["status"]}
    code = row["error_code"]
    error = f"{code}: {detail_alone(code, row['error_detail'])}" if code else None
    transform = run.transform
    return Trace(
        found_by=found_by,
        run=run.id,
        record_id=row["record_id"],
        status=row["status"],
        error=error,
        source={
            "key": row["source_key"],
            "sha256": row["source_sha256"],
            "bytes": row["source_bytes"],
            "format": row["source_format"],
            "mode": row["source_mode"],
            "width": row["source_width"],
            "height": row["source_height"],
            "orientation": row["source_orientation"],
            "frames": row["source_frames"],
            "transparent": row["source_transparent"],
            "metadata": row["source_metadata"],
            "place": run.source,
        },
        model={"id": row["model_id"], "revision": row["model_revision"], "digest": row["model_digest"]},
        prompts={side: used_prompt(store, run.prompts[side]) for side in sorted(run.prompts)},
        settings={
            "transform_id": row["transform_id"],
            **{name: value for name, value in transform.items() if name not in ("model", "prompts", "dtype")},
        },
        made={
            "shard": row["shard"],
            "attempt": row["attempt"],
            "tries": row["tries"],
            "working_width": row["working_width"],
            "working_height": row["working_height"],
            "tiles": row["tiles"],
            "started": row["started"],
            "finished": row["finished"],
            "carried_from": row["carried_from"],
        },
        execution={
            "device": row["device"],
            "dtype": row["dtype"],
            "batch": row["batch"],
            "batch_padding": row["batch_padding"],
            "instruction_set": row["instruction_set"],
            "threads": row["threads"],
            "code_version": row["code_version"],
            "code_commit": row["code_commit"],
            "packages_sha256": row["packages_sha256"],
        },
        output=_output(store, row),
        committed_by=_named(_committed_by(store, maker, row)),
        snapshots=[snapshot for snapshot, held in snapshots if same in held.to_pylist()],
    )


def _committed_by(store: Store, run: Run, row: ManifestRow) -> LogEntry | None:
    """The log entry that made the row visible; None for what ingest set aside, which no shard ever saw."""
    if row["shard"] is None:
        return None
    log = open_log(store, run, row["shard"])
    for entry in reversed(log.entries()):
        if entry.attempt == row["attempt"]:
            records = log.table(entry, columns=["record_id"])["record_id"]
            if pc.index(records, row["record_id"]).as_py() >= 0:
                return entry
    return None


def _named(entry: LogEntry | None) -> NamedEntry | None:
    if entry is None:
        return None
    return {"key": entry.link.key, "sha256": entry.link.sha256, "time": entry.link.document["time"]}


def used_prompt(store: Store, key: str) -> UsedPrompt:
    """Where a prompt lies, and its words from the document beside it."""
    folder, _, name = key.rpartition("/")
    identity = name.split(".", 1)[0]
    try:
        text = json.loads(store.read(f"{folder}/{identity}.json")).get("text")
    except (NotFoundError, ValueError):
        text = None
    return {"key": key, "id": identity, "text": text}


def _output(store: Store, row: ManifestRow) -> Output | None:
    key, digest = row["output_key"], row["output_sha256"]
    if key is None or digest is None:
        return None
    file = "intact"
    try:
        read_checked(store, key, digest)
    except TamperedError as error:
        file = "missing" if isinstance(error.__cause__, NotFoundError) else "differs"
    return {
        "key": key,
        "sha256": digest,
        "bytes": row["output_bytes"],
        "format": row["output_format"],
        "width": row["output_width"],
        "height": row["output_height"],
        "scale": row["output_scale"],
        "limited": row["output_limited"],
        "metadata": row["output_metadata"],
        "pixels_sha256": row["pixels_sha256"],
        "file": file,
    }
