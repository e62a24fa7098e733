"""How well flags tell what to look at: good translations among things that have gone wrong, on the embedded model.

    PYTHONPATH=. python benchmarks/gates.py --json                     some minutes on two cores
    PYTHONPATH=. python benchmarks/gates.py --out docs/benchmarks/gates.md

Thresholds come from a run over flat emoji of the validation split with the settings of the embedded job, as they do
in any run. Judged are then, in equal numbers and each as if it were one more record of that run:

    good           flat emoji of the test split, translated
    copy           a flat emoji that came out unchanged: the file itself, not what the VAE makes of it
    other          the translation of another symbol
    photograph     a part of a photograph that comes with scikit-image, translated
    noise          pixels drawn by lot, translated

Prompts are the looks' words, so that nothing has to be learned.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import tempfile
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from sizes_models import EMBEDDED, photographs

from examples.emoji.unpack import HERE, unpack
from lsb import BridgeSettings, Prompt, Translator, load_backbone
from lsb.ledger.gates import Gates
from lsb.metrics.calibration import changes, fence, relative_changes, source_distances
from lsb.metrics.comparison import Comparison, evaluate_images, through_vae
from lsb.metrics.features import EfficientNetLite0, Features
from lsb.metrics.picture.structure_distance import structure_distance
from lsb.pictures.images import contrast, decode
from lsb.records import record_id

SETTINGS = BridgeSettings(tau=0.1, t0=0.1, guidance=7, nfe=8, noise="mix", start="centred", solver="adams_moulton")
WORDS = {
    "flat": "restored flat icon",
    "3d": "restored 3d icon",
    "noto": "restored noto emoji",
    "twemoji": "restored twemoji",
}
EXPECTED = {
    "good": None,
    "copy": "no_op",
    "other": "over_changed",
    "photograph": "out_of_domain",
    "noise": "out_of_domain",
}
SHARES = (0.05, 0.1, 0.2)
Images = list[Image.Image]


class Bench:
    """The model, the extractor and the emoji."""

    def __init__(self, emoji: Path) -> None:
        self.emoji, self.backbone, self.extractor = (
            emoji,
            load_backbone(str(EMBEDDED), device="cpu"),
            EfficientNetLite0(),
        )

    def pictures(self, style: str, split: str, count: int, start: int = 0) -> Images:
        """In the order of their names' digests, so that nobody chooses them."""
        files = sorted(
            (self.emoji / style / split).iterdir(), key=lambda file: hashlib.sha256(file.name.encode()).digest()
        )
        return [decode(file.read_bytes())[0] for file in files[start : start + count]]

    def translated(self, images: Images, source: str = "flat", target: str = "3d") -> Images:
        prompts = Prompt(WORDS[source]), Prompt(WORDS[target])
        return Translator(self.backbone, *prompts, SETTINGS, batch=16).translate(images)

    def run(self, source: str, target: str, split: str, count: int) -> Run:
        """What measuring finds of a run over so many pictures."""
        sources, targets = self.pictures(source, split, count), self.pictures(target, split, count)
        outputs = self.translated(sources, source, target)
        ids = [record_id(f"{place}.webp") for place in range(count)]
        comparison = Comparison(ids=ids, sources=sources, outputs=outputs, targets=targets, target_ids=ids)
        found = evaluate_images(comparison, self.backbone, self.extractor).to_json()
        seen, made = self.extractor(sources), self.extractor(outputs)
        distances = structure_distance(seen.maps, made.maps).tolist()
        rows = pa.table(
            {
                "record_id": ids,
                "output_change": [found["gates"]["numbers"][record][0] for record in ids],
                "source_distance": [found["gates"]["numbers"][record][1] for record in ids],
                "scores": _scores(distances, outputs),
            }
        )
        flags = Gates(found["gates"]["thresholds"]).flags(rows).to_pylist()
        return Run(found["gates"]["thresholds"], found["gates"]["untouched"], seen, flags)

    def flags(self, run: Run, sources: Images, outputs: Images) -> list[list[str]]:
        """Of pictures that are each one more record of `run`."""
        seen, made = self.extractor(sources), self.extractor(outputs)
        blurred, side = through_vae(sources, self.backbone), self.backbone.canvas.side
        others = run.seen.pooled
        rows = pa.table(
            {
                "output_change": relative_changes(
                    changes(outputs, blurred, side), changes(sources, blurred, side), run.untouched
                ),
                "source_distance": [source_distances(np.concatenate([others, [one]]))[-1] for one in seen.pooled],
                "scores": _scores(structure_distance(seen.maps, made.maps).tolist(), outputs),
            }
        )
        found: list[list[str]] = Gates(run.thresholds).flags(rows).to_pylist()
        return found


