"""What it takes to decode each file of `tests.corpus`, in a process of its own.

    python benchmarks/corpus.py [--json]

Seconds are of processor time, of the process that decodes, from a question to its answer; memory is the most that it
ever held, with all that it has loaded.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lsb.errors import DecodingError, ImageError
from lsb.pictures.decoder import MEMORY, Decoder
from lsb.pictures.images import decoding_version
from tests.corpus import corpus

SHOWN = 5  # files of each sort


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--json", action="store_true", help="print the results as JSON")
    chosen = options.parse_args()
    result = measure()
    if chosen.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{result['files']} files, {result['wrong']} with a wrong code")
    for what, unit in (("seconds", "s"), ("mib", "MiB")):
        print(f"most {what}: " + ", ".join(f"{name} {value} {unit}" for name, value in result[f"most_{what}"].items()))


def measure() -> dict[str, Any]:
    seconds, mib, wrong = {}, {}, 0
    for name, case in corpus().items():
        with Decoder() as decoder:
            with suppress(ImageError, DecodingError):
                decoder.inspect(b"")
            pid = decoder._idle[0]._process.pid
            before = taken(pid)
            try:
                decoder.inspect(case.data)
                code = None
            except (ImageError, DecodingError) as error:
                code = error.code
            wrong += code not in case.codes if case.codes else code is not None
            seconds[name] = round(taken(pid) - before, 2)
            mib[name] = peak(pid)
    return {
        "files": len(seconds),
        "wrong": wrong,
        "most_seconds": most(seconds),
        "most_mib": most(mib),
        "allowed_mib": MEMORY >> 20,
        "decoding": decoding_version(),
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def most(values: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(values.items(), key=lambda item: -item[1])[:SHOWN])


def taken(pid: int) -> float:
    """Seconds of processor time of a process; of one that has ended, all that our children took."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime
    return (int(fields[11]) + int(fields[12])) / 100


def peak(pid: int) -> int:
    """MiB that a process has held at most; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM")), 0)


if __name__ == "__main__":
    main()
