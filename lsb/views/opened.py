"""A run to look at in Python: its records, measures and shards as pandas frames, its pictures as Pillow's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from lsb.errors import ResourceError
from lsb.ledger.gates import Gates
from lsb.ledger.layout import parse_run_uri
from lsb.ledger.log.commit_log import ShardLog, read_checked
from lsb.ledger.manifest import Collected, collect
from lsb.ledger.plan import read_plan
from lsb.ledger.publish import Snapshot, latest_snapshot
from lsb.ledger.run import Run, read_logs
from lsb.ledger.run import open_run as open_in
from lsb.metrics.table import COLUMNS
from lsb.pictures.decoder import DECODERS
from lsb.pictures.geometry import Geometry
from lsb.pictures.optional import find_picture, pictures_to_show
from lsb.pictures.sources import Source, open_sources
from lsb.records import Status
from lsb.store.read_ahead import read_ahead
from lsb.store.store import Store, open_store
from lsb.views.costs import COSTS, Costs
from lsb.views.trace import used_prompt

if TYPE_CHECKING:  # pandas is an extra, and is imported when a frame is asked for
    import pandas
    from PIL import Image

PENDING = "pending"
_MEASURES = {column.key: place for place, column in enumerate(COLUMNS)}  # in the order of the page


class Pair(NamedTuple):
    """A picture and what was made of it, both RGB; None where it cannot be read, or is no longer what its row says."""

    record_id: str
    key: str  # of the source, below its folder
    source: Image.Image | None
    output: Image.Image | None


def open_run(uri: str | PathLike[str]) -> OpenedRun:
    """A run of a store, to look at. Nothing is written: the right to list and to read is enough.

    Args:
        uri: `<root>/runs/<run>`, a path or `s3://`, as the commands print it. Runs of earlier versions are read, too.

    Raises:
        UsageError: it is no run's, or there is no such run.
        StoreError: the store cannot be used.
        TamperedError: `run.json` is not what was written.
    """
    root, run_id = parse_run_uri(fspath(uri))
    store = open_store(root)
    return OpenedRun(store, open_in(store, run_id))


@dataclass(frozen=True)
class OpenedRun:
    """What a store holds of one run, as it is when it is first asked for; open the run again to see what came since.

    Frames need pandas (`pip install 'lsb[pandas]'`). What is missing in one is `pandas.NA` or, of numbers with a point,
    NaN. A log, a table or a manifest that is not what was written raises TamperedError.
    """

    store: Store
    run: Run

    @property
    def id(self) -> str:
        return self.run.id

    @cached_property
    def records(self) -> pandas.DataFrame:
        """One row per record that was dealt with, by record id: the columns of the manifest, and these.

        `source_prompt_text`, `target_prompt_text`: the prompts' words. `seconds`: from the beginning of the picture's
        batch until its output was written, divided by the batch's pictures; of a picture in tiles the whole time.
        `score_…`: a column for each score, in place of `scores`. Whole numbers are nullable integers, truth values
        nullable booleans, texts strings, times in UTC; `flags` and the kinds of metadata are lists.
        """
        frame = _frame(self._rows)
        for column in self._rows.schema:
            if pa.types.is_list(column.type):
                frame[column.name] = _objects(self._rows[column.name].to_pylist())
        for side in ("source", "target"):
            text = used_prompt(self.store, self.run.prompts[side])["text"]
            frame[f"{side}_prompt_text"] = _texts([text] * len(frame))
        frame["seconds"] = _seconds(frame)
        scores = [dict(row or ()) for row in frame.pop("scores")]
        for name in sorted({name for row in scores for name in row}):
            frame[f"score_{name}"] = [row.get(name, float("nan")) for row in scores]
        return frame

    @cached_property
    def metrics(self) -> pandas.DataFrame:
        """What was measured, one row per set of pictures and measure; empty where nothing is published or measured.

        Columns: `row` (`translation`, `source`, `source_vae`, …), `images` in the set, `measure` (`kid`,
        `structure_distance`, …), `value` with the interval `low` to `high` (95 %), `reason` where there is no value.
        """
        found = [
            {"row": row["key"], "images": row["images"], "measure": name, **estimate}
            for row in self.metrics_document.get("rows", ())
            for name, estimate in sorted(row.items(), key=lambda item: _MEASURES.get(item[0], len(_MEASURES)))
            if isinstance(estimate, Mapping)
        ]
        kinds = [("row", pa.string()), ("images", pa.int64()), ("measure", pa.string()), ("value", pa.float64())]
        kinds += [("low", pa.float64()), ("high", pa.float64()), ("reason", pa.string())]
        return _frame(pa.Table.from_pylist(found, schema=pa.schema(kinds)))

    @cached_property
    def metrics_document(self) -> Mapping[str, Any]:
        """The newest snapshot's metrics.json as it stands; empty before the first snapshot."""
        if self._snapshot is None:
            return {}
        key = self._snapshot.metrics_key
        return dict(json.loads(read_checked(self.store, key, self._snapshot.digests()[key])))

    @cached_property
    def costs(self) -> pandas.DataFrame:
        """What the images that this run made itself have cost, one row per measure.

        Columns: `measure`: `device_seconds` (with the model, each batch's shared among its images), `bytes_read`,
        `bytes_written`, `requests`; `images`: what they alone have cost; `per_image`; and `shards`: all that the run's
        shards have asked of stores up to their last commits, with plans, logs, hints, rows and features. Not counted
        by anybody: leases, planning, learning, measuring and publishing. Missing where an earlier version made them.
        """
        costs = Costs()
        costs.add(self._rows)
        known = {} if self._collected.usage is None else vars(self._collected.usage)
        rows = [
            {
                "measure": name,
                "images": costs.sums[name] if costs.images else None,
                "per_image": costs.per_image(name),
                "shards": known.get(name),
            }
            for name in COSTS
        ]
        kinds = [("measure", pa.string()), *((name, pa.float64()) for name in ("images", "per_image", "shards"))]
        return _frame(pa.Table.from_pylist(rows, schema=pa.schema(kinds)))

    @cached_property
    def shards(self) -> pandas.DataFrame:
        """One row per shard of the plan.

        Columns: `shard`; its records: `planned`, and by status `ok`, `quarantined`, `failed`, `erased`, `pending`;
        `commits`, and when the `first_commit` and the `last_commit` were made. Records that no shard ever saw, carried
        ones and those that ingest set aside, are in none of them.
        """
        plan = read_plan(self.store, self.run, columns=["shard"])
        planned = {item["values"]: item["counts"] for item in pc.value_counts(plan["shard"]).to_pylist()}
        own = self._rows.filter(pc.is_null(self._rows["carried_from"]))
        counted = own.group_by(["shard", "status"]).aggregate([([], "count_all")]).to_pylist()
        counts = {(found["shard"], found["status"]): found["count_all"] for found in counted}
        commits = dict(read_logs(self.store, self.run, _commit_times))
        rows = []
        for shard in self.run.shards():
            by_status = {status.value: counts.get((shard, status.value), 0) for status in Status}
            times = commits[shard]
            rows.append(
                {
                    "shard": shard,
                    "planned": planned.get(shard, 0),
                    **by_status,
                    PENDING: planned.get(shard, 0) - sum(by_status.values()),
                    "commits": len(times),
                    "first_commit": min(times, default=None),
                    "last_commit": max(times, default=None),
                }
            )
        numbers = ("planned", *(status.value for status in Status), PENDING, "commits")
        time = pa.timestamp("us", tz="UTC")
        kinds = [("shard", pa.string()), *((name, pa.int64()) for name in numbers)]
        kinds += [("first_commit", time), ("last_commit", time)]
        return _frame(pa.Table.from_pylist(rows, schema=pa.schema(kinds)))

    def pairs(
        self, records: Iterable[str] | None = None, *, sources: str | PathLike[str] | None = None
    ) -> Iterator[Pair]:
        """Pictures with their translations, read ahead as they are taken, in the order of `records`.

        Args:
            records: record ids, such as `run.records.query("score_structure_distance > 0.2").record_id`; by default
                all that have an output. One that has none is left out.
            sources: where the sources lie now, by default where they lay when the run was planned.

        Raises:
            SourceError: `sources` is given and cannot be used.
            StoreError: the folder or the store as a whole cannot be used, now.
        """
        folder = pictures_to_show(self.run.source) if sources is None else open_sources(fspath(sources))
        columns = ["record_id", "source_key", "source_sha256", "output_key", "output_sha256"]
        made = self._rows.filter(pc.equal(self._rows["status"], Status.OK.value)).select(columns).to_pylist()
        if records is not None:
            known = {row["record_id"]: row for row in made}
            made = [known[record] for record in records if record in known]
        rules = Geometry.of_transform(self.run.transform).decoding_rules

        def read(row: Mapping[str, str]) -> Pair:
            source = _picture(folder, row["source_key"], row["source_sha256"], rules)
            output = _picture(self.store, row["output_key"], row["output_sha256"], rules)
            return Pair(row["record_id"], row["source_key"], source, output)

        with read_ahead(made, read, requests=DECODERS) as answers:
            for _, answer in answers:
                yield answer()

    @cached_property
    def _snapshot(self) -> Snapshot | None:
        return latest_snapshot(self.store, self.run)

    @cached_property
    def _rows(self) -> pa.Table:
        return self._collected.rows

    @cached_property
    def _collected(self) -> Collected:
        thresholds = self._snapshot.gates if self._snapshot else None
        return collect(self.store, self.run, gates=Gates.of(self.metrics_document, thresholds))


