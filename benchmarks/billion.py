"""What a thousand million records would take: from unit costs that were measured, and prices that are given.

    python benchmarks/billion.py                          the tables of docs/scale.md
    python benchmarks/billion.py --records 50000000 --images-a-second 3.2 --device-hour 1.006

Nothing is measured here and nothing is looked up. Unit costs are those of docs/benchmarks (each named below with the
command that made it); prices are list prices of one provider, of the day that is named, and options, like everything
about which your case differs.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
LARGEST_PUT = 5 << 30  # bytes of one PUT, which is how a plan, a table of records and a manifest are written
MOST_SHARDS = 100_000
MONTH = 30.0  # days


@dataclass(frozen=True)
class Measured:
    """Unit costs: of `benchmarks/scale.py` (docs/benchmarks/scale.json), but for the requests of an image."""

    records: float  # bytes of the table of records, a record
    plan: float  # likewise; of the plan
    rows: float
    log: float
    manifest: float
    objects: float  # a shard, beside outputs: rows, entry, leases; and the hint
    requests: float  # an image, from ingest to snapshot: benchmarks/pipeline.py
    plan_memory: float  # bytes of memory a record, while ten million are planned (scale-ten-million.json)


@dataclass(frozen=True)
class Prices:
    """In US dollars: Amazon S3, Standard, us-east-1, list prices of aws.amazon.com/s3/pricing as of 2025."""

    month: float  # a GB and month, the first 50 TB; larger stores pay less
    writes: float  # 1,000 PUT or LIST
    reads: float  # 1,000 GET
    device_hour: float | None


@dataclass(frozen=True)
class Case:
    records: int
    run: int  # records of one run
    shard: int  # of one shard
    output: float  # bytes of a picture
    rate: float  # images a second and device
    devices: int
    new: float  # share of records that are new each night


def measured(file: Path, largest: Path) -> Measured:
    document, ten_million = json.loads(file.read_text()), json.loads(largest.read_text())
    sizes = document["steps"]["sizes"]["said"]
    kinds = {name: sizes[name] for name in ("records", "plan", "rows", "log", "manifest")}
    most = max(ten_million["steps"][step]["mebibytes"] for step in ("plan", "plan the next"))
    memory = (most << 20) / ten_million["records"]
    return Measured(**kinds, objects=sizes["objects a shard"] + 1, requests=2.09, plan_memory=memory)


def run_once(case: Case, unit: Measured, prices: Prices) -> list[tuple[str, str, str]]:
    """Rows of the first table: what, how much, dollars."""
    shards = -(-case.records // case.shard)
    runs = -(-case.records // case.run)
    objects = case.records + shards * unit.objects + runs * 10
    ledger = case.records * (unit.records + unit.plan + unit.rows + unit.log + unit.manifest)
    outputs = case.records * case.output
    writes = case.records + shards * (unit.objects + 2) + runs * 10  # an output each, and renewed leases
    reads = max(0.0, case.records * unit.requests - case.records) + shards * 10
    hours = case.records / case.rate / 3600
    month = (ledger + outputs) / 1e9 * prices.month
    device = "" if prices.device_hour is None else dollars(hours * prices.device_hour)
    return [
        ("runs of shards", f"{runs:,} of {case.run // case.shard:,}", ""),
        ("objects in the store", f"{objects / 1e6:,.0f} million", ""),
        ("outputs", size(outputs), ""),
        ("ledger: records, plans, rows, logs, manifests", size(ledger), ""),
        ("kept for a month", size(outputs + ledger), dollars(month)),
        ("requests that write", f"{writes / 1e6:,.0f} million", dollars(writes / 1000 * prices.writes)),
        ("requests that read", f"{reads / 1e6:,.0f} million", dollars(reads / 1000 * prices.reads)),
        ("device hours", f"{hours:,.0f}", device),
        (f"days on {case.devices} devices", f"{hours / case.devices / 24:,.1f}", ""),
    ]


def each_night(case: Case, unit: Measured, prices: Prices) -> list[tuple[str, str, str]]:
    """What the store grows by in a night in which some records are new: rows of the second table."""
    new = case.new * case.records
    tables = case.records * (unit.records + unit.plan + unit.manifest)
    rows = new * (unit.rows + unit.log)
    outputs = new * case.output
    grown = tables + rows + outputs
    return [
        ("outputs of what is new", size(outputs), ""),
        ("rows and logs of what is new", size(rows), ""),
        ("records, plan and manifest, written again for all", size(tables), ""),
        ("in all", size(grown), dollars(grown / 1e9 * prices.month) + " a month"),
        (f"after {MONTH:.0f} nights", size(MONTH * grown), dollars(MONTH * grown / 1e9 * prices.month) + " a month"),
        ("of which tables that a later night replaces", size((MONTH - 1) * tables), ""),
    ]


def limits(unit: Measured) -> list[tuple[str, str, str]]:
    """Up to how many records one run may grow, the first to break first: rows of the third table."""
    found = [
        (4 * 2**30 / unit.plan_memory, "4 GiB of memory while it is planned", f"{unit.plan_memory:.0f} B a record"),
        (LARGEST_PUT / unit.manifest, "the manifest is one PUT of 5 GiB", f"{unit.manifest:.0f} B a record"),
        (LARGEST_PUT / unit.plan, "the plan is one PUT of 5 GiB", f"{unit.plan:.0f} B a record"),
        (LARGEST_PUT / unit.records, "the table of records is one PUT of 5 GiB", f"{unit.records:.0f} B a record"),
        (2**31 / 64, "2 GiB of text in one column of Arrow, digests of 64 characters", "64 B a record"),
        (MOST_SHARDS * 10_000, "100,000 shards, of 10,000 records", ""),
    ]
    return [(f"{count / 1e6:,.0f} million", what, of) for count, what, of in sorted(found)]


def size(count: float) -> str:
    return f"{count / 1e12:,.1f} TB" if count >= 1e11 else f"{count / 1e9:,.1f} GB"


def dollars(amount: float) -> str:
    return f"${amount:,.0f}"


def table(head: tuple[str, str, str], rows: list[tuple[str, str, str]]) -> str:
    lines = [head, ("---", "---:", "---:"), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, default=HERE / "docs" / "benchmarks" / "scale.json")
    parser.add_argument("--largest", type=Path, default=HERE / "docs" / "benchmarks" / "scale-ten-million.json")
    parser.add_argument("--records", type=int, default=1_000_000_000)
    parser.add_argument("--run", type=int, default=10_000_000, help="records of one run")
    parser.add_argument("--shard", type=int, default=1000, help="records of one shard")
    parser.add_argument("--output-bytes", type=float, default=400e3)
    parser.add_argument("--images-a-second", type=float, default=22.0, help="of one device; measure yours")
    parser.add_argument("--devices", type=int, default=64)
    parser.add_argument("--new", type=float, default=0.001, help="share of records that are new each night")
    parser.add_argument("--gb-month", type=float, default=0.023, help="dollars")
    parser.add_argument("--writes", type=float, default=0.005, help="dollars for 1,000 PUT or LIST")
    parser.add_argument("--reads", type=float, default=0.0004, help="dollars for 1,000 GET")
    parser.add_argument("--device-hour", type=float, help="dollars")
    given = parser.parse_args()
    unit = measured(given.measured, given.largest)
    prices = Prices(given.gb_month, given.writes, given.reads, given.device_hour)
    case = Case(
        given.records,
        given.run,
        given.shard,
        given.output_bytes,
        given.images_a_second,
        given.devices,
        given.new,
    )
    print(table(("translated once", "", "list price"), run_once(case, unit, prices)), end="\n\n")
    print(table((f"a night with {case.new:.1%} new", "", "list price"), each_night(case, unit, prices)), end="\n\n")
    print(table(("records of one run", "what breaks then", ""), limits(unit)))


if __name__ == "__main__":
    main()
