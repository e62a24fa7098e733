"""What a job may say of its prompts, and of how they are learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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


class LearningConfig(Frozen):
    """How prompts are learned from images. Textual inversion: the new word's vectors are trained, nothing else."""

    steps: Count = Field(default=500, description="Training steps at most.")
    batch: Count = Field(default=8, description="Images in a training step.")
    learning_rate: float = Field(default=5e-3, gt=0, description="Step size of Adam, in units of the vectors.")
    templates: tuple[str, ...] = Field(
        default=("{token}", "a {token}", "a picture of {token}", "a picture in the style of {token}"),
        description="Texts around the new word, each with `{token}` in it. One is drawn for each step; the first is "
        "the prompt that is used.",
    )
    sigma_min: float = Field(
        default=0.3, gt=0, description="Smallest standard deviation of the noise, in units of the scaled latents."
    )
    sigma_max: float = Field(
        default=4.0,
        gt=0,
        description="Largest standard deviation of the noise, in the same units. At most the model's largest.",
    )
    validation_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="Fraction of the images that is held out, one at least."
    )
    validate_every: Count = Field(default=50, description="Steps from one look at the held-out images to the next.")
    patience: Count = Field(default=5, description="Looks without a better loss after which learning stops.")
    max_images: int = Field(default=1000, ge=2, le=10**9, description="Images that are learned from at most.")

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
        if self.sigma_min > self.sigma_max:
            raise ValueError(
                f"sigma_min {self.sigma_min:g} is above sigma_max {self.sigma_max:g}; noise is drawn between them"
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