def _picture(folder: Source, key: str, digest: str, rules: int) -> Image.Image | None:
    found = find_picture(folder, key, digest, rules)
    return None if found is None else found.convert("RGB")


def _commit_times(log: ShardLog) -> list[Any]:
    return [entry.link.time for entry in log.entries()]


def _frame(table: pa.Table) -> pandas.DataFrame:
    """With nullable integers and booleans, and strings."""
    pandas = _pandas()
    types = {
        pa.int8(): pandas.Int8Dtype(),
        pa.int32(): pandas.Int32Dtype(),
        pa.int64(): pandas.Int64Dtype(),
        pa.bool_(): pandas.BooleanDtype(),
        pa.string(): pandas.StringDtype(na_value=pandas.NA),
    }
    return table.to_pandas(types_mapper=types.get)


def _texts(values: list[str | None]) -> pandas.Series:
    pandas = _pandas()
    return pandas.Series(values, dtype=pandas.StringDtype(na_value=pandas.NA))


def _objects(values: list[Any]) -> pandas.Series:
    return _pandas().Series(values, dtype=object)


def _seconds(rows: pandas.DataFrame) -> pandas.Series:
    """What each picture took; NaN where no picture was made."""
    whole = (rows["finished"] - rows["started"]).dt.total_seconds()
    shared = (rows["batch"] - rows["batch_padding"].fillna(0)).where(rows["tiles"].isna(), 1)
    return (whole / shared.astype("Float64")).astype("float64")


def _pandas() -> Any:
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise ResourceError("frames need the package pandas; pip install 'lsb[pandas]'") from error
    return pandas
