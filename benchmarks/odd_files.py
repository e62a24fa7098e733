"""A folder with one of each odd entry: that each has its row or is counted, and what memory and time it takes.

    PYTHONPATH=. python benchmarks/odd_files.py --json      # minutes, most of them for one file

Takes the folder in as `lsb ingest` does, then has each file that is read decoded by itself, to say which is slowest.
Memory is that of this process and of the largest child, the one that decodes, as the system counts them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lsb.errors import DecodingError, ImageError
from lsb.ledger.dataset import read_records
from lsb.pictures.decoder import CPU_SECONDS, MEMORY, Decoder
from lsb.pictures.ingest import MAX_BYTES, ingest
from lsb.pictures.sources import open_sources
from lsb.store.store import open_store
from tests.bombs import large, saved, scan_bomb

GOOD = 5
LISTED_ALONE = "4 GiB.png"  # never read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = measure(Path(place))
    if arguments.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        for name, value in found.items():
            print(f"{name:<24}{value}")
    if found["good_files"] != {"ok": GOOD}:
        raise SystemExit("a good picture is not ok")


def measure(place: Path) -> dict[str, Any]:
    """Figures by name; memory in MiB, times in seconds."""
    folder = place / "pictures"
    make(folder)
    before = peak(resource.RUSAGE_SELF)
    start = time.perf_counter()
    sources, store = open_sources(str(folder)), open_store(str(place / "store"), create=True)
    dataset = ingest(sources, "odd", store)
    seconds = time.perf_counter() - start
    rows = read_records(store, dataset).to_pylist()
    states = {row["key"]: row["error_code"] or ("ok" if row["width"] else "left to its shard") for row in rows}
    times = {key: timed(folder / key) for key in states if key != LISTED_ALONE}
    slowest = max(times, key=lambda key: times[key])
    return {
        "entries": len(os.listdir(folder)),
        "records": states,
        "left_out": dataset.left_out,
        "good_files": dict(Counter(state for key, state in states.items() if key.startswith("good"))),
        "ingest_seconds": round(seconds, 1),
        "slowest_file": slowest,
        "slowest_file_seconds": round(times[slowest], 1),
        "allowed_cpu_seconds": CPU_SECONDS,
        "command_peak_mib_before": before,
        "command_peak_mib": peak(resource.RUSAGE_SELF),
        "decoder_peak_mib": peak(resource.RUSAGE_CHILDREN),
        "allowed_decoder_mib": MEMORY >> 20,
    }


def make(folder: Path) -> None:
    """Good pictures, and one of each entry that has stopped somebody."""
    folder.mkdir()
    for number in range(GOOD):
        (folder / f"good-{number}.png").write_bytes(noise(number, "PNG"))
    damaged = bytearray(noise(90, "PNG"))
    damaged[len(damaged) // 2] ^= 4
    (folder / "flipped.png").write_bytes(damaged)
    (folder / "cut.jpg").write_bytes(noise(91, "JPEG")[:-2000])
    (folder / "pointer.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (folder / "empty.png").write_bytes(b"")
    (folder / "98-megapixels.webp").write_bytes(large())
    (folder / "108-megapixels.jpg").write_bytes(saved(Image.new("L", (12_000, 9_000), 90), "JPEG"))
    (folder / "scans.jpg").write_bytes(scan_bomb(200_000))
    with (folder / LISTED_ALONE).open("wb") as file:
        file.truncate(4 * MAX_BYTES)
    for name in ("a.svg", "b.psd", "noending", ".hidden.png"):
        (folder / name).write_bytes(noise(92, "JPEG"))
    (folder / "itself.png").symlink_to("itself.png")
    (folder / "nowhere.png").symlink_to("nowhere")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "linked").symlink_to("/")
    os.mkfifo(folder / "pipe.png")
    with inside(folder), socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.png")
    with inside(folder):
        for _ in range(22):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        Path("deep.png").touch()


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """In this folder, whose own path may be too long."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def noise(seed: int, format: str) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def timed(file: Path) -> float:
    """Seconds to decode a file in a process that is there already."""
    data = file.read_bytes()
    with Decoder() as decoder:
        decoder.inspect(noise(0, "PNG"))
        start = time.perf_counter()
        with suppress(ImageError, DecodingError):
            decoder.inspect(data)
        return time.perf_counter() - start


def peak(who: int) -> int:
    return resource.getrusage(who).ru_maxrss >> 10


if __name__ == "__main__":
    main()
