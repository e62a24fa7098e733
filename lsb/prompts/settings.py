"""What a job may say of its prompts, and of how they are learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import Field, model_validator

from lsb.fields import Count, Frozen, Location, Name
from lsb.pictures.geometry import Geometry

Side = Literal["source", "target"]
SIDES: tuple[Side, Side] = ("source", "target")


class DomainPrompt(Frozen):
    """How a look is named to the model: by exactly one of `text`, an embedding `file`, and `images` to learn from."""

    domain: Name | None = Field(
        default=None, description="The name under which the prompt is kept; left out, the source's domain, or `target`."
    )
    text: str | None = Field(default=None, description="The prompt itself, such as `a flat icon`.")
    file: Location | None = Field(
        default=None,
        description="An embedding that lsb learned, or a common `learned_embeds.safetensors`; a file or a URI.",
    )
    images: Location | None = Field(
        default=None,
        description="A folder of pictures to learn the prompt from, or an `s3://` URI.",
    )
    token: str = Field(
        default="<domain>",
        pattern=r"^<[a-z0-9-]+>$",
        description="The new word of what is learned, or of a file that names none.",
    )
    initial: str = Field(
        default="picture", description="A word or two that come near: the new word's vectors begin as theirs."
    )
    vectors: int = Field(default=1, ge=1, le=16, description="Vectors that take the new word's place.")
    prefix: str = Field(default="", description="A text that is put before the prompt as it is.")

    @model_validator(mode="after")
    def _one_origin(self) -> DomainPrompt:
        if sum(value is not None for value in (self.text, self.file, self.images)) != 1:
            raise ValueError("give exactly one of text, file, images")
        if self.text is not None and not self.text.strip():
            raise ValueError("text is empty; give some words")
        return self


FORWARDS_OF_A_STEP = 3  # of each picture
LARGEST = 8.0  # of the sigmas that prompts are learned at, where nothing is said
# What was learned with before these settings were there, or had another default.
_BEFORE: dict[str, Any] = {
    "learning_rate": 5e-3,
    "relative_rate": 0.04,
    "longest": None,
    "sigma_min": 0.3,
    "sigma_max": 4.0,
    "validation_draws": 16,
    "flip": False,
    "crops": 0,
}
_NEW = ("relative_rate", "longest", "validation_draws", "flip", "crops")


class LearningConfig(Frozen):
    """How prompts are learned from images. Textual inversion: the new word's vectors are trained, nothing else. What is
    not said counts as what the job's prompt was learned with, until `--refit`, as
    long as the prompt is not to be learned anew for what is said.
    """

    steps: Count = Field(default=500, description="Training steps at most.")
    batch: Count = Field(default=8, description="Images in a training step.")
    relative_rate: float = Field(
        default=0.04,
        gt=0,
        description="Step size of Adam, as a share of the standard deviation of the numbers in the model's embedding "
        "table.",
    )
    learning_rate: float | None = Field(
        default=None, gt=0, description="Step size of Adam in units of the vectors, instead of `relative_rate`."
    )
    longest: float | None = Field(
        default=2.0,
        gt=0,
        description="Length that the vectors may have, in lengths of the table's median word. One that grows beyond is "
        "shortened after each step; `null` lets it grow.",
    )
    templates: tuple[str, ...] = Field(
        default=("{token}", "a {token}", "a picture of {token}", "a picture in the style of {token}"),
        description="Texts around the new word, each with `{token}` in it. One is drawn for each step; the first is "
        "the prompt that is used.",
    )
    flip: bool = Field(
        default=False, description="Whether mirrored pictures are learned from as well. Not for writing or faces."
    )
    crops: int = Field(
        default=0,
        ge=0,
        le=16,
        description="Images cut out of each one, of 60 to 100 % of its sides, that are learned from as well.",
    )
    sigma_min: float | None = Field(
        default=None,
        gt=0,
        description="Smallest standard deviation of the noise, in units of the scaled latents. `null`: the largest of "
        "the paper's bridge for latents of this size, or more, where a wrong look's words hardly matter there.",
    )
    sigma_max: float | None = Field(
        default=None,
        gt=0,
        description="Largest standard deviation of the noise, in the same units. At most the model's largest, which "
        "`null` takes if it is below 8, else 8.",
    )
    validation_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="Fraction of the images that is held out, one at least."
    )
    validation_draws: Count = Field(
        default=32, description="Draws of noise, the same ones each time, in a look at the held-out images."
    )
    validate_every: Count = Field(default=50, description="Steps from one look at the held-out images to the next.")
    patience: Count = Field(default=5, description="Looks without a better loss after which learning stops.")
    max_images: int = Field(default=1000, ge=2, le=10**9, description="Images that are learned from at most.")

    @property
    def forwards(self) -> int:
        """Of the network, at most: a step goes forward and back, which costs about three."""
        looks = 1 + -(-self.steps // self.validate_every)
        return FORWARDS_OF_A_STEP * self.steps * self.batch + looks * self.validation_draws

    @property
    def trace(self) -> dict[str, Any]:
        """What stands in a recipe: all settings but those that came later and stand at what was done before."""
        settings = self.model_dump(mode="json")
        return {name: value for name, value in settings.items() if name not in _NEW or value != _BEFORE[name]}

    @property
    def as_before(self) -> LearningConfig:
        """What is not said at what it was before it could be said."""
        return self.model_copy(update={k: v for k, v in _BEFORE.items() if k not in self._said})

    @staticmethod
    def of_trace(trace: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that a recipe, or a run of any version, was learned with, by name."""
        return {**_BEFORE, **trace}

    def allows(self, learned: Mapping[str, Any]) -> bool:
        """Whether these settings say nothing else than what `of_trace` gave."""
        said = self.model_dump(mode="json", include=self._said)
        return all(learned.get(name) == value for name, value in said.items())

    @property
    def _said(self) -> set[str]:
        """Who names a `relative_rate` says with it that there is no `learning_rate` instead."""
        said = self.model_fields_set
        return said | {"learning_rate"} if "relative_rate" in said else said

    @model_validator(mode="after")
    def _templates_name_the_token(self) -> LearningConfig:
        for template in self.templates:
            if "{token}" not in template:
                raise ValueError(f"template {template!r} lacks {{token}}")
        if not self.templates:
            raise ValueError("at least one template is needed")
        return self

    @model_validator(mode="after")
    def _sigmas_in_order(self) -> LearningConfig:
        largest = LARGEST if self.sigma_max is None else self.sigma_max
        if self.sigma_min is not None and self.sigma_min > largest:
            raise ValueError(
                f"sigma_min {self.sigma_min:g} is above sigma_max {largest:g}; noise is drawn between them"
            )
        return self


@dataclass(frozen=True)
class PromptRequest:
    """What a job asks of one side's prompt: all that a learned one depends on beside model and pictures."""

    domain: str  # the name under which its prompts are kept
    wanted: DomainPrompt
    learning: LearningConfig
    seed: str
    dtype: str
    geometry: Geometry  # as pictures are seen, whatever comes out
    against: str = field(default="", compare=False)  # words for the other look, if there are any

    def is_that_of(self, before: PromptRequest) -> bool:
        """Whether an earlier request's prompt will do: settings of learning that are not said may be any."""
        learned = LearningConfig.of_trace(before.learning.model_dump(mode="json"))
        return replace(before, learning=self.learning) == self and self.learning.allows(learned)
