"""Mutants of the files of `tests.corpus`, decoded one after another: `make fuzz` does so for ten minutes.

    python tests/fuzz.py [--seconds 600] [--seed N] [--keep FOLDER]

A mutant that ends the process that decodes, or takes more time or memory than a file may, is kept in FOLDER.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count as counting
from pathlib import Path

from lsb.errors import DecodingError, ImageError
from lsb.pictures.decoder import Decoder
from tests.corpus import corpus

LARGEST = 300_000  # bytes of a file of which mutants are made
_TELLING = (b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\0")


def mutants(seed: int, count: int | None = None) -> Iterator[tuple[str, bytes]]:
    """The name of a file, and what has become of it; the same ones for a seed."""
    chance = random.Random(seed)
    files = [(name, case.data) for name, case in sorted(corpus().items()) if 0 < len(case.data) <= LARGEST]
    for _ in counting() if count is None else range(count):
        name, data = chance.choice(files)
        yield name, _mutant(chance, data, chance.choice(files)[1])


def verdict(decoder: Decoder, data: bytes) -> str:
    """`ok`, or the code by which a file is refused.

    Raises:
        DecodingError: its decoding has ended in another way.
    """
    try:
        picture, info = decoder.decode(data)
    except ImageError as error:
        return error.code
    assert picture.size in (info.reduced_size, info.reduced_size[::-1])
    return "ok"


def _mutant(chance: random.Random, data: bytes, other: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(changed) or 1)
        # Headers decide more than pixels.
        at = at if chance.random() < 0.5 else min(at, chance.randrange(200))
        kind = chance.randrange(6)
        if kind == 0:
            changed[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1 and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            telling = chance.choice(_TELLING)
            changed[at : at + len(telling)] = telling
        elif kind == 3:
            del changed[at : at + chance.randint(1, 64)]
        elif kind == 4:
            changed[at:at] = changed[at : at + chance.randint(1, 64)]
        else:
            start = chance.randrange(len(other))
            changed[at : at + 64] = other[start : start + chance.randint(1, 64)]
    return bytes(changed)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=float, default=600)
    options.add_argument("--seed", type=int, default=int(time.time()))
    options.add_argument("--keep", type=Path, default=Path("out/fuzz"))
    chosen = options.parse_args()
    verdicts: Counter[str] = Counter()
    slowest, kept = 0.0, []
    until = time.monotonic() + chosen.seconds
    with Decoder() as decoder:
        for name, data in mutants(chosen.seed):
            begun = time.monotonic()
            if begun > until:
                break
            try:
                verdicts[verdict(decoder, data)] += 1
            except DecodingError as error:
                verdicts[error.code] += 1
                chosen.keep.mkdir(parents=True, exist_ok=True)
                kept.append(chosen.keep / f"{verdicts.total()}-{name}")
                kept[-1].write_bytes(data)
            slowest = max(slowest, time.monotonic() - begun)
    account = {"seed": chosen.seed, "mutants": verdicts.total(), "slowest_seconds": round(slowest, 2)}
    print(
        json.dumps(
            {**account, "verdicts": dict(verdicts.most_common()), "kept": [str(path) for path in kept]}, indent=1
        )
    )
    sys.exit(bool(kept))


if __name__ == "__main__":
    main()
