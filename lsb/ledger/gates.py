"""Which outputs to look at first: gates on numbers that each picture has.

What a snapshot says of flags follows from what is stored: the scores in the shards' rows, the numbers and thresholds
that the measuring found (metrics.json, `gates`). A flag rejects nothing.

    no_op           `output_change` below: hardly farther from the source through the model's VAE than the source is
    over_changed    score `structure_distance` above: about as far from its source as an unrelated picture is
    out_of_domain   `source_distance` above: the source is unlike the run's other sources
    flat_output     score `output_contrast` below: nothing is drawn
    structure_high  score `structure_distance` above a fixed number: of snapshots of earlier versions
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lsb.errors import UnverifiableError
from lsb.ledger.schemas import MANIFEST, places
from lsb.records import Status

FLAT = 0.02  # standard deviation of the output's pixels, in [0, 1]
NUMBERS = ("output_change", "source_distance")  # columns of the manifest that the measuring gives
_OF_NUMBERS = pa.schema([("record_id", pa.string()), *((name, pa.float64()) for name in NUMBERS)])


class Gate(NamedTuple):
    """A number of a picture, a column of the manifest or a score, and on which side of a threshold it raises a flag."""

    number: str
    raised: str  # `below` or `above`

    def numbers(self, rows: pa.Table) -> pa.ChunkedArray:
        """Of rows of the manifest; null where it was not measured."""
        if self.number in NUMBERS:
            return rows[self.number]
        return pc.map_lookup(rows["scores"], self.number, "last")

    def fires(self, rows: pa.Table, threshold: float) -> np.ndarray:
        beyond = pc.less if self.raised == "below" else pc.greater
        return np.asarray(pc.fill_null(beyond(self.numbers(rows), threshold), False))


GATES = {
    "no_op": Gate("output_change", "below"),
    "over_changed": Gate("structure_distance", "above"),
    "out_of_domain": Gate("source_distance", "above"),
    "structure_high": Gate("structure_distance", "above"),
    "flat_output": Gate("output_contrast", "below"),
}


@dataclass(frozen=True)
class Gates:
    """The thresholds that a snapshot judges by, and what its measuring found of each picture.

    Attributes:
        thresholds: by name of a gate; one that is not there is not judged.
        numbers: `record_id` and NUMBERS of the pictures that were measured; None if there are none.
    """

    thresholds: Mapping[str, float] = field(default_factory=lambda: {"flat_output": FLAT})
    numbers: pa.Table | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if strangers := sorted(self.thresholds.keys() - GATES.keys()):
            raise UnverifiableError(f"gate {strangers[0]!r} is not known to this version")

    @classmethod
    def of(cls, metrics: Mapping[str, Any], thresholds: Mapping[str, float] | None = None) -> Gates:
        """Those of a snapshot.

        Args:
            metrics: the content of metrics.json.
            thresholds: those that the snapshot's entry names; by default what was measured, and where nothing was
                measured that of `flat_output`.
        """
        found = metrics.get("gates", {})
        given = found.get("thresholds") if thresholds is None else thresholds
        numbers = found.get("numbers", {})
        columns = [pa.array([*numbers], pa.string())]
        columns += [pa.array([of[place] for of in numbers.values()], pa.float64()) for place in range(len(NUMBERS))]
        table = pa.table(columns, schema=_OF_NUMBERS)
        return cls(numbers=table) if given is None else cls(given, table)

    def judged(self, rows: pa.Table) -> pa.Table:
        """`rows` of the manifest with the numbers that were measured and the flags that follow: a list for `ok` rows,
        null for others. Rows without some of these columns stay without."""
        made = pc.equal(rows["status"], Status.OK.value)
        numbers = _OF_NUMBERS.empty_table() if self.numbers is None else self.numbers
        place = places(rows["record_id"], numbers["record_id"])
        for name in NUMBERS:
            if name in rows.column_names:
                rows = _with(rows, name, pc.if_else(made, numbers[name].take(place), None))
        if "flags" in rows.column_names:
            rows = _with(rows, "flags", pc.if_else(made, self.flags(rows), None))
        return rows

    def flags(self, rows: pa.Table) -> pa.Array:
        """For each row the names of the gates that its numbers fire."""
        combinations: list[list[str]] = [[]]
        chosen = np.zeros(rows.num_rows, np.int64)
        judged = [name for name in GATES if name in self.thresholds]
        for place, name in enumerate(judged):
            combinations += [[*names, name] for names in combinations]
            chosen |= GATES[name].fires(rows, self.thresholds[name]).astype(np.int64) << place
        return pa.array(combinations, pa.list_(pa.string())).take(pa.array(chosen))


def _with(rows: pa.Table, name: str, column: pa.ChunkedArray) -> pa.Table:
    kind = MANIFEST.arrow.field(name)
    return rows.set_column(rows.schema.get_field_index(name), kind, column.cast(kind.type))
