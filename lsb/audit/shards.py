"""The shards' logs, row files and outputs.

Every row file is read once. Its rows serve all later checks, and wait for them in a file: there may be millions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lsb.audit.erasures import inspect_erased
from lsb.audit.rows import row_problems
from lsb.audit.sample import sampled
from lsb.audit.verdict import TAMPERED, UNVERIFIABLE, Inspection
from lsb.errors import DecodingError, ImageError, LsbError
from lsb.ledger import layout
from lsb.ledger.log.commit_log import Commit, Condemnation, History, LogEntry, ShardLog, fold
from lsb.ledger.pieces import Boxes
from lsb.ledger.run import Run, read_logs
from lsb.ledger.schemas import MANIFEST
from lsb.pictures.decoder import DECODERS, shared_decoder
from lsb.pictures.images import pixels_sha256
from lsb.store.read_ahead import read_ahead

FORGOTTEN = 10_000  # outputs that the sample does not need are forgotten so many at a time


@dataclass
class Shards:
    """What the shards hold, as far as it could be read.

    Attributes:
        rows: those of the shards' commits, a box for each shard.
        sample: how many outputs will be read, chosen by `seed`; None for all.
        commits: by shard its entries, without the files that they name, and how many rows each has.
        outputs: by key the digests of file and pixels; of a sample those alone that may be in it, or are missing.
    """

    rows: Boxes
    sample: int | None = None
    seed: str = ""
    commits: dict[str, list[tuple[LogEntry, int]]] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)  # digests of entries whose rows, or those before, are not all there
    outputs: dict[str, tuple[str, str]] = field(default_factory=dict)
    features: dict[str, str] = field(default_factory=dict)  # key -> digest
    others: dict[str, str] = field(default_factory=dict)  # of files that are none of these
    carried: pa.Table | None = None  # rows that other runs' shards hold; None if they cannot be read
    erased: dict[str, Condemnation] = field(default_factory=dict)  # every file that was erased, and by which entry
    erased_elsewhere: dict[str, Condemnation] = field(default_factory=dict)  # in the shards that made what is carried

    def forget(self, there: Collection[str]) -> None:
        """Forget outputs that are there and not in the sample; not before there are FORGOTTEN of them."""
        if self.sample is None or len(self.outputs) < self.sample + FORGOTTEN:
            return
        chosen = {*sampled((key for key in self.outputs if key in there), self.sample, self.seed)}
        self.outputs = {key: of for key, of in self.outputs.items() if key in chosen or key not in there}

    def committed(self, shard: str, count: int) -> list[Commit]:
        """The first `count` commits of a shard, with their rows."""
        commits = self.commits[shard][:count]
        rows, start = self.rows.box(int(shard)), 0
        made = []
        for entry, length in commits:
            made.append((entry, rows.slice(start, length)))
            start += length
        return made


def inspect_shards(
    seen: Inspection, run: Run, plan: pa.Table | None, sample: int | None = None, seed: str = ""
) -> Shards:
    """Check every shard's log against `run` and `plan`, and every file that its entries name but the outputs.

    Args:
        sample: how many outputs `inspect_outputs` is to read, chosen by `seed`; None for all.
    """
    shards = Shards(Boxes(run.plan["shards"], MANIFEST.empty()), sample, seed)
    planned = _by_shard(plan) if plan is not None else None
    for shard, found in read_logs(seen.store, run, _read):
        part = planned.get(shard, plan.slice(0, 0)) if planned is not None and plan is not None else None
        with seen.guard(layout.shard_log(run.id, shard)):
            _inspect_shard(seen, run, shard, found, part, shards)
        shards.forget(seen.present)
    for kind, digests in (("feature files", shards.features), ("other files", shards.others)):
        for _ in seen.named_files(digests, kind):
            pass
    return shards


def inspect_outputs(seen: Inspection, shards: Shards) -> None:
    """Check that every output is there, and bytes and pixels of those that `sampled` chooses."""
    # A sample still finds every output that is gone: that takes no more than the listing.
    unlisted = shards.outputs.keys() - seen.present - seen.present_elsewhere
    missing = {key for key in unlisted if not seen.store.exists(key)}
    for key in sorted(missing):
        seen.find(TAMPERED, key, f"{key} is missing")
    chosen = {
        key: shards.outputs[key][0] for key in sampled(shards.outputs.keys() - missing, shards.sample, shards.seed)
    }
    with read_ahead(seen.named_files(chosen, "outputs"), _pixels, requests=DECODERS) as answers:
        for (key, data), pixels in answers:
            if data is None:
                continue
            try:
                same = pixels() == shards.outputs[key][1]
            except ImageError:
                same = False
            except DecodingError as error:
                seen.find(UNVERIFIABLE, key, f"{key}: its pixels cannot be checked: {error.message}")
                continue
            if not same:
                seen.find(TAMPERED, key, f"{key} does not hold the pixels that its row names")


def _pixels(file: tuple[str, bytes | None]) -> str | None:
    _, data = file
    return None if data is None else pixels_sha256(shared_decoder().decode(data)[0])


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


@dataclass(frozen=True)
class _Read:
    """A shard's log, what is wrong with it, and by key of its row files what gives the rows or raises why not."""

    history: History
    problems: list[LsbError]
    rows: dict[str, Callable[[], pa.Table]]


