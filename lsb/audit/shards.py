"""The shards' logs, row files and outputs. Every row file is read once; its rows serve all later checks."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from lsb.audit.erasures import inspect_erased
from lsb.audit.rows import row_problems
from lsb.audit.sample import sampled
from lsb.audit.verdict import TAMPERED, UNVERIFIABLE, Inspection
from lsb.errors import DecodingError, ImageError
from lsb.ledger import layout
from lsb.ledger.log.commit_log import Commit, Condemnation, LogEntry, ShardLog, fold
from lsb.ledger.run import Run, open_log
from lsb.pictures.decoder import shared_decoder
from lsb.pictures.images import pixels_sha256


@dataclass
class Shards:
    """What the shards hold, as far as it could be read."""

    commits: dict[str, list[Commit]] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)  # digests of entries whose rows, or those before, are not all there
    outputs: dict[str, tuple[str, str]] = field(default_factory=dict)  # key -> digests of file and pixels
    carried: pa.Table | None = None  # rows that other runs' shards hold; None if they cannot be read
    erased: dict[str, Condemnation] = field(default_factory=dict)  # every file that was erased, and by which entry
    erased_elsewhere: dict[str, Condemnation] = field(default_factory=dict)  # in the shards that made what is carried


def inspect_shards(seen: Inspection, run: Run, plan: pa.Table | None) -> Shards:
    """Check every shard's log against `run` and `plan`, and every file that its entries name but the outputs."""
    shards = Shards()
    planned = _by_shard(plan) if plan is not None else None
    for shard in run.shards():
        part = planned.get(shard, plan.slice(0, 0)) if planned is not None and plan is not None else None
        with seen.guard(layout.shard_log(run.id, shard)):
            _inspect_shard(seen, run, shard, part, shards)
    return shards


def inspect_outputs(seen: Inspection, shards: Shards, sample: int | None, seed: str = "") -> None:
    """Check that every output is there, and bytes and pixels of those that `sampled` chooses."""
    # A sample still finds every output that is gone: that takes no more than the listing.
    unlisted = shards.outputs.keys() - seen.present - seen.present_elsewhere
    missing = {key for key in unlisted if not seen.store.exists(key)}
    for key in sorted(missing):
        seen.find(TAMPERED, key, f"{key} is missing")
    for key in sampled(shards.outputs.keys() - missing, sample, seed):
        digest, pixels = shards.outputs[key]
        data = seen.named_file(key, digest, "outputs")
        if data is None:
            continue
        try:
            same = pixels_sha256(shared_decoder().decode(data)[0]) == pixels
        except ImageError:
            same = False
        except DecodingError as error:
            seen.find(UNVERIFIABLE, key, f"{key}: its pixels cannot be checked: {error.message}")
            continue
        if not same:
            seen.find(TAMPERED, key, f"{key} does not hold the pixels that its row names")


def _by_shard(plan: pa.Table) -> dict[str, pa.Table]:
    """The plan's part for each shard."""
    ordered = plan.select(["record_id", "key", "sha256", "shard"]).sort_by("shard")
    runs = pc.run_end_encode(ordered["shard"].combine_chunks())
    ends = runs.run_ends.to_pylist()
    starts = [0, *ends[:-1]]
    return {
        shard: ordered.slice(start, end - start)
        for shard, start, end in zip(runs.values.to_pylist(), starts, ends, strict=True)
    }


def _inspect_shard(seen: Inspection, run: Run, shard: str, planned: pa.Table | None, shards: Shards) -> None:
    log = open_log(seen.store, run, shard)
    place = layout.shard_log(run.id, shard)
    history, problems = log.scan()
    for problem in problems:
        seen.blame(problem, place)
    if problems:
        seen.blind.append(layout.shard_folder(run.id, shard) + "/")
    whole = not problems
    commits: list[Commit] = []
    for condemnation in history.condemnations:
        seen.named.add(condemnation.link.key)
        seen.checked["log entries"] += 1
    shards.erased |= history.erased
    inspect_erased(seen, history.erased)
    for entry in history.commits:
        seen.named.add(entry.link.key)
        seen.checked["log entries"] += 1
        rows = _inspect_commit(seen, run, log, entry, planned, shards)
        whole = whole and rows is not None
        if rows is not None:
            commits.append((entry, rows))
        if not whole:
            shards.unread.add(entry.link.sha256)
    with seen.guard(place):
        fold([(entry, rows.select(["record_id", "status"])) for entry, rows in commits])
    shards.commits[shard] = commits


def _inspect_commit(
    seen: Inspection, run: Run, log: ShardLog, entry: LogEntry, planned: pa.Table | None, shards: Shards
) -> pa.Table | None:
    digests = entry.digests()
    seen.named |= digests.keys()
    rows = None
    with seen.guard(entry.rows_key):
        rows = log.table(entry)
        seen.checked["row files"] += 1
        seen.checked["rows"] += rows.num_rows
        for problem in row_problems(run, entry, rows, planned):
            seen.find(TAMPERED, entry.rows_key, f"{entry.rows_key}: {problem}")
        pixels = zip(rows["output_key"].to_pylist(), rows["pixels_sha256"].to_pylist(), strict=True)
        shards.outputs |= {
            key: (digests[key], digest) for key, digest in pixels if key in digests.keys() - shards.erased.keys()
        }
    features = f"{entry.folder}/{entry.features}" if entry.features else None
    if features:
        seen.named_file(features, digests[features], "feature files")
    other = digests.keys() - shards.outputs.keys() - shards.erased.keys()
    for key in other - {entry.rows_key, features}:
        seen.named_file(key, digests[key], "other files")
    return rows
