"""What the pictures of a run have cost: seconds of a device, bytes and requests.

Of what a run carries nothing counts: the run that made it has paid for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from lsb.store.usage import Usage

COSTS = ("device_seconds", "bytes_read", "bytes_written", "requests")
_UNITS = ("kB", "MB", "GB", "TB")


@dataclass
class Costs:
    """Sums over the rows that a run's own shards made, gathered a piece at a time.

    Attributes:
        images: outputs that were written. One that stands for several records counts once.
        uncounted: outputs of an earlier version of lsb, which counted nothing.
        sums: by the manifest's column.
    """

    images: int = 0
    uncounted: int = 0
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COSTS, 0))

    def add(self, rows: pa.Table) -> None:
        """More rows of the manifest; of them COSTS, `carried_from`, `shard` and `output_key` are needed."""
        own = rows.filter(pc.and_(pc.is_null(rows["carried_from"]), pc.is_valid(rows["shard"])))
        for name in COSTS:
            self.sums[name] += pc.sum(own[name]).as_py() or 0
        self.images += pc.sum(pc.greater(own["bytes_written"], 0)).as_py() or 0
        unknown = pc.and_(pc.is_valid(own["output_key"]), pc.is_null(own["bytes_written"]))
        self.uncounted += pc.sum(unknown).as_py() or 0

    def per_image(self, name: str) -> float | None:
        """None where no image is known of."""
        return self.sums[name] / self.images if self.images else None

    def in_words(self, usage: Usage | None) -> Iterator[tuple[str, str]]:
        """Each cost by its name. `usage`: of the run's shards as a whole, where that is known."""
        if not self.images:
            return
        seconds, each = self.sums["device_seconds"], self.sums["device_seconds"] / self.images
        yield "device", f"{seconds:,.1f} s with the model, {each:,.3g} s an image"
        yield "read", f"{size(self.sums['bytes_read'])}, {size(self.sums['bytes_read'] / self.images)} an image"
        yield (
            "written",
            f"{size(self.sums['bytes_written'])}, {size(self.sums['bytes_written'] / self.images)} an image",
        )
        requests = self.sums["requests"]
        yield "requests", f"{requests:,.0f}, {requests / self.images:,.1f} an image"
        if usage is not None:
            yield (
                "with the shards' plans, logs and tables",
                f"{size(usage.bytes_read)} read, {size(usage.bytes_written)} written, {usage.requests:,} requests",
            )
        if self.uncounted:
            yield "not counted", f"{self.uncounted:,} images of an earlier version of lsb"


def size(number: float) -> str:
    """Bytes with a decimal prefix."""
    if number < 1000:
        return f"{number:.0f} bytes"
    for unit in _UNITS:
        number /= 1000
        if number < 1000 or unit == _UNITS[-1]:
            break
    return f"{number:.3g} {unit}"
