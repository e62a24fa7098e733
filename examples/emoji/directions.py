"""From one style to another: the pictures of both, their prompts, and a translator between them."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

import pictures
from lsb.bridge.settings import BridgeSettings
from lsb.config.job import JobConfig
from lsb.models.load import load_backbone
from lsb.models.prompt import Prompt
from lsb.models.protocol import Backbone
from lsb.pictures.images import decode
from lsb.prompts.learning import LearnedPrompt, learn_prompt
from lsb.prompts.settings import LearningConfig
from lsb.records import record_id, sha256
from lsb.translation.translator import Translator

PERSON = frozenset({"man", "men", "male", "woman", "women", "female", "person", "people", "boy", "girl"})


@dataclass(frozen=True)
class Shown:
    """One style of one split, in the order of the record ids that the files have once they are unpacked."""

    ids: list[str]
    symbols: list[str]
    names: list[str]
    digests: list[str]
    images: list[Image.Image]

    def only(self, wanted: list[int]) -> Shown:
        return Shown(*([part[row] for row in wanted] for part in vars(self).values()))


@cache
def read(style: str, split: str, parquet: Path = pictures.PARQUET) -> Shown:
    table = pq.read_table(
        parquet, columns=["symbol", "name", "image"], filters=[("style", "=", style), ("split", "=", split)]
    ).to_pylist()
    rows = sorted((record_id(f"{row['symbol']}.webp"), row["symbol"], row["name"], row["image"]) for row in table)
    return Shown(
        ids=[row[0] for row in rows],
        symbols=[row[1] for row in rows],
        names=[row[2] for row in rows],
        digests=[sha256(row[3]) for row in rows],
        images=[decode(row[3])[0] for row in rows],
    )


def without_gender(name: str) -> str:
    """`woman firefighter` and `man firefighter` -> `firefighter`; a name of such words alone -> `person`."""
    words = [word for word in re.findall(r"[\w&]+", name.lower()) if word not in PERSON]
    return " ".join(words) or "person"


def strangers(shown: Shown) -> list[int]:
    """Rows whose symbol has no namesake of another gender, nor any other, among the train symbols."""
    known = {without_gender(name) for name in read("flat", "train").names}
    return [row for row, name in enumerate(shown.names) if without_gender(name) not in known]


def in_words(style: str, mark: str = pictures.RESTORED) -> Prompt:
    """A style's own words, by default as translations want them."""
    return Prompt(f"{mark} {pictures.STYLE_WORDS[style][0]}".strip())


class Prompts:
    """Each style's prompt, learned when first asked for, or its plain words."""

    def __init__(self, config: JobConfig, backbone: Backbone) -> None:
        self.config, self.backbone, self.seconds = config, backbone, 0.0
        self.learned: dict[str, LearnedPrompt] = {}

    def learn(self, style: str) -> Prompt:
        """As the job does: the job's token and initial words where it names the style, else of the same kind."""
        if style not in self.learned:
            wanted = {domain.domain: domain for domain in (self.config.prompts.source, self.config.prompts.target)}
            token, initial, vectors = f"<{style}>", pictures.STYLE_WORDS[style][0], 1
            if style in wanted:
                token, initial, vectors = wanted[style].token, wanted[style].initial, wanted[style].vectors
            learning = self.config.learning
            images = read(style, "train").images[: learning.max_images]
            started = time.monotonic()
            self.learned[style] = learn_prompt(
                self.backbone, images, token, initial, vectors, learning, self.config.seed
            )
            spent = time.monotonic() - started
            self.seconds += spent
            print(f"learned {token} from {len(images)} pictures in {spent:.0f} s", flush=True)
        return self.learned[style].prompt


@dataclass(frozen=True)
class Workshop:
    """What is the same for every direction: the job's settings, the model, the prompts."""

    config: JobConfig
    backbone: Backbone
    prompts: Prompts

    @classmethod
    def open(cls, config: JobConfig) -> Workshop:
        execution = config.execution
        backbone = load_backbone(config.model, device=execution.device, dtype=execution.dtype, **config.model_options)
        return cls(config, backbone, Prompts(config, backbone))

    def learning_between(self, low: float, high: float) -> Workshop:
        """The same with prompts that are learned between two sigmas."""
        return self.learning_by(self.config.learning.model_copy(update={"sigma_min": low, "sigma_max": high}))

    def learning_by(self, learning: LearningConfig) -> Workshop:
        """The same with prompts that are learned by other settings."""
        config = self.config.model_copy(update={"learning": learning})
        return Workshop(config, self.backbone, Prompts(config, self.backbone))

    def translator(self, source: str, target: str, settings: BridgeSettings, *, words: bool = False) -> Translator:
        """From style to style, with learned prompts or the styles' own words."""
        prompt = in_words if words else self.prompts.learn
        return Translator(
            self.backbone,
            prompt(source),
            prompt(target),
            settings=settings,
            seed=self.config.seed,
            batch=self.config.execution.batch,
        )