def _read(log: ShardLog) -> _Read:
    history, problems = log.scan()
    return _Read(history, problems, {entry.rows_key: _tried(partial(log.table, entry)) for entry in history.commits})


def _tried(read: Callable[[], pa.Table]) -> Callable[[], pa.Table]:
    """What gives the answer, or raises the error, that there is now."""
    answer: Future[pa.Table] = Future()
    try:
        answer.set_result(read())
    except Exception as error:  # noqa: BLE001 raised where it is asked for
        answer.set_exception(error)
    return answer.result


def _inspect_shard(
    seen: Inspection, run: Run, shard: str, found: _Read, planned: pa.Table | None, shards: Shards
) -> None:
    place = layout.shard_log(run.id, shard)
    history, problems = found.history, found.problems
    for problem in problems:
        seen.blame(problem, place)
    if problems:
        seen.blind.append(layout.shard_folder(run.id, shard) + "/")
    whole = not problems
    commits: list[Commit] = []
    for condemnation in history.condemnations:
        seen.name([condemnation.link.key])
        seen.checked["log entries"] += 1
    shards.erased |= history.erased
    inspect_erased(seen, history.erased)
    for entry in history.commits:
        seen.name([entry.link.key])
        seen.checked["log entries"] += 1
        rows = _inspect_commit(seen, run, found, entry, planned, shards)
        whole = whole and rows is not None
        if rows is not None:
            commits.append((entry, rows))
        if not whole:
            shards.unread.add(entry.link.sha256)
    with seen.guard(place):
        fold([(entry, rows.select(["record_id", "status"])) for entry, rows in commits])
    for _, rows in commits:
        shards.rows.put(rows, np.full(rows.num_rows, int(shard)))
    shards.commits[shard] = [(_slim(entry), rows.num_rows) for entry, rows in commits]


def _slim(entry: LogEntry) -> LogEntry:
    """The entry without what it says of each file."""
    return replace(entry, files={}, erased=frozenset(), link=replace(entry.link, document={}))


def _inspect_commit(
    seen: Inspection, run: Run, found: _Read, entry: LogEntry, planned: pa.Table | None, shards: Shards
) -> pa.Table | None:
    digests = entry.digests()
    seen.name(digests)
    rows = None
    with seen.guard(entry.rows_key):
        rows = found.rows[entry.rows_key]()
        seen.checked["row files"] += 1
        seen.checked["rows"] += rows.num_rows
        for problem in row_problems(run, entry, rows, planned):
            seen.find(TAMPERED, entry.rows_key, f"{entry.rows_key}: {problem}")
        pixels = dict(zip(rows["output_key"].to_pylist(), rows["pixels_sha256"].to_pylist(), strict=True))
        shards.outputs |= {
            key: (digest, pixels[key]) for key, digest in digests.items() if key in pixels and key not in shards.erased
        }
    features = f"{entry.folder}/{entry.features}" if entry.features else None
    if features:
        shards.features[features] = digests[features]
    other = digests.keys() - shards.outputs.keys() - shards.erased.keys()
    shards.others |= {key: digests[key] for key in other - {entry.rows_key, features}}
    return rows
