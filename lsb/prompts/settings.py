"""What a job may say of its prompts, and of how they are learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from lsb.fields import Count, Frozen, Location, Name

Side = Literal["source", "target"]
SIDES: tuple[Side, Side] = ("source", "target")


class DomainPrompt(Frozen):
    """How a domain is named to the model: plain `text`, an embedding `file`, or learned from `images`.

    `token` is the new word of what is learned, or of a file that names none.
    """

    domain: Name | None = None
    text: str | None = None
    file: Location | None = None
    images: Location | None = None
    token: str = Field(default="<domain>", pattern=r"^<[a-z0-9-]+>$")
    initial: str = "picture"
    vectors: int = Field(default=1, ge=1, le=16)
    prefix: str = ""

    @model_validator(mode="after")
    def _one_origin(self) -> DomainPrompt:
        if sum(value is not None for value in (self.text, self.file, self.images)) != 1:
            raise ValueError("give exactly one of text, file, images")
        return self


class LearningConfig(Frozen):
    """Textual inversion: the new token's vectors are trained, nothing else."""

    steps: Count = 500
    batch: Count = 8
    learning_rate: float = Field(default=5e-3, gt=0)
    templates: tuple[str, ...] = ("{token}", "a {token}", "a picture of {token}", "a picture in the style of {token}")
    sigma_min: float = Field(default=0.3, gt=0)
    sigma_max: float = Field(default=4.0, gt=0)
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    validate_every: Count = 50
    patience: Count = 5
    max_images: int = Field(default=1000, ge=2, le=10**9)

    @model_validator(mode="after")
    def _templates_name_the_token(self) -> LearningConfig:
        for template in self.templates:
            if "{token}" not in template:
                raise ValueError(f"template {template!r} lacks {{token}}")
        if not self.templates:
            raise ValueError("at least one template is needed")
        return self


@dataclass(frozen=True)
class PromptRequest:
    """What a job asks of one side's prompt."""

    domain: str  # the name under which its prompts are kept
    wanted: DomainPrompt
    learning: LearningConfig
    seed: str
    dtype: str
