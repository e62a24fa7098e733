"""What it costs to write a picture without loss, and how large the file is.

    PYTHONPATH=. python benchmarks/encoders.py --json [PICTURE ...]

Milliseconds of one processor and KiB of a file, of each picture's middle at 512 x 512. Without names: two that are made
up, one like a photograph and one of noise, and a page of the emoji example's results.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from benchmarks.pipeline import about_this_machine, photograph

SIDE = 512
RESULTS = Path(__file__).resolve().parent.parent / "examples" / "emoji" / "results-test.png"
OPTIONS: dict[str, dict[str, Any]] = {
    **{f"PNG, level {level}": {"format": "PNG", "compress_level": level} for level in (1, 2, 4, 6)},
    "PNG, level 6, filtered": {"format": "PNG", "compress_level": 6, "compress_type": zlib.Z_FILTERED},
    "PNG, Huffman only": {"format": "PNG", "compress_level": 6, "compress_type": zlib.Z_HUFFMAN_ONLY},
    "PNG, runs only": {"format": "PNG", "compress_level": 6, "compress_type": zlib.Z_RLE},
    **{
        f"WebP, method {method}, effort {effort}": {
            "format": "WEBP",
            "lossless": True,
            "quality": effort,
            "method": method,
            "exact": True,
        }
        for method, effort in ((0, 0), (1, 20), (2, 20), (3, 20), (4, 80))
    },
}


def pictures(names: list[str]) -> dict[str, Image.Image]:
    """RGB, of one size."""
    if names:
        return {Path(name).stem: ImageOps.fit(Image.open(name).convert("RGB"), (SIDE, SIDE)) for name in names}
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    results = Image.open(RESULTS).convert("RGB").crop((0, 0, SIDE, SIDE))
    return {"photograph": photograph(0, SIDE), "noise": Image.fromarray(noise), "emoji results": results}


def measured(image: Image.Image, options: dict[str, Any], times: int = 5) -> dict[str, float]:
    best, size = float("inf"), 0
    for _ in range(times):
        buffer, start = io.BytesIO(), time.process_time()
        image.save(buffer, **options)
        best, size = min(best, time.process_time() - start), buffer.tell()
    if np.any(np.asarray(Image.open(buffer)) != np.asarray(image)):
        raise SystemExit(f"{options} changes pixels")
    return {"ms": round(1000 * best, 1), "kib": round(size / 1024)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", metavar="PICTURE")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    found = {
        name: {option: measured(image, options) for option, options in OPTIONS.items()}
        for name, image in pictures(arguments.pictures).items()
    }
    if arguments.json:
        sys.stdout.write(json.dumps({**about_this_machine(), "pictures": found}, indent=2) + "\n")
        return
    print(f"| | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
    for option in OPTIONS:
        cells = [f"{one[option]['ms']} ms, {one[option]['kib']} KiB" for one in found.values()]
        print(f"| {option} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
