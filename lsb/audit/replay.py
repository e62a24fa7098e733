"""Translate some records again and compare the pixels with those that were published.

Where device model (of a processor its family, too), instruction set, threads, package versions, dtype, batch shape and
shortcuts are those that a row records, the pixels must be the same to the bit. Elsewhere they must lie within
`TOLERANCES`, and the report says which fields differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, TypedDict, get_args

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from lsb.audit.sample import sampled
from lsb.audit.verdict import REPLAY_DIFFERS, TAMPERED, UNVERIFIABLE, Finding, Replayed
from lsb.errors import DecodingError, ImageError, LsbError, StoreError, TamperedError
from lsb.ledger.gates import Gates
from lsb.ledger.log.commit_log import read_checked
from lsb.ledger.manifest import collect
from lsb.ledger.run import Run
from lsb.ledger.schemas import ManifestRow
from lsb.pictures.decoder import shared_decoder
from lsb.pictures.encoding import OutputSettings
from lsb.pictures.geometry import Frame, Geometry, Size
from lsb.pictures.images import pixels_sha256
from lsb.pictures.output import Kept, composed, kept_of, written
from lsb.pictures.sources import Source
from lsb.records import Status, sha256
from lsb.store.store import Store
from lsb.translation.model import Translates

Condition = Literal[
    "device", "dtype", "batch", "joint", "channels_last", "instruction_set", "threads", "packages_sha256"
]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
_COLUMNS = ["record_id", "source_key", "source_sha256", "output_key", "output_sha256", "pixels_sha256", *CONDITIONS]


class PublishedOutput(TypedDict):
    """Of an output's row what a replay needs."""

    record_id: str
    source_key: str
    source_sha256: str
    output_key: str
    output_sha256: str
    pixels_sha256: str
    device: str
    dtype: str
    batch: int
    joint: bool | None
    channels_last: bool | None
    instruction_set: str
    threads: int | None
    packages_sha256: str


@dataclass(frozen=True)
class Tolerance:
    """How far two pictures of the same record may be apart, in levels of 8 bits."""

    largest: int  # of any value
    mean: float  # over all values


# Wide of what was measured, with the embedded model on one processor (docs/benchmarks/replay.md): at most 1 level and
# 0.0002 on average in float32 with other instruction sets and batches, 3 and 0.15 in bfloat16 with other batches. The
# rest is room for models, processors and GPUs that were not measured; so was no float16.
TOLERANCES = {
    "float32": Tolerance(largest=8, mean=0.1),
    "bfloat16": Tolerance(largest=128, mean=4.0),
    "float16": Tolerance(largest=64, mean=1.0),
}


@dataclass(frozen=True)
class Bench:
    """A translator for a row's conditions, its pictures' frames, and the conditions that it really works under."""

    translator: Translates
    frame: Callable[[Size], Frame]
    conditions: ManifestRow


def replay(
    store: Store,
    run: Run,
    sources: Source,
    bench: Callable[[PublishedOutput], Bench],
    count: int,
    seed: str = "",
) -> list[Replayed]:
    """Translate `count` of the run's outputs again.

    Args:
        bench: what translates under the conditions of a row, as nearly as this machine can; called once for each
            different set of them.
        count: all outputs if there are fewer; always the same ones for the same seed.

    Raises:
        TamperedError: a log or a row file is not what was written.
    """
    rows = _rows(store, run)
    chosen = [rows[key] for key in sampled(rows, count, seed)]
    chosen.sort(key=lambda row: [str(row[name]) for name in CONDITIONS])
    results: list[Replayed] = []
    for _, group in groupby(chosen, key=lambda row: [row[name] for name in CONDITIONS]):
        alike = list(group)
        results += _replay_alike(store, run, sources, bench(alike[0]), alike)
    return sorted(results, key=lambda result: result.record_id)


def _rows(store: Store, run: Run) -> dict[str, PublishedOutput]:
    """One row for each output that this transform made, by output key."""
    rows = collect(store, run, gates=Gates(), columns=[*_COLUMNS, "transform_id"]).rows
    made = pc.and_(pc.equal(rows["status"], Status.OK.value), pc.equal(rows["transform_id"], run.transform_id))
    return {row["output_key"]: row for row in reversed(rows.filter(made).select(_COLUMNS).to_pylist())}