class Run:
    """A run's thresholds, what the VAE does alone, the features of its sources, and the flags of its records."""

    def __init__(
        self, thresholds: dict[str, float], untouched: list[float], seen: Features, flags: list[list[str]]
    ) -> None:
        self.thresholds, self.untouched, self.seen, self.flags = thresholds, untouched, seen, flags

    def share(self) -> dict[str, float]:
        """Of the records that have each flag, and any."""
        shares = {name: sum(name in flags for flags in self.flags) / len(self.flags) for name in self.thresholds}
        return {**shares, "any": sum(bool(flags) for flags in self.flags) / len(self.flags)}


def _scores(distances: list[float], outputs: Images) -> pa.Array:
    rows = [
        [("structure_distance", distance), ("output_contrast", contrast(output))]
        for distance, output in zip(distances, outputs, strict=True)
    ]
    return pa.array(rows, pa.map_(pa.string(), pa.float64()))


def parts_of_photographs(count: int, side: int) -> Images:
    """Squares of half a photograph's height somewhere in it, every photograph equally often."""
    taken, found = list(photographs().values()), []
    for number in range(count):
        image, draw = taken[number % len(taken)], np.random.default_rng(number)
        part = min(image.size) // 2
        left, top = (int(draw.integers(0, length - part + 1)) for length in image.size)
        found.append(image.resize((side, side), Image.Resampling.LANCZOS, (left, top, left + part, top + part)))
    return found


def noise(count: int, side: int) -> Images:
    return [
        Image.fromarray(np.random.default_rng(1000 + number).integers(0, 256, (side, side, 3), dtype=np.uint8))
        for number in range(count)
    ]


def measure(emoji: Path, count: int, run_count: int) -> dict[str, Any]:
    bench = Bench(emoji)
    side = bench.backbone.canvas.side
    began = time.process_time()
    run = bench.run("flat", "3d", "validation", run_count)
    own, copies, others = (bench.pictures("flat", "test", count, start) for start in (0, count, 2 * count))
    made = bench.translated(others)
    photos, noises = parts_of_photographs(count, side), noise(count, side)
    classes = {
        "good": (own, bench.translated(own)),
        "copy": (copies, copies),
        "other": (others, [*made[1:], made[0]]),
        "photograph": (photos, bench.translated(photos)),
        "noise": (noises, bench.translated(noises)),
    }
    flags = {name: bench.flags(run, *pictures) for name, pictures in classes.items()}
    strange = {"photographs": bench.extractor(photos).pooled, "noise": bench.extractor(noises).pooled}
    return {
        "pictures": count,
        "run": run_count,
        "thresholds": run.thresholds,
        "fired": {
            name: {gate: sum(gate in one for one in of) for gate in run.thresholds} for name, of in flags.items()
        },
        "flagged": {name: sum(bool(one) for one in of) for name, of in flags.items()},
        "gates": {gate: told(gate, flags) for gate in dict.fromkeys(filter(None, EXPECTED.values()))},
        "runs": {
            "flat to 3d": run.share(),
            "noto to twemoji": bench.run("noto", "twemoji", "validation", run_count).share(),
            "twemoji to 3d": bench.run("twemoji", "3d", "validation", run_count).share(),
        },
        "mixed": [mixed(run.seen.pooled, kind, of, share) for kind, of in strange.items() for share in SHARES],
        "cpu_seconds": round(time.process_time() - began),
    }


def mixed(own: np.ndarray, kind: str, others: np.ndarray, share: float) -> dict[str, Any]:
    """A run of which such a share of the sources is of another kind: how many of these and of its own are flagged."""
    count = round(share / (1 - share) * len(own))
    features = np.concatenate([own, others[:count]])
    order = np.random.default_rng(0).permutation(len(features))  # record ids are hashes
    distances = np.empty(len(features))
    distances[order] = source_distances(features[order])
    flagged = distances > fence(distances)
    return {
        "kind": kind,
        "share": share,
        "count": count,
        "flagged": int(flagged[len(own) :].sum()),
        "own": int(flagged[: len(own)].sum()),
    }


def told(gate: str, flags: dict[str, list[list[str]]]) -> dict[str, float]:
    """Recall: of the pictures that the gate is for those that it flags. Precision: of all that it flags those. `strict`
    counts whatever it flags elsewhere as wrong; otherwise what another gate is for may be this one's as well."""
    right = sum(gate in one for name, of in flags.items() if EXPECTED[name] == gate for one in of)
    meant = sum(len(of) for name, of in flags.items() if EXPECTED[name] == gate)
    wrong = sum(gate in one for name, of in flags.items() if EXPECTED[name] != gate for one in of)
    false = sum(gate in one for one in flags["good"])
    return {
        "recall": right / meant,
        "precision": right / max(1, right + false),
        "strict": right / max(1, right + wrong),
    }


