"""Unpack the emoji pictures into folders: <out>/<style>/<split>/<code points>.webp, the bytes as stored.

    python examples/emoji/unpack.py --out out/emoji

A picture that is already there with the same bytes is left alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow.parquet as pq

HERE = Path(__file__).parent


def unpack(parquet: Path, out: Path) -> int:
    """Write the pictures of `parquet` below `out`; returns how many there are."""
    table = pq.read_table(parquet, columns=["symbol", "style", "split", "image"])
    for row in table.to_pylist():
        path = out / row["style"] / row["split"] / f"{row['symbol']}.webp"
        if path.exists() and path.read_bytes() == row["image"]:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_bytes(row["image"])
        partial.replace(path)
    return table.num_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parquet", type=Path, default=HERE / "emoji.parquet")
    parser.add_argument("--out", type=Path, default=Path("out/emoji"))
    args = parser.parse_args()
    print(f"{unpack(args.parquet, args.out)} pictures in {args.out}")


if __name__ == "__main__":
    main()