def _replay_alike(
    store: Store, run: Run, sources: Source, bench: Bench, rows: Sequence[PublishedOutput]
) -> Iterator[Replayed]:
    """Replay rows that were made under the same conditions."""
    differing = tuple(name for name in CONDITIONS if bench.conditions.get(name) != rows[0][name])
    settings, rules = OutputSettings.of_transform(run.transform), Geometry.of_transform(run.transform).decoding_rules
    decoder = shared_decoder()
    images: list[tuple[PublishedOutput, Frame, Kept, Image.Image]] = []  # as the network is given them
    for row in rows:
        try:
            data = _source(sources, row)
            source, info = decoder.decode(data, rules)
            frame = bench.frame(source.size)
            images.append((row, frame, kept_of(data, info, settings, decoder, rules), frame.prepare(source)))
        except LsbError as error:
            message = f"{row['source_key']} cannot be replayed: {error.message}"
            yield _result(row, differing, finding=Finding(UNVERIFIABLE, row["output_key"], message))
    for working, tiles in dict.fromkeys((frame.working, frame.tiles) for _, frame, _, _ in images):
        group = [one for one in images if (one[1].working, one[1].tiles) == (working, tiles)]
        digests = [row["source_sha256"] for row, _, _, _ in group]
        options: dict[str, Any] = {} if tiles is None else {"tiles": tiles}
        made = bench.translator.translate([image for _, _, _, image in group], digests, **options)
        for (row, frame, kept, _), picture in zip(group, made, strict=True):
            try:
                _, pixels = written(composed(picture, frame, kept, decoder), kept)
            except LsbError as error:
                message = f"{row['source_key']} cannot be replayed: {error.message}"
                yield _result(row, differing, finding=Finding(UNVERIFIABLE, row["output_key"], message))
                continue
            yield _compare(store, row, pixels, differing)


def _source(sources: Source, row: PublishedOutput) -> bytes:
    try:
        data = sources.read(row["source_key"])
    except StoreError as error:
        raise StoreError(f"the source cannot be read ({error.message})") from error
    if sha256(data) != row["source_sha256"]:
        raise StoreError("the source's bytes are not the ones that were translated")
    return data


def _compare(store: Store, row: PublishedOutput, made: Image.Image, differing: tuple[str, ...]) -> Replayed:
    if pixels_sha256(made) == row["pixels_sha256"]:
        return _result(row, differing, same=True, largest=0, mean=0.0)
    key = row["output_key"]
    try:
        published = shared_decoder().decode(read_checked(store, key, row["output_sha256"]))[0]
    except (TamperedError, ImageError) as error:
        return _result(row, differing, finding=Finding(TAMPERED, key, error.message))
    except DecodingError as error:
        message = f"{key}: it cannot be compared: {error.message}"
        return _result(row, differing, finding=Finding(UNVERIFIABLE, key, message))
    if published.size != made.size:
        message = f"{key}: replayed, it has {made.size} pixels instead of {published.size}"
        return _result(row, differing, finding=Finding(REPLAY_DIFFERS, key, message))
    apart = np.abs(np.asarray(made, np.int16) - np.asarray(published, np.int16))
    largest, mean = int(apart.max()), float(apart.mean())
    finding = None
    if not differing:
        message = f"{key}: replayed under the same conditions, its pixels differ by up to {largest} levels"
        finding = Finding(REPLAY_DIFFERS, key, message)
    elif not _within(TOLERANCES[row["dtype"]], largest, mean):
        allowed = TOLERANCES[row["dtype"]]
        message = (
            f"{key}: replayed where {', '.join(differing)} may differ, its pixels differ by up to {largest} levels, "
            f"{mean:.3g} on average; allowed are {allowed.largest} and {allowed.mean}"
        )
        finding = Finding(REPLAY_DIFFERS, key, message)
    return _result(row, differing, largest=largest, mean=mean, finding=finding)


def _within(allowed: Tolerance, largest: int, mean: float) -> bool:
    return largest <= allowed.largest and mean <= allowed.mean


def _result(row: PublishedOutput, differing: tuple[str, ...], *, same: bool = False, **figures: Any) -> Replayed:
    return Replayed(
        record_id=row["record_id"],
        source_key=row["source_key"],
        output_key=row["output_key"],
        basis="tolerance" if differing else "bit",
        differing=differing,
        same=same,
        **figures,
    )