def markdown(found: dict[str, Any]) -> str:
    gates = list(found["thresholds"])
    lines = ["# Flags: how well they tell", ""]
    lines.append(
        f"Made by `python benchmarks/gates.py --pictures {found['pictures']} --run {found['run']}` on {found['date']}, "
        f"on {found['machine']}, torch {found['torch']}: "
        f"{found['cpu_seconds']} CPU seconds.\nThe embedded emoji model with the settings of its job and the looks' "
        "words for prompts; nobody chose the pictures."
    )
    lines += ["", "## Among things that have gone wrong", ""]
    lines.append(
        f"Thresholds from a run over {found['run']} flat emoji of the validation split and as many 3D ones. Then "
        f"{found['pictures']} of each kind, each\nas if it were one more record of that run: flat emoji of the test "
        "split translated (good); flat emoji that came out\nunchanged (copy); translations of another symbol (other); "
        "parts of photographs and noise as sources, translated. How many\nhave each flag:"
    )
    head = " | ".join(f"`{gate}`" for gate in gates)
    rule = "|---|" + "---:|" * (len(gates) + 1)
    lines += ["", f"| | {head} | any |", rule]
    for name, fired in found["fired"].items():
        cells = [f"**{fired[gate]}**" if gate == EXPECTED[name] else str(fired[gate]) for gate in gates]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {found['flagged'][name]} |")
    lines += ["", "| gate | threshold | recall | precision | precision, strictly |", "|---|---:|---:|---:|---:|"]
    for gate, one in found["gates"].items():
        shares = " | ".join(f"{one[name]:.2f}" for name in ("recall", "precision", "strict"))
        lines.append(f"| `{gate}` | {found['thresholds'][gate]:.3g} | {shares} |")
    lines += ["", PRECISION, "", "## Whole runs", ""]
    lines.append(f"{found['run']} pictures of the validation split each, judged by thresholds of their own:")
    lines += ["", f"| run | {head} | any |", rule]
    for name, shares in found["runs"].items():
        lines.append(f"| {name} | " + " | ".join(f"{100 * shares[gate]:.0f} %" for gate in (*gates, "any")) + " |")
    lines += ["", *NOTES, "", "## Folders that hold several looks", "", MIXED, ""]
    lines += ["| of the sources | flagged of these | flagged of the others |", "|---|---:|---:|"]
    for one in found["mixed"]:
        share = f"{100 * one['share']:.0f} % {one['kind']}"
        lines.append(f"| {share} | {one['flagged']} of {one['count']} | {one['own']} of {found['run']} |")
    return "\n".join(lines) + "\n"


MIXED = (
    "The flat emoji of the run with some of the photographs or of the noise among them, judged by thresholds that\n"
    "these have had a part in. `out_of_domain`:"
)


PRECISION = (
    "Recall: of the pictures that a gate is for, those that it flags. Precision: of these and the good translations\n"
    "that it flags, the former. Strictly: whatever it flags of another kind counts as wrong as well, though a\n"
    "photograph of which only a blur remains has lost its structure, too."
)
NOTES = (
    "Noto to Twemoji does not work on this model with these settings (`examples/emoji/RESULTS.md`): its\n"
    "page says so at its head. What photographs and noise lead to is mostly a blur of them.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--pictures", type=int, default=40, help="of each kind")
    parser.add_argument("--run", type=int, default=80, help="pictures of the runs whose thresholds are used")
    parser.add_argument("--from-json", type=Path, help="what an earlier call printed, to write the page anew")
    parser.add_argument("--out", type=Path, help="where to write the page")
    chosen = parser.parse_args()
    if chosen.from_json:
        found = json.loads(chosen.from_json.read_text())
    else:
        with tempfile.TemporaryDirectory() as place:
            unpack(HERE / "emoji.parquet", Path(place))
            found = measure(Path(place), chosen.pictures, chosen.run)
        found |= {"machine": f"{os.cpu_count()} processors of {platform.machine()}", "torch": torch.__version__}
        found |= {"date": str(datetime.now(UTC).date()), "lsb": metadata.version("lsb")}
    print(json.dumps(found, indent=1) if chosen.json else markdown(found))
    if chosen.out:
        chosen.out.write_text(markdown(found))


if __name__ == "__main__":
    main()
