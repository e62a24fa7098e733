"""How a model does in the bridge's own regime, on validation symbols: its network's own error, and what LSB makes.

    python examples/emoji/regime.py --model out/more/model --json     # by default the embedded one

`error` is the root mean square between a picture's latent and what the network makes of it noised to sigma, under its
own style's words; below sigma the network does better than leaving the noise in. `back` are the 3D pictures noised to
sigma and denoised again. `lsb` are flat pictures as 3D ones at 16 forwards, with the tau of the paper's noise on these
latents and with the job's own; the judge is `guide`, KID is against all 3D pictures of the split, and `limit` is the
tone distance of the source through the VAE. All of `back` and `lsb` are made with the styles' words alone and with
`restored` before them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image

import pictures
from directions import Shown, in_words, read
from judges import Judge
from lsb.bridge.methods.sdedit import Sdedit
from lsb.bridge.settings import BridgeSettings
from lsb.config.job import load_config
from lsb.errors import LsbError
from lsb.metrics.comparison import through_vae
from lsb.metrics.distances import kernel_samples
from lsb.metrics.features import EfficientNetLite0
from lsb.metrics.picture.tone_distance import tone_distance
from lsb.metrics.pixels import unit_pixels
from lsb.models.load import load_backbone
from lsb.models.protocol import Backbone
from lsb.translation.translator import Translator
from page import table

HERE = Path(__file__).parent
SIGMAS = (0.03, 0.05, 0.1, 0.2, 0.3, 0.6, 1.0, 2.0)
BACK = (0.05, 0.3)
FORWARDS, TAU, GUIDANCE = 16, 0.575, (0.5, 1.0, 2.0, 3.0)
CHUNK = 48


@dataclass(frozen=True)
class Row:
    """What came of the pictures of one style with one setting."""

    made: str
    words: str
    accuracy: float  # share that the judge calls 3D
    kid: float
    tone: float
    limit: float


class Regime:
    """One model on the validation symbols."""

    def __init__(self, backbone: Backbone, batch: int, every: int) -> None:
        self.backbone, self.batch = backbone, batch
        self.extractor, self.judge = EfficientNetLite0(), Judge("guide")
        flat, solid = read("flat", "validation"), read("3d", "validation")
        some = [*range(0, len(flat.ids), every)]
        self.flat, self.solid = flat.only(some), solid.only(some)
        self.real = torch.from_numpy(self.extractor(solid.images).pooled)
        self.truths = unit_pixels(self.solid.images)
        blurred = [one for part in parts(self.flat.images) for one in through_vae(part, backbone)]
        self.limit = self._tone(blurred)

    def errors(self, shown: Shown, style: str) -> dict[str, float]:
        """Of the network's clean latents, by sigma."""
        condition = self.backbone.embed(in_words(style, ""))
        latents = torch.cat([self.backbone.encode(2 * unit_pixels(part) - 1) for part in parts(shown.images)])
        found = {}
        for sigma in SIGMAS:
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
            noised = latents + sigma * noise
            eps = torch.cat([self.backbone.predict(part, sigma, condition) for part in noised.split(CHUNK)])
            found[f"{sigma:g}"] = round((noised - sigma * eps - latents).square().mean().sqrt().item(), 4)
        return found

    def rows(self, job: BridgeSettings) -> Iterator[Row]:
        for marked in ("", pictures.RESTORED):
            for sigma in BACK:
                method = Sdedit(sigma=sigma, nfe=FORWARDS)
                yield self._row(f"3D noised to {sigma:g} and back", self.solid, "3d", method, marked)
            for guidance in GUIDANCE:
                changed = {"tau": TAU, "guidance": guidance, "nfe": FORWARDS // 2}  # two each
                settings = job.model_copy(update=changed)
                yield self._row(f"LSB, tau {TAU:g}, w {guidance:g}", self.flat, "flat", settings, marked)
            settings = job.model_copy(update={"nfe": FORWARDS // 2})
            yield self._row(f"LSB, tau {job.tau:g}, w {job.guidance:g}", self.flat, "flat", settings, marked)

    def _row(self, made: str, shown: Shown, style: str, method: BridgeSettings | Sdedit, mark: str) -> Row:
        started = time.monotonic()
        assert method.forwards == FORWARDS
        translator = Translator(
            self.backbone, in_words(style, mark), in_words("3d", mark), settings=method, seed="0", batch=self.batch
        )
        images = translator.translate(shown.images, shown.digests)
        features = torch.from_numpy(self.extractor(images).pooled)
        row = Row(
            made,
            f"{mark} …" if mark else "…",
            round((self.judge(images) == pictures.STYLES.index("3d")).double().mean().item(), 3),
            round(float(kernel_samples(features, self.real, resamples=0)[0]), 2),
            round(self._tone(images), 4),
            round(self.limit, 4),
        )
        print(f"{made}, {row.words}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        return row

    def _tone(self, images: Sequence[Image.Image]) -> float:
        return float(tone_distance(unit_pixels(images), self.truths).mean())


def parts(images: Sequence[Image.Image]) -> Iterator[Sequence[Image.Image]]:
    for start in range(0, len(images), CHUNK):
        yield images[start : start + CHUNK]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=HERE / "model", help="a diffusers folder that train.py wrote")
    parser.add_argument("--every", type=int, default=1, help="take every so many of the validation symbols")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    config = load_config(HERE / "job.yaml")
    regime = Regime(load_backbone(str(arguments.model)), config.execution.batch, arguments.every)
    with torch.no_grad():
        errors = {style: regime.errors(shown, style) for style, shown in (("3d", regime.solid), ("flat", regime.flat))}
    rows = [*regime.rows(config.bridge)]
    if arguments.json:
        print(json.dumps({"symbols": len(regime.flat.ids), "error": errors, "rows": [*map(asdict, rows)]}, indent=2))
        return
    lines = table(["sigma", *errors["3d"]], [[style, *map(str, found.values())] for style, found in errors.items()])
    lines += ["", *table([*asdict(rows[0])], [[*map(str, asdict(row).values())] for row in rows])]
    print("\n".join(lines))


if __name__ == "__main__":
    try:
        main()
    except LsbError as error:
        sys.exit(f"error: {error}")
